"""A partner that speaks the contract and holds no data: its answers depend on its name, the round and the model alone.

Its site is the folder in the node config, or the folder in `workspace/sites` with its partition's number. The file
`users` of the site holds its public number of users.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from mmrec_model.protocol import ARRAYS, FIELDS, PROTOCOL_VERSION, Kind

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
    elif kind == Kind.TRAIN:
        state = {name: array.numpy() for name, array in message.content.array_records[ARRAYS].items()}
        del state["prior"]
        arrays = {
            name: (0.01 * draw.normal(size=array.shape) - 0.1 * array).astype(np.float32)
            for name, array in sorted(state.items())
        }
    fields = {
        "partner": site.name,
        "run_id": request["run_id"],
        "round": request["round"],
        "kind": kind,
        "model_digest": request["model_digest"],
        "users": users,
        "ledger_head": f"head-{site.name}-{request['round']}",
        "refusal": "",
        "refusal_text": "",
        "protocol": PROTOCOL_VERSION,
    }
    record = ArrayRecord({name: Array(array) for name, array in arrays.items()})
    return Message(RecordDict({FIELDS: ConfigRecord(fields), ARRAYS: record}), reply_to=message)


def own_site(context: Context) -> Path:
    if "site" in context.node_config:
        return Path(str(context.node_config["site"]))
    sites = sorted((Path(str(context.run_config["workspace"])) / "sites").iterdir())
    return sites[int(context.node_config["partition-id"])]


app.query("describe")(answer)
app.train("popularity")(answer)
app.train()(answer)
