"""A partner that speaks the contract and holds no data: its answers depend on its name, the round and the model alone.

Its site is the folder in the node config, or the folder in `workspace/sites` with its partition's number. The file
`users` of the site holds its public number of users, the file `leaves` a ledger that has no content, only hashes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from mmrec_model.activity import bucket_edges
from mmrec_model.collaboration.pairs import triangle_size
from mmrec_model.config import RunConfig
from mmrec_model.ladder import rungs_of
from mmrec_model.privacy.heads import Head, sign_growth, sign_head
from mmrec_model.privacy.keys import SigningKey
from mmrec_model.privacy.merkle import MerkleTree
from mmrec_model.privacy.witness import expected_deviation, witness_size
from mmrec_model.protocol import ACTIVITY, ARRAYS, COMPARED, FIELDS, PAIRS, PROTOCOL_VERSION, WITNESS, Kind

app = ClientApp()


def answer(message: Message, context: Context) -> Message:
    request = dict(message.content.config_records[FIELDS])
    site = own_site(context)
    users = int((site / "users").read_text())
    kind = message.metadata.message_type
    draw = np.random.default_rng([request["round"], *site.name.encode()])
    arrays: dict[str, np.ndarray] = {}
    if kind == Kind.POPULARITY:
        items = json.loads(request["plan"])["features"]["items"]
        arrays = {"counts": draw.poisson(np.arange(items) * users / 20).astype(np.float32)}
    elif kind == Kind.ACTIVITY:
        width = len(bucket_edges(json.loads(request["plan"])["privacy"]["popularity_cap"]))
        arrays = {ACTIVITY: (users / width + draw.normal(size=width)).astype(np.float32)}
    elif kind == Kind.PAIRS:
        items = json.loads(request["plan"])["collaboration"]["items"]
        arrays = {PAIRS: (20.0 + draw.normal(size=triangle_size(items))).astype(np.float32)}
    elif kind == Kind.COMPARE:
        rungs = len(rungs_of(RunConfig.model_validate_json(request["plan"])))
        arrays = {COMPARED: (users * np.append(draw.uniform(0.1, 0.9, size=rungs), 1.0)).astype(np.float32)}
    elif kind == Kind.TRAIN:
        state = {name: array.numpy() for name, array in message.content.array_records[ARRAYS].items()}
        del state["prior"]
        arrays = {
            name: (0.01 * draw.normal(size=array.shape) - 0.1 * array).astype(np.float32)
            for name, array in sorted(state.items())
        }
        config = RunConfig.model_validate_json(request["plan"])
        if size := witness_size(config):
            block = np.random.default_rng([request["round"], *site.name.encode(), 1]).normal(size=size)
            arrays[WITNESS] = (
                expected_deviation(config, users=users, clip=config.privacy.max_grad_norm) * block
            ).astype(np.float32)
    fields = {
        "partner": site.name,
        "run_id": request["run_id"],
        "round": request["round"],
        "kind": kind,
        "model_digest": request["model_digest"],
        "users": users,
        **shown(site, request),
        "refusal": "",
        "refusal_text": "",
        "protocol": PROTOCOL_VERSION,
    }
    record = ArrayRecord({name: Array(array) for name, array in arrays.items()})
    return Message(RecordDict({FIELDS: ConfigRecord(fields), ARRAYS: record}), reply_to=message)


def own_key(name: str) -> SigningKey:
    return SigningKey.from_seed(hashlib.sha256(name.encode()).digest())


def shown(site: Path, request: dict[str, object]) -> dict[str, str]:
    """One more leaf, and the head and its proof as the fields of a reply."""
    file, key = site / "leaves", own_key(site.name)
    leaves = file.read_text().split() if file.exists() else []
    leaves.append(hashlib.sha256(f"{site.name}/{len(leaves)}".encode()).hexdigest())
    file.write_text("\n".join(leaves))
    if request["known"]:
        nonce, size, _ = json.loads(str(request["known"]))[key.public.key_id]
    else:
        nonce, size = request["nonce"], json.loads(str(request["receipt"] or '{"size": 0}'))["size"]
    tree = MerkleTree(leaves)
    head = sign_head(site.name, Head(len(leaves), leaves[-1], tree.root()), nonce, key)
    growth = json.dumps(sign_growth(head, size, tree.consistency_proof(size), key).to_json())
    return {"ledger_head": leaves[-1], "head": json.dumps(head.to_json()), "growth": growth, "rotations": ""}


def own_site(context: Context) -> Path:
    if "site" in context.node_config:
        return Path(str(context.node_config["site"]))
    sites = sorted((Path(str(context.run_config["workspace"])) / "sites").iterdir())
    return sites[int(context.node_config["partition-id"])]


app.query("describe")(answer)
app.query("receipt")(answer)
app.train("activity")(answer)
app.train("popularity")(answer)
app.train("pairs")(answer)
app.query("scorer")(answer)
app.evaluate("compare")(answer)
app.train()(answer)
