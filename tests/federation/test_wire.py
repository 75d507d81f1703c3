"""What leaves a partner in a whole federation: every byte is recorded, and nothing but the contract is found.

The real coordinator and the real partners run over the loopback grid. Every message is serialised as Flower sends it.
What the partners know (users, histories, batches, gradients, losses, keys, places) is noted while they compute, and
then searched for in all these bytes.
"""

from __future__ import annotations

import getpass
import io
import json
import os
import re
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.common.serde import message_to_proto

from client import comparison, measurement, training
from client import lengths as client_lengths
from client import pairs as client_pairs
from client.app import app as client_app
from client.charge import RELEASES
from client.site import Site
from mmrec_model.activity import bucket_edges, chosen_cap
from mmrec_model.canonical import canonical_json
from mmrec_model.collaboration.estimate import select_items
from mmrec_model.collaboration.pairs import sum_pairs, triangle_size
from mmrec_model.config import ModelConfig, PrivacyConfig, RunConfig, TrainingConfig
from mmrec_model.config_ladder import CollaborationConfig, EvaluationConfig, GateConfig
from mmrec_model.data.writing import write_partner
from mmrec_model.features.folder import open_bundle, write_bundle
from mmrec_model.ladder import rungs_of
from mmrec_model.model.recommender import initial_state
from mmrec_model.planning import adaptive_clipping, plan_events
from mmrec_model.privacy.bodies import RecordType
from mmrec_model.privacy.events import from_record, merge
from mmrec_model.privacy.heads import SignedHead, growth_from_json, statement_from_json
from mmrec_model.privacy.keys import SigningKey
from mmrec_model.privacy.merkle import MerkleTree
from mmrec_model.privacy.noise import GaussianNoise
from mmrec_model.privacy.records import Record
from mmrec_model.privacy.witness import witness_size
from mmrec_model.protocol import (
    ACTIVITY,
    ARRAYS,
    CAP,
    CLIP,
    CLIP_SHARE,
    COMPARED,
    FIELDS,
    KEPT_TERMS,
    METRICS,
    PAIRS,
    PRIOR,
    SCORER,
    SELECTED,
    WITNESS,
    Arrays,
    Kind,
    Reply,
    arrays_digest,
    to_fields,
)
from server import collaboration
from server.app import coordinate
from simulations.loopback import LoopbackGrid
from simulations.workspace import Recipe, found

N_ITEMS, ROUNDS, SEED = 40, 3, 5_813_471_923
USERS = {"alpha": 911, "beta": 1013, "gamma": 1103}
PAIR_ITEMS = 15
FREE = {Kind.DESCRIBE, Kind.SCORER, Kind.RECEIPT}
SECRET = "SECRET"  # noqa: S105 - planted, to be searched for


@dataclass
class Known:
    """What the partners know and must not say."""

    batch_sizes: list[int] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    norms: list[np.ndarray] = field(default_factory=list)
    clipped_shares: list[float] = field(default_factory=list)
    true_shares: list[float] = field(default_factory=list)
    losses: list[np.ndarray] = field(default_factory=list)
    gradients: list[np.ndarray] = field(default_factory=list)
    histories: list[np.ndarray] = field(default_factory=list)
    counts: list[np.ndarray] = field(default_factory=list)
    metric_sums: list[np.ndarray] = field(default_factory=list)
    ranks: list[np.ndarray] = field(default_factory=list)
    buckets: list[np.ndarray] = field(default_factory=list)
    pair_sums: list[np.ndarray] = field(default_factory=list)
    triangles: list[np.ndarray] = field(default_factory=list)
    compared: list[np.ndarray] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)


@dataclass
class Tape:
    """One federation as the network saw it."""

    config: RunConfig
    sites: list[Site]
    known: Known
    messages: list[tuple[Message, Message]] = field(default_factory=list)
    sockets: list[str] = field(default_factory=list)
    written: list[tuple[Path, Path]] = field(default_factory=list)
    created: set[Path] = field(default_factory=set)

    @property
    def up(self) -> bytes:
        """Every byte that left a partner."""
        return b"".join(wire_bytes(reply) for _, reply in self.messages)

    @property
    def said(self) -> bytes:
        """Every field of every reply, whole numbers too, as text."""
        return "\n".join(json.dumps(dict(reply.content.config_records[FIELDS])) for _, reply in self.messages).encode()

    @property
    def down(self) -> bytes:
        """Every byte that the coordinator sent."""
        return b"".join(wire_bytes(request) for request, _ in self.messages)

    def priced(self, site: Site) -> list[tuple[Kind, Arrays]]:
        """Kind and arrays of the priced replies of one partner, in order."""
        found: list[tuple[Kind, Arrays]] = []
        for _, reply in self.messages:
            said = reply.content.config_records[FIELDS]
            kind = Kind(str(said["kind"]))
            if said["partner"] == site.config.name and kind not in FREE:
                found.append((kind, arrays_of(reply)))
        return found


