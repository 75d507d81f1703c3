"""A refusal leaves as a code and fixed words: none depends on the users, the keys or the place of the partner.

Each refusal is provoked at two partners that look the same from outside and differ in everything inside. Their files
are full of marked text, some of it where it breaks things; what the network sees must be the same words twice.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from flwr.app import Array, ConfigRecord, Message, RecordDict
from flwr.common.serde import message_to_proto

from client import release
from client.app import app as client_app
from client.policy import Policy, read_policy
from client.shared_parts import shared_bundle, shared_catalogue, shared_items
from client.site import Site
from mmrec_model.config import RunConfig
from mmrec_model.config_ladder import CollaborationConfig, EvaluationConfig, GateConfig
from mmrec_model.data.writing import write_partner
from mmrec_model.errors import BudgetExhausted
from mmrec_model.model.recommender import initial_state
from mmrec_model.planning import training_event
from mmrec_model.privacy.events import to_record
from mmrec_model.protocol import ARRAYS, FIELDS, Kind, Reply, Request, arrays_digest, state_digest
from server.messages import pack
from simulations.loopback import LoopbackGrid
from simulations.small_site import SmallSites, make_small_sites

SECRET = "SECRET"  # noqa: S105 - planted, to be searched for


def wire_bytes(message: Message) -> bytes:
    """A message as Flower serialises it."""
    return message_to_proto(message).SerializeToString(deterministic=True)  # type: ignore[no-any-return]


Ask = Callable[[RunConfig], tuple[Kind, RecordDict]]
Spoil = Callable[[Path], None]


def train_request(config: RunConfig, *, number: int = 1, **changes: Any) -> tuple[Kind, RecordDict]:
    """A well-formed request, with changed fields."""
    state = initial_state(config) | {"prior": np.zeros(config.features.items, np.float32)}
    values = {"run_id": config.run_id, "round": number, "plan": config.model_dump_json()}
    return Kind.TRAIN, pack(Request(**{**values, "model_digest": arrays_digest(state), **changes}), state)


def other(part: str, **values: object) -> Ask:
    """A request of another plan."""

    def ask(config: RunConfig) -> tuple[Kind, RecordDict]:
        changed = getattr(config, part).model_copy(update=values)
        return train_request(config.model_copy(update={part: changed}))

    return ask


def metrics_request(config: RunConfig) -> tuple[Kind, RecordDict]:
    evaluation = EvaluationConfig(metrics=("mrr",), every=1, noise_multiplier=2.0)
    asked = config.model_copy(update={"evaluation": evaluation})
    _, content = train_request(asked)
    return Kind.EVALUATE, content


def laddered(config: RunConfig, history: int = 4) -> RunConfig:
    """The same plan with pairs of 5 items and a gate."""
    parts = {
        "model": config.model.model_copy(update={"collaboration_weight": 0.3}),
        "collaboration": CollaborationConfig(items=5, history=history, noise_multiplier=50.0),
        "gate": GateConfig(metric="mrr", noise_multiplier=50.0),
    }
    return config.model_copy(update=parts)


def ladder_request(kind: Kind, *, plain: bool = False, items: int = 5, history: int = 4, **changes: Any) -> Ask:
    """PAIRS, SCORER or COMPARE of that plan, or `plain`ly of one without such a release; with changed fields."""

    def ask(config: RunConfig) -> tuple[Kind, RecordDict]:
        asked = config if plain else laddered(config, history)
        selected = np.arange(items, dtype=np.float32)
        state, number = {"selected": selected}, 0
        if kind is Kind.SCORER:
            state["scorer"] = np.ones((items, items), np.float32)
        if kind is Kind.COMPARE:
            state = initial_state(asked) | {"prior": np.zeros(asked.features.items, np.float32)}
            number = asked.training.rounds + 1
        named = state_digest(state, str(changes.get("scorer", "")))
        values = {"run_id": asked.run_id, "round": number, "plan": asked.model_dump_json(), "model_digest": named}
        return kind, pack(Request(**{**values, **changes}), state)

    return ask


def scorer_answered(root: Path) -> None:
    """The site has a scorer, and damage came over it."""
    config, site = laddered(the_plan(root)), Site.open(root)
    state = {"selected": np.arange(5, dtype=np.float32), "scorer": np.ones((5, 5), np.float32)}
    request = Request(config.run_id, 0, config.model_dump_json(), arrays_digest(state))
    assert release.answer(site, Kind.SCORER, request, state).reply.refusal == ""
    filled("inbox/scorer.safetensors")(root)


def scorer_of_damaged_site() -> Ask:
    state = {"selected": np.arange(5, dtype=np.float32), "scorer": np.ones((5, 5), np.float32)}
    return ladder_request(Kind.COMPARE, scorer=arrays_digest(state))


def bare(config: RunConfig) -> tuple[Kind, RecordDict]:
    silent = {"mechanism": "none", "epsilon": None, "noise_multiplier": 0.0, "popularity_noise_multiplier": 0.0}
    return other("privacy", **silent)(config)


def with_record(config: RunConfig) -> tuple[Kind, RecordDict]:
    kind, content = train_request(config)
    content["more"] = ConfigRecord({})
    return kind, content


def with_doubles(config: RunConfig) -> tuple[Kind, RecordDict]:
    kind, content = train_request(config)
    content.array_records[ARRAYS]["prior"] = Array(np.zeros(config.features.items))
    return kind, content


def without_field(config: RunConfig) -> tuple[Kind, RecordDict]:
    kind, content = train_request(config)
    del content.config_records[FIELDS]["plan"]
    return kind, content


def other_digest(config: RunConfig) -> tuple[Kind, RecordDict]:
    return train_request(config, model_digest="0" * 64)


def nothing(_: Path) -> None:
    """Leave the site as it is."""


def policy_of(**values: object) -> Spoil:
    def spoil(root: Path) -> None:
        strict = read_policy(root / "policy.toml").model_dump(mode="json") | values
        Policy.model_validate_json(json.dumps(strict))
        (root / "policy.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in strict.items()))

    return spoil


def filled(name: str) -> Spoil:
    """Put a damaged file, full of what must not be said, in the place of `name`."""

    def spoil(root: Path) -> None:
        path = (root / name).resolve()
        path.write_bytes(b"\xff" + f"PAR1 = [{SECRET} {root}\n".encode() * 20)

    return spoil


def damaged_public(part: str, name: str) -> Spoil:
    """Give the site a copy of a public folder of its own, and damage a file of it."""

    def spoil(root: Path) -> None:
        public = root.parents[1] / part
        shutil.copytree(public, root / part)
        settings = root / "site.toml"
        settings.write_text(settings.read_text().replace(str(public), str(root / part)))
        filled(f"{part}/{name}")(root)

    return spoil


def gone(name: str) -> Spoil:
    return lambda root: (root / name).unlink()


def as_folder(name: str) -> Spoil:
    def spoil(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        (root / name / SECRET).mkdir(parents=True)

    return spoil


def as_file(name: str) -> Spoil:
    def spoil(root: Path) -> None:
        (root / name).write_text(SECRET)

    return spoil


def fewer_users(root: Path) -> None:
    rows = pq.read_table(root / "data" / "interactions.parquet")
    write_partner(root / "data", interactions=rows.slice(0, 100))


def rolled_back(root: Path) -> None:
    (root / "ledger.jsonl").write_bytes(first_line(root))
    answered_once(root)
    (root / "ledger.jsonl").write_bytes(first_line(root))


def first_line(root: Path) -> bytes:
    return (root / "ledger.jsonl").read_bytes().splitlines(keepends=True)[0]


def edited(root: Path) -> None:
    content = first_line(root).replace(b'"users":30', b'"users":31')
    (root / "ledger.jsonl").write_bytes(content)


def answered_once(root: Path) -> None:
    site = Site.open(root)
    config = the_plan(root)
    assert release.answer(site, Kind.POPULARITY, Request(config.run_id, 0, config.model_dump_json()), {}).arrays


def other_state_answered(root: Path) -> None:
    config, site = the_plan(root), Site.open(root)
    state = initial_state(config) | {"prior": np.ones(config.features.items, np.float32)}
    request = Request(config.run_id, 1, config.model_dump_json(), arrays_digest(state))
    assert release.answer(site, Kind.TRAIN, request, state).arrays


def spent_up(root: Path) -> None:
    """What is left of the budget goes into lost attempts of another round."""
    config, bound = the_plan(root), 1.0
    event = to_record(training_event(config.privacy, config.training, rounds=1))
    answered_once(root)
    with Site.open(root).open_ledger() as ledger, contextlib.suppress(BudgetExhausted):
        while True:
            ledger.reserve(run_id=config.run_id, round_number=2, kind="train", mechanism=event, sensitivity=bound)


def the_plan(root: Path) -> RunConfig:
    return RunConfig.model_validate_json((root.parents[1] / "plan.json").read_text())


REFUSALS: dict[str, tuple[str, Spoil, Ask]] = {
    "no noise": ("privacy-off", nothing, bare),
    "other features": ("features", nothing, other("features", digest="0" * 64)),
    "delta": ("delta", nothing, other("privacy", delta=0.01)),
    "rounds": ("rounds", nothing, other("training", rounds=501)),
    "steps": ("steps", nothing, other("training", local_steps=1000)),
    "clip": ("clip", nothing, other("privacy", max_grad_norm=11.0)),
    "sample rate": ("sample-rate", nothing, other("training", sample_rate=0.9)),
    "history": ("history", nothing, other("training", max_history=65)),
    "popularity cap": ("popularity-cap", nothing, other("privacy", popularity_cap=65)),
    "weights": ("trained-weights", policy_of(max_trained_weights=3), train_request),
    "few users": ("users", policy_of(minimum_users=1000), train_request),
    "delta and users": ("delta-users", policy_of(max_delta=0.9), other("privacy", delta=0.5)),
    "cohort": ("cohort", policy_of(minimum_cohort=7), train_request),
    "not allowed": ("release", policy_of(allowed_releases=["popularity"]), train_request),
    "metrics": ("metrics", nothing, metrics_request),
    "metrics with little noise": (
        "metric-noise",
        policy_of(allowed_metrics=["mrr"], min_metric_noise_multiplier=3.0),
        metrics_request,
    ),
    "metrics too often": (
        "metric-releases",
        policy_of(allowed_metrics=["mrr"], max_metric_releases=2),
        metrics_request,
    ),
    "pairs not allowed": ("release", policy_of(allowed_releases=["popularity", "train"]), ladder_request(Kind.PAIRS)),
    "comparison not allowed": (
        "release",
        policy_of(allowed_releases=["popularity", "train", "pairs"]),
        ladder_request(Kind.COMPARE, scorer="0" * 64),
    ),
    "comparison with little noise": (
        "metric-noise",
        policy_of(min_metric_noise_multiplier=51.0),
        ladder_request(Kind.COMPARE, scorer="0" * 64),
    ),
    "pairs of too many items": ("pair-items", policy_of(max_pair_items=4), ladder_request(Kind.PAIRS)),
    "no pairs at all": ("pair-items", policy_of(max_pair_items=0), ladder_request(Kind.PAIRS)),
    "long pairs": (
        "pair-history",
        policy_of(max_history=20),
        ladder_request(Kind.PAIRS, history=21),
    ),
    "pairs in a plan without": ("protocol", nothing, ladder_request(Kind.PAIRS, plain=True)),
    "scorer in a plan without": ("protocol", nothing, ladder_request(Kind.SCORER, plain=True)),
    "comparison in a plan without": ("protocol", nothing, ladder_request(Kind.COMPARE, plain=True)),
    "pairs in round 1": ("protocol", nothing, ladder_request(Kind.PAIRS, round=1)),
    "scorer in round 1": ("protocol", nothing, ladder_request(Kind.SCORER, round=1)),
    "comparison in the last round": ("protocol", nothing, ladder_request(Kind.COMPARE, round=3)),
    "comparison after it": ("protocol", nothing, ladder_request(Kind.COMPARE, round=5)),
    "pairs of fewer items": ("protocol", nothing, ladder_request(Kind.PAIRS, items=4)),
    "scorer of another size": ("protocol", nothing, ladder_request(Kind.SCORER, items=6)),
    "scorer of another digest": ("protocol", nothing, ladder_request(Kind.SCORER, model_digest="0" * 64)),
    "scorer that never came": ("protocol", nothing, ladder_request(Kind.COMPARE, scorer="0" * 64)),
    "damaged scorer": ("protocol", scorer_answered, scorer_of_damaged_site()),
    "comparison without its scorer": ("protocol", nothing, ladder_request(Kind.COMPARE)),
    "training with a scorer that the plan lacks": (
        "protocol",
        nothing,
        lambda config: train_request(config, scorer="0" * 64),
    ),
    "inbox is a file": ("site", as_file("inbox"), ladder_request(Kind.SCORER)),
    "too dear": ("budget", policy_of(max_epsilon=0.1), train_request),
    "changed plan": ("plan-changed", answered_once, other("training", learning_rate=0.5)),
    "changed state": ("round-changed", other_state_answered, train_request),
    "budget spent": ("budget", spent_up, train_request),
    "other digest": ("protocol", nothing, other_digest),
    "other run": ("protocol", nothing, lambda config: train_request(config, run_id="run-2")),
    "round after the last": ("protocol", nothing, lambda config: train_request(config, number=99)),
    "other version": ("protocol", nothing, lambda config: train_request(config, protocol=99)),
    "one record more": ("protocol", nothing, with_record),
    "float64": ("protocol", nothing, with_doubles),
    "one field less": ("protocol", nothing, without_field),
    "plan is no plan": ("site", nothing, lambda config: train_request(config, plan="{")),
    "damaged data": ("site", filled("data/interactions.parquet"), train_request),
    "data gone": ("site", gone("data/interactions.parquet"), train_request),
    "other number of users": ("site", fewer_users, train_request),
    "damaged catalogue": ("site", damaged_public("items", "items.parquet"), train_request),
    "damaged bundle": ("site", damaged_public("features", "text.npy"), train_request),
    "damaged key": ("site", filled("key.pem"), train_request),
    "key gone": ("site", gone("key.pem"), train_request),
    "damaged ledger": ("site", filled("ledger.jsonl"), train_request),
    "edited ledger": ("site", edited, train_request),
    "ledger rolled back": ("rollback", rolled_back, train_request),
    "ledger gone": ("site", gone("ledger.jsonl"), train_request),
    "head gone": ("site", gone("ledger.head"), train_request),
    "damaged head": ("site", filled("ledger.head"), train_request),
    "head is a folder": ("site", as_folder("ledger.head"), train_request),
    "damaged policy": ("site", filled("policy.toml"), train_request),
    "policy gone": ("site", gone("policy.toml"), train_request),
    "damaged settings": ("error", filled("site.toml"), train_request),
    "settings gone": ("error", gone("site.toml"), train_request),
    "diary is a folder": ("site", as_folder("diary.jsonl"), train_request),
    "outbox is a file": ("site", as_file("outbox"), train_request),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[SmallSites]:
    """Two partners with one public face: name, number of users and policy; users, histories, keys and places differ."""
    return [
        make_small_sites(tmp_path_factory.mktemp(f"{SECRET}-{name}"), user=f"{SECRET}-{name}-")
        for name in ("anna", "berthold")
    ]


def refusal_at(sites: SmallSites, name: str, spoil: Spoil, ask: Ask) -> Message:
    """What the network sees when a spoilt site is asked."""
    root = sites.copy(name, tight=True)
    spoil(root)
    for cache in (shared_catalogue, shared_bundle, shared_items):
        cache.cache_clear()  # a fresh process
    kind, content = ask(sites.config)
    grid = LoopbackGrid(client_app, [root], {})
    (reply,) = grid.send_and_receive([Message(content, 100, kind.value, ttl=600.0, group_id="1")])
    return reply


def words_of(reply: Message) -> dict[str, object]:
    """The fields of a refusal; where no reply could be made, the text that Flower sends of the error."""
    if reply.has_error():
        return {"refusal": "error", "refusal_text": reply.error.reason}
    assert set(reply.content) == {FIELDS, ARRAYS}
    assert set(reply.content.config_records[FIELDS]) == {item.name for item in fields(Reply)}
    assert len(reply.content.array_records[ARRAYS]) == 0
    return dict(reply.content.config_records[FIELDS])


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_a_code_and_words_that_do_not_depend_on_the_partner(case: str, places: list[SmallSites]) -> None:
    code, spoil, ask = REFUSALS[case]
    said = []
    for sites in places:
        reply = refusal_at(sites, case.replace(" ", "-"), spoil, ask)
        for secret in (SECRET, str(sites.folder), str(Path(__file__).parents[2])):
            assert secret.encode() not in wire_bytes(reply), wire_bytes(reply)
        said.append(words_of(reply))
    assert said[0]["refusal"] == code, said[0]
    assert said[0] == said[1]


def test_an_unexpected_error_of_the_client_leaves_as_a_fixed_sentence(
    places: list[SmallSites], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError(f"user {SECRET}-USER-17 has 300 items")

    monkeypatch.setitem(release.MAKERS, Kind.TRAIN, fail)
    reply = refusal_at(places[0], "unexpected", nothing, train_request)
    assert SECRET.encode() not in wire_bytes(reply), wire_bytes(reply)
    assert words_of(reply)["refusal"] == "site"
