"""Who is asked: only partners that are connected, for no longer than the round; and never an endless wait."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message
from flwr.supercore.task_identity import TaskIdentity

from mmrec_model.config import FeatureSpec, PrivacyConfig, RunConfig
from mmrec_model.errors import AdmissionError
from mmrec_model.privacy.keys import PublicKey, SigningKey
from mmrec_model.protocol import FIELDS, REQUEST_DOMAIN, Kind, Request, from_fields, request_statement
from server.checkpoint import Snapshot
from server.exchange import online
from server.messages import pack_arrays
from server.sites import Sites, coordinator_key, write_partners
from server.strategy import PrivateFederation
from server.waves import Enrolment
from server.witness import WitnessWatch

CONFIG = RunConfig(
    run_id="strategy",
    seed=0,
    features=FeatureSpec(digest="0" * 64, items=3, dims={"text": 4}),
    privacy=PrivacyConfig(epsilon=1.0, noise_multiplier=1.0, popularity_noise_multiplier=1.0),
    round_timeout=7.0,
    minimum_cohort=2,
)
STATE = {"w": np.zeros(3, np.float32)}
SNAPSHOT = Snapshot(4, STATE, np.ones(3, np.float32), STATE, {"be": 1, "fr": 2})


class Nodes:
    """As much of a grid as decides who is connected."""

    def __init__(self, *waves: list[int]) -> None:
        self.waves = iter(waves)
        self.last: list[int] = []

    def get_node_ids(self) -> Iterable[int]:
        self.last = next(self.waves, self.last)
        return self.last


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The coordinator's folder is where the test runs."""
    coordinator_key(tmp_path)
    keys = {name: SigningKey.from_seed(name.encode() * 16).public.hexadecimal for name in ("be", "fr")}
    write_partners(tmp_path, keys)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def strategy() -> PrivateFederation:
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    users = {"be": 1, "fr": 2}
    return PrivateFederation(
        CONFIG,
        Enrolment({11: "be", 12: "fr"}, users),
        SNAPSHOT,
        sites=Sites.open(Path()),
        witness=WitnessWatch(CONFIG, users),
        on_round=lambda *_: None,
    )


def requests(*connected: int) -> list[Message]:
    return list(strategy().configure_train(1, pack_arrays(SNAPSHOT.travelling), ConfigRecord(), Nodes([*connected])))  # type: ignore[arg-type]


def test_the_wait_for_partners_ends() -> None:
    slept: list[float] = []
    with pytest.raises(AdmissionError, match="1 partners are connected after 3 s, the plan needs 2"):
        online(Nodes([11]), minimum=2, timeout=3.0, sleep=slept.append)  # type: ignore[arg-type]
    assert sum(slept) == 3.0


def test_the_wait_ends_as_soon_as_enough_partners_are_there() -> None:
    slept: list[float] = []
    nodes = Nodes([], [12], [12, 11])
    assert online(nodes, minimum=2, timeout=60.0, sleep=slept.append) == [11, 12]  # type: ignore[arg-type]
    assert len(slept) == 2


def test_a_message_lives_as_long_as_its_round_and_carries_the_models_digest() -> None:
    messages = requests(11, 12)
    assert [message.metadata.dst_node_id for message in messages] == [11, 12]
    for message in messages:
        assert message.metadata.ttl == CONFIG.round_timeout
        assert message.metadata.message_type == Kind.TRAIN
        fields = message.content.config_records[FIELDS]
        assert fields["round"] == SNAPSHOT.round + 1
        assert fields["model_digest"] == SNAPSHOT.digest


def test_every_message_is_for_one_partner_with_its_own_nonce_and_signed(folder: Path) -> None:
    key = coordinator_key(folder).public
    asked = [from_fields(Request, message.content.config_records[FIELDS]) for message in requests(11, 12)]
    assert [request.partner for request in asked] == ["be", "fr"]
    assert len({request.nonce for request in asked}) == 2
    for request in asked:
        assert isinstance(key, PublicKey)
        assert key.verifies(request.signature, request_statement(Kind.TRAIN, request), domain=REQUEST_DOMAIN)
        assert not key.verifies(request.signature, request_statement(Kind.POPULARITY, request), domain=REQUEST_DOMAIN)


def test_a_partner_that_is_not_connected_and_a_stranger_that_is_are_not_asked() -> None:
    assert [message.metadata.dst_node_id for message in requests(12, 99)] == [12]


def test_a_partner_that_was_not_connected_is_counted_in_the_round() -> None:
    federation = strategy()
    federation.configure_train(1, pack_arrays(SNAPSHOT.travelling), ConfigRecord(), Nodes([12]))  # type: ignore[arg-type]
    with pytest.raises(AdmissionError, match=r"round 5: 0 usable replies.*no_reply 2.*fr: no reply"):
        federation.aggregate_train(1, [])


def test_flowers_own_evaluation_asks_for_nothing() -> None:
    assert strategy().configure_evaluate(1, pack_arrays(STATE), ConfigRecord(), Nodes([11, 12])) == []  # type: ignore[arg-type]
    assert strategy().aggregate_evaluate(1, []) is None