def wire_bytes(message: Message) -> bytes:
    """A message as Flower serialises it, without the times and signatures of its transport."""
    sent = message_to_proto(message)
    # The transport's clock and its counter of messages: in them any small number may stand by chance.
    sent.metadata.created_at = sent.metadata.ttl = 0.0
    sent.metadata.message_id = sent.metadata.reply_to_message_id = ""
    return sent.SerializeToString(deterministic=True)  # type: ignore[no-any-return]


def arrays_of(message: Message) -> Arrays:
    return {name: array.numpy() for name, array in message.content.array_records[ARRAYS].items()}


def plan(workspace: Path, clipping: str) -> RunConfig:
    """With flat clipping no more than training needs, with adaptive clipping every release that a plan may have."""
    ladder = clipping == "adaptive"
    privacy = PrivacyConfig(
        epsilon=8.0, delta=1e-4, noise_multiplier=1.5, popularity_noise_multiplier=3.0, max_grad_norm=0.05,
        activity_quantile=0.5 if ladder else 0.0, activity_noise_multiplier=6.0 if ladder else 0.0,
    )  # fmt: skip
    return RunConfig(
        run_id="wire",
        seed=0,
        features=open_bundle(workspace / "features").spec,
        model=ModelConfig(hidden=4, trained_dims=6, collaboration_weight=0.3 if ladder else 0.0),
        training=TrainingConfig(
            rounds=ROUNDS, local_steps=2, max_history=4, negatives=3, sample_rate=0.3, micro_batch=512
        ),
        privacy=adaptive_clipping(privacy, expected_users=300.0) if clipping == "adaptive" else privacy,
        evaluation=EvaluationConfig(
            metrics=("ndcg_at_10", "recall_at_5", "mrr"), every=2, final=True, noise_multiplier=2.5
        ),
        collaboration=CollaborationConfig(items=PAIR_ITEMS, noise_multiplier=4.0) if ladder else CollaborationConfig(),
        gate=GateConfig(metric="ndcg_at_10", noise_multiplier=4.0) if ladder else GateConfig(),
        minimum_cohort=len(USERS),
    )


def interactions() -> pa.Table:
    rng = np.random.default_rng(3)
    rows = [
        (f"{SECRET}-USER-{name}-{user:04d}", f"{SECRET}-ITEM-{item:02d}", 1_600_000_000.0 + place)
        for name, users in USERS.items()
        for user in range(users)
        # every seventh user has no validation item: how many have one is no public number
        for place, item in enumerate(rng.choice(N_ITEMS, size=6 if user % 7 else 2, replace=False))
    ]
    names = ("user_id", "item_id", "timestamp")
    return pa.table({name: [row[column] for row in rows] for column, name in enumerate(names)})


def make_workspace(workspace: Path, clipping: str) -> tuple[RunConfig, list[Site]]:
    """A catalogue, its bundle, and three enrolled partners of different, public sizes."""
    ids = [f"{SECRET}-ITEM-{number:02d}" for number in range(N_ITEMS)]
    events, source = interactions(), workspace / f"{SECRET}-source"
    write_partner(source, interactions=events, items=pa.table({"item_id": ids, "title": ids, "text": ids}))
    vectors = np.random.default_rng(5).normal(size=(N_ITEMS, 10)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    present = np.ones((N_ITEMS, 1), dtype=bool)
    files = {"items.json": canonical_json(list(ids)), "present.npy": npy(present), "text.npy": npy(vectors)}
    write_bundle(workspace / "features", files, {"items": N_ITEMS, "modalities": {}})
    config = plan(workspace, clipping)
    (workspace / "plan.json").write_text(config.model_dump_json())
    users = sorted(set(events["user_id"].to_pylist()))
    groups = {name: [user for user in users if f"-{name}-" in user] for name in USERS}
    recipe = Recipe(source, workspace, 16.0, config.privacy.delta, SEED, config.training)
    return config, found(recipe, groups, config)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def spy(known: Known, patch: pytest.MonkeyPatch) -> None:
    """Note what the partners compute from their users on the way to a release."""
    sample, integer = GaussianNoise.poisson_sample, GaussianNoise.integer
    parts = vars(training)
    step, ways, loss = (parts[name] for name in ("private_step", "gradients_by_name", "user_loss"))

    def sampled(noise: GaussianNoise, *values: Any) -> Any:
        users = sample(noise, *values)
        known.batch_sizes.append(len(users))
        return users

    def drawn(noise: GaussianNoise) -> int:
        known.seeds.append(integer(noise))
        return known.seeds[-1]

    def stepped(*values: Any) -> Any:
        facts = step(*values)
        known.norms.append(facts.local.norms_B.double().numpy())
        known.clipped_shares.append(float((known.norms[-1] > facts.max_grad_norm).mean()) if facts.local.users else 0.0)
        known.true_shares.append(facts.local.centred_count(facts.max_grad_norm) / facts.divisor)
        return facts

    def lost(*values: Any, **named: Any) -> Any:
        losses = loss(*values, **named)
        known.losses.append(losses.detach().double().numpy())
        return losses

    def way(name: str) -> Any:
        gradients = ways(name)

        class Watched:
            name = gradients.name

            def clipped_sum(self, *values: Any) -> Any:
                result = gradients.clipped_sum(*values)
                known.gradients.extend(total.detach().numpy().copy() for total in result.sums)
                return result

        return Watched()

    vectors, ranks = (vars(measurement)[name] for name in ("user_vectors", "ranks"))

    def summed(*values: Any, **named: Any) -> Any:
        found = vectors(*values, **named)
        known.metric_sums.append(found.sum(axis=0))
        return found

    def ranked(*values: Any, **named: Any) -> Any:
        found = ranks(*values, **named)
        known.ranks.append(found.rank_U)
        return found

    patch.setattr(measurement, "user_vectors", summed)
    patch.setattr(measurement, "ranks", ranked)
    patch.setattr(GaussianNoise, "poisson_sample", sampled)
    patch.setattr(GaussianNoise, "integer", drawn)
    patch.setattr(training, "private_step", stepped)
    patch.setattr(training, "user_loss", lost)
    patch.setattr(training, "gradients_by_name", way)


def spy_ladder(known: Known, patch: pytest.MonkeyPatch) -> None:
    """The same of the releases of activity, pairs and rungs."""
    vectors, lengths = comparison.user_vectors, vars(client_lengths)["bucket_users"]

    def bucketed(*values: Any) -> Any:
        known.buckets.append(lengths(*values))
        return known.buckets[-1].copy()

    def paired(histories: Iterable[np.ndarray], *values: Any, **named: Any) -> Any:
        everyone = list(histories)
        known.triangles += [sum_pairs([history], *values, **named) for history in everyone]
        known.pair_sums.append(sum_pairs(everyone, *values, **named))
        return known.pair_sums[-1].copy()

    def compared(*values: Any, **named: Any) -> Any:
        known.compared.append(vectors(*values, **named))
        return known.compared[-1]

    patch.setattr(client_lengths, "bucket_users", bucketed)
    patch.setattr(client_pairs, "sum_pairs", paired)
    patch.setattr(comparison, "user_vectors", compared)


def note_secrets(known: Known, workspace: Path, sites: list[Site]) -> None:
    for site in sites:
        train = site.dataset.train
        known.histories += [train.items[a:b] for a, b in zip(train.offsets[:-1], train.offsets[1:], strict=True)]
        known.counts.append(np.bincount(train.items, minlength=N_ITEMS))
        for name in ("key.pem", "salt.bin", "policy.toml", "site.toml"):
            content = (site.root / name).read_bytes()
            known.texts += [content, content.hex().encode()]
    known.texts += [SECRET.encode(), str(workspace).encode(), workspace.name.encode(), str(SEED).encode()]
    known.texts += [str(Path(__file__).parents[2]).encode(), str(Path.home()).encode(), socket.gethostname().encode()]
    known.texts = [text for text in known.texts if len(text) > 5]


_watch: list[Callable[[str, tuple[Any, ...]], None]] = []


def _audit(event: str, values: tuple[Any, ...]) -> None:
    for watcher in _watch:
        watcher(event, values)


sys.addaudithook(_audit)
WRITING = {
    "os.rename": 1,
    "os.link": 1,
    "os.symlink": 1,
    "os.mkdir": 0,
    "os.remove": 0,
    "os.rmdir": 0,
    "os.truncate": 0,
}
CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
SENDING = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind", "socket.getaddrinfo", "subprocess.Popen"}


@contextmanager
def watched(tape: Tape, root: Path) -> Iterator[None]:
    """While a partner works: every connection it makes, every path it writes to."""

    def watcher(event: str, values: tuple[Any, ...]) -> None:
        if event in SENDING and not (event.startswith("socket") and values[0] and is_local(values[0])):
            tape.sockets.append(f"{event} {values!r:.200}")
        path = values[WRITING.get(event, 0)] if event in {"open", *WRITING} else None
        if isinstance(path, str | Path) and (event != "open" or (values[2] or 0) & CHANGES):
            tape.written.append((root, Path(path).absolute()))

    _watch.append(watcher)
    try:
        yield
    finally:
        _watch.remove(watcher)


def is_local(connection: object) -> bool:
    return isinstance(connection, socket.socket) and connection.family == socket.AF_UNIX


def tree(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


class Watching:
    """The real partner app; all that it does to the machine is noted."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape

    def __call__(self, message: Message, context: Context) -> Message:
        root = Path(str(context.node_config["site"]))
        outside = {path: state for path, state in tree(self._tape_root(root)).items() if not path.is_relative_to(root)}
        with watched(self._tape, root):
            reply = client_app(message, context)
        after = {path: state for path, state in tree(self._tape_root(root)).items() if not path.is_relative_to(root)}
        self._tape.created |= {path for path in {*outside, *after} if outside.get(path) != after.get(path)}
        return reply

    @staticmethod
    def _tape_root(root: Path) -> Path:
        return root.parents[1]


@pytest.fixture(scope="module", params=["flat", "adaptive"])
def tape(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tape:
    """A whole federation, recorded: one with flat clipping, one with adaptive clipping, pairs and a gate."""
    workspace = tmp_path_factory.mktemp(f"{SECRET}-place")
    config, sites = make_workspace(workspace, request.param)
    result = Tape(config, sites, Known())
    note_secrets(result.known, workspace, sites)
    with pytest.MonkeyPatch.context() as patch:
        spy(result.known, patch)
        spy_ladder(result.known, patch)
        patch.setattr(sys, "dont_write_bytecode", True)

        def record(request: Message, reply: Message) -> list[Message]:
            result.messages.append((request, reply))
            return [reply]

        roots = [site.root for site in sites]
        app: Any = Watching(result)
        grid = LoopbackGrid(app, roots, {"workspace": str(workspace)}, channel=record)
        coordinate(grid, workspace, initial_state)
    return result


def site_of(tape: Tape, partner: str) -> Site:
    return next(site for site in tape.sites if site.config.name == partner)


def records_of(site: Site) -> tuple[Record, ...]:
    with site.open_ledger() as ledger:
        return ledger.records


def has_ladder(tape: Tape) -> bool:
    return tape.config.collaboration.items > 0


def asked(tape: Tape, kind: Kind) -> list[Message]:
    return [request for request, _ in tape.messages if request.metadata.message_type == kind]


def answered(tape: Tape, kind: Kind) -> list[Message]:
    return [reply for request, reply in tape.messages if request.metadata.message_type == kind]


def test_the_recording_holds_a_whole_federation(tape: Tape) -> None:
    kinds = [Kind(request.metadata.message_type) for request, _ in tape.messages]
    activity = (Kind.ACTIVITY,) if has_ladder(tape) else ()
    first = (Kind.DESCRIBE, *activity, Kind.POPULARITY, *((Kind.PAIRS, Kind.SCORER) if has_ladder(tape) else ()))
    rounds = (Kind.TRAIN, Kind.TRAIN, Kind.EVALUATE, Kind.TRAIN)
    last_kinds = (*((Kind.COMPARE,) if has_ladder(tape) else ()), Kind.EVALUATE, Kind.RECEIPT)
    assert kinds == [kind for kind in (*first, *rounds, *last_kinds) for _ in USERS]
    last = [request for request, _ in tape.messages if request.metadata.message_type == Kind.EVALUATE][-3:]
    assert [int(request.content.config_records[FIELDS]["round"]) for request in last] == [4, 4, 4]
    assert not any(reply.has_error() for _, reply in tape.messages)
    assert all(reply.content.config_records[FIELDS]["refusal"] == "" for _, reply in tape.messages)
    known = tape.known
    assert len(known.batch_sizes) == len(known.norms) == len(USERS) * ROUNDS * tape.config.training.local_steps
    assert min(len(known.losses), len(known.gradients), len(known.seeds)) >= len(known.norms)
    compared = len(rungs_of(tape.config)) * len(USERS) if has_ladder(tape) else 0
    assert len(known.metric_sums) == len(known.ranks) - compared == 2 * len(USERS)
    assert len(known.compared) == compared
    assert len(known.buckets) == (len(USERS) if has_ladder(tape) else 0)
    assert len(known.pair_sums) == (len(USERS) if has_ladder(tape) else 0)


def schema(kind: Kind, config: RunConfig) -> dict[str, tuple[int, ...]]:
    """The arrays that a reply of a kind may hold, from the contract and the model."""
    if kind in FREE:
        return {}
    fixed = {
        Kind.ACTIVITY: {ACTIVITY: (len(bucket_edges(config.privacy.popularity_cap)),)},
        Kind.POPULARITY: {"counts": (config.features.items,)},
        Kind.EVALUATE: {METRICS: (len(config.evaluation.metrics) + 1,)},
        Kind.PAIRS: {PAIRS: (triangle_size(PAIR_ITEMS),)},
        Kind.COMPARE: {COMPARED: (len(rungs_of(config)) + 1,)},
    }
    if kind in fixed:
        return fixed[kind]
    witness = {WITNESS: (witness_size(config),)} if witness_size(config) else {}
    share = {CLIP_SHARE: (1,)} if config.privacy.clipping == "adaptive" else {}
    return {name: array.shape for name, array in initial_state(config).items()} | witness | share


def test_every_reply_is_the_contracts_fields_and_arrays_of_the_exact_shapes_and_not_one_byte_more(tape: Tape) -> None:
    for request, reply in tape.messages:
        content = reply.content
        assert set(content) == {FIELDS, ARRAYS}
        assert set(content.config_records[FIELDS]) == {item.name for item in fields(Reply)}
        arrays = arrays_of(reply)
        kind = Kind(request.metadata.message_type)
        assert {name: array.shape for name, array in arrays.items()} == schema(kind, tape.config)
        assert {array.dtype for array in arrays.values()} <= {np.dtype("<f4")}
        said = Reply(**content.config_records[FIELDS])  # type: ignore[arg-type]
        record = ArrayRecord({name: Array(np.ascontiguousarray(arrays[name])) for name in sorted(arrays)})
        rebuilt = Message(RecordDict({FIELDS: ConfigRecord(dict(to_fields(said))), ARRAYS: record}), reply_to=request)
        rebuilt.metadata.__dict__.update(reply.metadata.__dict__)
        assert wire_bytes(rebuilt) == wire_bytes(reply)


def test_a_training_request_carries_the_trained_arrays_the_prior_and_the_clip_if_it_adapts(tape: Tape) -> None:
    adaptive = tape.config.privacy.clipping == "adaptive"
    beside = {PRIOR: (N_ITEMS,), **({CLIP: (1,)} if adaptive else {})}
    shapes = {name: array.shape for name, array in initial_state(tape.config).items()} | beside
    trained = asked(tape, Kind.TRAIN)
    assert [{name: array.shape for name, array in arrays_of(one).items()} for one in trained] == [shapes] * len(trained)
    clips = {float(arrays_of(one)[CLIP][0]) for one in trained if adaptive}
    assert len(clips) == (ROUNDS if adaptive else 0), "the clip moves in every round"


def test_the_cap_that_the_partners_get_is_made_of_the_activity_that_they_released(tape: Tape) -> None:
    released = [arrays_of(reply)[ACTIVITY].astype(np.float64) for reply in answered(tape, Kind.ACTIVITY)]
    caps = [arrays_of(request) for request in asked(tape, Kind.POPULARITY)]
    if not has_ladder(tape):
        assert released == []
        assert caps == [{}] * len(USERS)
        return
    noise = 6.0 * np.sqrt(len(USERS))
    expected = chosen_cap(np.sum(released, axis=0), tape.config.privacy, noise=float(noise))
    assert expected < tape.config.privacy.popularity_cap, "histories are shorter than the plan's cap"
    assert [{name: float(array[0]) for name, array in one.items()} for one in caps] == [{CAP: expected}] * len(USERS)


def test_no_number_of_users_of_a_length_before_the_noise_is_in_any_byte(tape: Tape) -> None:
    content = tape.up
    for counts in tape.known.buckets:
        assert not any(form in content for form in pairs(counts[counts > 0.0]))
        assert leaks(content, [float(count) for count in counts if count > 100.0], tape.said) == []
    released = [arrays_of(reply)[ACTIVITY] for reply in answered(tape, Kind.ACTIVITY)]
    noise = np.array([given - exact for given, exact in zip(released, tape.known.buckets, strict=True)])
    # 27 numbers of deviation 6
    assert noise.size == 0 or 3.5 < noise.std() < 9.0


def test_no_figure_of_whom_a_bound_cut_is_in_any_byte(tape: Tape) -> None:
    content = tape.up
    for site in tape.sites:
        cuts = [entry["cut"] for entry in site.noted() if "cut" in entry]
        assert len(cuts) == (2 if has_ladder(tape) else 1) + ROUNDS
        assert any(sum(one["cut"]) for one in cuts), "the clip is tight"
        for figures in (one[name] for one in cuts for name in ("users", "cut") if sum(one[name])):
            assert json.dumps(figures).encode() not in content
            for dtype in ("<i4", "<i8", "<f4", "<f8"):
                assert np.array(figures, dtype).tobytes() not in content
    assert b'"cut"' not in content


def test_the_scorer_that_the_partners_get_is_made_of_what_they_released_and_of_nothing_else(tape: Tape) -> None:
    workspace = tape.sites[0].root.parents[1]
    counted = [arrays_of(request) for request in asked(tape, Kind.PAIRS)]
    sent = [arrays_of(request) for request in asked(tape, Kind.SCORER)]
    if not has_ladder(tape):
        assert counted == sent == []
        return
    prior = arrays_of(asked(tape, Kind.TRAIN)[0])[PRIOR]
    selected = {SELECTED: select_items(prior, PAIR_ITEMS).astype(np.float32)}
    assert [arrays_digest(arrays) for arrays in counted] == [arrays_digest(selected)] * len(USERS)
    replies = {str(reply.content.config_records[FIELDS]["partner"]): reply for reply in answered(tape, Kind.PAIRS)}
    released = np.sum([arrays_of(replies[name])[PAIRS].astype(np.float64) for name in sorted(USERS)], axis=0)
    noise = 4.0 * np.sqrt(len(USERS))
    scorer, _ = collaboration.make_scorer(tape.config, workspace / "features", selected, released, noise, prior)
    assert set(scorer) == {SCORER, SELECTED}
    assert [arrays_digest(arrays) for arrays in sent] == [arrays_digest(scorer)] * len(USERS)
    for request in (*asked(tape, Kind.TRAIN), *asked(tape, Kind.COMPARE), *asked(tape, Kind.EVALUATE)):
        assert request.content.config_records[FIELDS]["scorer"] == arrays_digest(scorer), "by its digest alone"
        assert not {SCORER, SELECTED} & set(arrays_of(request))


def test_what_is_evaluated_at_the_end_is_what_the_gate_has_left(tape: Tape) -> None:
    kept = [KEPT_TERMS in arrays_of(request) for request in asked(tape, Kind.EVALUATE)]
    assert kept == [False] * len(USERS) + [has_ladder(tape)] * len(USERS)
    assert not any(KEPT_TERMS in arrays_of(request) for request in asked(tape, Kind.COMPARE))


def test_every_field_of_a_reply_is_an_echo_a_public_fact_or_a_word_of_the_ledger(tape: Tape) -> None:
    echoes = {"run_id", "round", "model_digest", "protocol"}
    for request, reply in tape.messages:
        said, asked = reply.content.config_records[FIELDS], request.content.config_records[FIELDS]
        site = site_of(tape, str(said["partner"]))
        hashes = {record.hash for record in records_of(site)}
        for name, value in said.items():
            if name in echoes:
                assert value == asked[name], name
            elif name in {"refusal", "refusal_text", "rotations"}:
                assert value == ""
            elif name == "kind":
                assert value == request.metadata.message_type
            elif name == "users":
                assert value == USERS[site.config.name]
            elif name == "ledger_head":
                assert value in hashes
            elif name == "head":
                assert_signed_head(str(value), site, str(said["ledger_head"]))
            elif name == "growth":
                assert_signed_growth(str(value), str(said["head"]), site)
            else:
                assert name == "partner", f"{name} is new: state here what it may hold"


def assert_signed_head(text: str, site: Site, ledger_head: str) -> None:
    """An Ed25519 signature is determined by what it signs, so a true one has no room for anything else."""
    head = statement_from_json(SignedHead, json.loads(text))
    assert canonical_json(head.to_json()).decode() == text
    assert (head.partner, head.hash) == (site.config.name, ledger_head)
    assert head.is_signed_by(SigningKey.load(site.root / "key.pem").public)


def assert_signed_growth(text: str, head: str, site: Site) -> None:
    """The nodes are of the ledger's own tree, and the signature has no room for anything else."""
    growth = growth_from_json(json.loads(text))
    shown = statement_from_json(SignedHead, json.loads(head))
    assert canonical_json(growth.to_json()).decode() == text
    assert growth.is_signed_by(SigningKey.load(site.root / "key.pem").public, shown)
    tree = MerkleTree([record.hash for record in records_of(site)[: shown.size]])
    assert growth.nodes == tree.consistency_proof(growth.since)


def leaks(content: bytes, numbers: Iterable[float], said: bytes | None = None) -> list[float]:
    """Which numbers occur, as text that stands alone or as binary numbers of 4 or 8 bytes.

    With `said` the text is searched there: three digits stand somewhere in the noise of many arrays by chance.
    """
    found = []
    for number in numbers:
        whole = float(number).is_integer()
        forms = [struct.pack(f"{order}{code}", number) for order in "<>" for code in "fd"]
        if whole:
            forms += [struct.pack(f"{order}q", int(number)) for order in "<>"]
            forms += [struct.pack(f"{order}i", int(number)) for order in "<>" if abs(number) < 2**31]
        texts = {str(int(number))} if whole else {repr(float(number)), repr(float(np.float32(number)))}
        alone = re.compile(
            rb"(?<![0-9A-Za-z.])(?:" + b"|".join(re.escape(t.encode()) for t in texts) + rb")(?![0-9A-Za-z.])"
        )
        if any(form in content for form in forms) or alone.search(content if said is None else said):
            found.append(number)
    return found


def pairs(values: np.ndarray) -> list[bytes]:
    """Neighbouring numbers, as 8 bytes of float32 or one float64: what random bytes do not hold."""
    singles = [value.tobytes() for value in values.astype("<f8")]
    return singles + [values.astype("<f4")[place : place + 2].tobytes() for place in range(0, len(values) - 1, 2)]


def test_no_realised_batch_size_seed_or_clipped_share_is_in_any_byte(tape: Tape) -> None:
    known = tape.known
    assert min(known.batch_sizes) > 200
    assert leaks(tape.up, sorted(set(known.batch_sizes)), tape.said) == []
    assert leaks(tape.up, [SEED, *known.seeds]) == []
    shares = sorted({share for share in known.clipped_shares if 0.0 < share < 1.0})
    assert shares
    assert leaks(tape.up, shares) == []
    steps = known.true_shares
    of_rounds = [(one + two) / 2 for one, two in zip(steps[::2], steps[1::2], strict=True)]
    assert leaks(tape.up, sorted({share for share in (*steps, *of_rounds) if not share.is_integer()})) == []


def test_no_loss_norm_or_gradient_before_the_noise_is_in_any_byte(tape: Tape) -> None:
    known, content = tape.known, tape.up
    means = [float(values.mean()) for values in (*known.losses, *known.norms)]
    assert leaks(content, means) == []
    for values in (*known.losses, *known.norms):
        assert not any(form in content for form in pairs(values))
    for gradient in known.gradients:
        flat = gradient.ravel()[gradient.ravel() != 0.0]
        assert not any(form in content for form in pairs(flat))


def test_no_metric_before_the_noise_no_rank_and_no_number_of_evaluated_users_is_in_any_byte(tape: Tape) -> None:
    content = tape.up
    for sums in tape.known.metric_sums:
        *totals, evaluated = (float(value) for value in sums)
        assert evaluated not in USERS.values()
        # a small whole total is a common number; with its neighbour it is not
        exact = [total for total in totals if not total.is_integer()]
        assert leaks(content, [evaluated, *exact, *(total / evaluated for total in totals)], tape.said) == []
        assert not any(form in content for form in pairs(sums))
    for ranked in tape.known.ranks:
        for dtype in ("<i2", "<i4", "<i8", "<f4", "<f8"):
            assert ranked.astype(dtype)[:8].tobytes() not in content
    noise = [
        arrays[METRICS] - sums
        for sums, arrays in zip(
            tape.known.metric_sums,
            (arrays_of(reply) for request, reply in tape.messages if request.metadata.message_type == Kind.EVALUATE),
            strict=True,
        )
    ]
    # 24 numbers of deviation 2.5 sqrt(4) = 5
    assert 3.0 < np.std(noise) < 7.5


def test_no_users_pairs_and_no_sum_of_pairs_before_the_noise_is_in_any_byte(tape: Tape) -> None:
    content = tape.up
    for total in tape.known.pair_sums:
        flat = total[total != 0.0]
        assert flat.size > 50
        assert not any(form in content for form in pairs(flat))
    for triangle in {triangle.tobytes() for triangle in tape.known.triangles[::7]}:
        own = np.frombuffer(triangle)
        assert own.astype("<f4").tobytes() not in content
        assert triangle not in content
    released = [arrays_of(reply)[PAIRS] for reply in answered(tape, Kind.PAIRS)]
    noise = np.array([given - exact for given, exact in zip(released, tape.known.pair_sums, strict=True)])
    # 360 numbers of deviation 4 are known to 4 %
    assert noise.size == 0 or 3.2 < noise.std() < 4.8


def test_no_rungs_score_before_the_noise_is_in_any_byte(tape: Tape) -> None:
    content, rungs = tape.up, len(rungs_of(tape.config))
    partners = [tape.known.compared[at : at + rungs] for at in range(0, len(tape.known.compared), rungs)]
    released = [arrays_of(reply)[COMPARED] for reply in answered(tape, Kind.COMPARE)]
    noise = []
    for own, given in zip(partners, released, strict=True):
        sums = np.array([*(vectors[:, 0].sum() for vectors in own), own[0][:, 1].sum()])
        exact = [float(total) for total in sums[:-1] if not float(total).is_integer()]
        assert leaks(content, [*exact, *(total / float(sums[-1]) for total in exact)]) == []
        assert not any(form in content for form in pairs(sums))
        noise += list(given - sums)
    # 21 numbers of deviation 4 sqrt(7) = 10.6
    assert not noise or 6.0 < np.std(noise) < 16.0


def test_no_history_and_no_true_count_is_in_any_byte(tape: Tape) -> None:
    content = tape.up
    for dtype in ("<i4", "<i8", "<f4", "<f8", "u1"):
        for counts in tape.known.counts:
            assert counts.astype(dtype)[:8].tobytes() not in content or dtype == "u1"
        if dtype != "u1":
            histories = {history.astype(dtype).tobytes() for history in tape.known.histories if len(history) >= 3}
            assert not any(history in content for history in histories)


def test_no_name_key_or_place_of_a_partner_is_in_any_byte_of_either_direction(tape: Tape) -> None:
    for text in tape.known.texts:
        assert text not in tape.up, text[:40]
        assert text not in tape.down, text[:40]


@pytest.mark.parametrize(
    "planted",
    [
        b"at SECRET-USER-alpha-0001 now",
        b'{"batch": 300}',
        struct.pack("<f", 300.0),
        struct.pack("<q", 300),
        b"loss 0.123456789",
        struct.pack("<f", 0.123456789),
        struct.pack(">d", 0.123456789),
    ],
)
def test_the_search_finds_what_is_planted(planted: bytes) -> None:
    noise = np.random.default_rng(1).bytes(100)
    content = noise + planted + noise
    assert leaks(content, [300, 0.123456789]) or SECRET.encode() in content
    assert leaks(noise, [300, 0.123456789]) == []


def test_every_array_that_left_was_reserved_before_and_committed_with_its_digest(tape: Tape) -> None:
    priced = 0
    for site in tape.sites:
        records = records_of(site)
        place = {record.hash: number for number, record in enumerate(records)}
        reserves = {record.hash: record for record in records if record.type == RecordType.RESERVE}
        commits = [record for record in records if record.type == RecordType.COMMIT]
        replies = tape.priced(site)
        priced += len(replies)
        assert [record.text("update_digest") for record in commits] == [arrays_digest(arrays) for _, arrays in replies]
        assert len({record.text("reserve") for record in commits}) == len(commits) == len(reserves)
        for commit, (kind, _) in zip(commits, replies, strict=True):
            reserve = reserves[commit.text("reserve")]
            assert place[reserve.hash] < place[commit.hash]
            assert reserve.table("mechanism") == commit.table("mechanism")
            assert reserve.text("kind") == RELEASES[kind]
        with site.open_ledger() as ledger:
            assert ledger.dangling() == []
            assert len(ledger.spent()) == len(replies)
            assert merge(map(from_record, ledger.spent())) == merge(plan_events(tape.config))
    assert priced == len(USERS) * (1 + ROUNDS + 2 + (3 if has_ladder(tape) else 0))


def test_every_ledger_ends_with_the_countersignature_of_all_that_was_charged(tape: Tape) -> None:
    for site in tape.sites:
        *before, last = records_of(site)
        assert last.type == RecordType.COUNTERSIGN
        assert last.whole("size") == len(before)
        assert before[-1].type == RecordType.COMMIT


def test_the_partners_open_no_connection(tape: Tape) -> None:
    assert tape.sockets == []


def test_a_partner_writes_inside_its_own_folder_alone(tape: Tape) -> None:
    assert {root for root, _ in tape.written} == {site.root for site in tape.sites}
    # torch makes an empty cache folder of its own when it is used for the first time in a process
    cache = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"
    assert {path for root, path in tape.written if not path.is_relative_to(root)} <= {cache}
    assert tape.created == set()


def test_a_connection_and_a_file_elsewhere_are_noticed(tape: Tape, tmp_path: Path) -> None:
    seen = Tape(tape.config, [], Known())
    with watched(seen, tmp_path / "site"), socket.socket() as outward:
        outward.settimeout(0.1)
        with pytest.raises(OSError):  # noqa: PT011 - any
            outward.connect(("127.0.0.1", 9))
        (tmp_path / "elsewhere").write_text("x")
    assert len(seen.sockets) == 1
    assert [path for root, path in seen.written if not path.is_relative_to(root)] == [tmp_path / "elsewhere"]
