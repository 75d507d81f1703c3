"""A request that cannot be read is answered with a refusal, never with an exception's own words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, Message, MetricRecord, RecordDict

from client import app as client_app_module
from client.app import app as client_app
from client.messages import named_request, read_request
from client.site import Site
from mmrec_model.config import RunConfig
from mmrec_model.errors import ProtocolError
from mmrec_model.protocol import ARRAYS, FIELDS, Kind, Request
from server.messages import deliver, pack
from simulations.loopback import LoopbackGrid

Spoil = Callable[[RecordDict], None]


def with_array(data: bytes | None = None, **values: object) -> Spoil:
    def spoil(content: RecordDict) -> None:
        whole = content.array_records[ARRAYS]["w"]
        facts = {"dtype": whole.dtype, "shape": whole.shape, "stype": whole.stype, "data": data or whole.data} | values
        content.array_records[ARRAYS]["w"] = Array(**facts)  # type: ignore[arg-type]

    return spoil


def field(name: str, value: object) -> Spoil:
    def spoil(content: RecordDict) -> None:
        content.config_records[FIELDS][name] = value  # type: ignore[assignment]

    return spoil


def of_doubles(content: RecordDict) -> None:
    content.array_records[ARRAYS]["w"] = Array(np.zeros(3))


def of_metrics(content: RecordDict) -> None:
    content[ARRAYS] = MetricRecord({"w": 1.0})


def without_fields(content: RecordDict) -> None:
    del content[FIELDS]


def more_records(content: RecordDict) -> None:
    content["more"] = ConfigRecord({})


UNREADABLE: dict[str, Spoil] = {
    "a pickle": with_array(b"\x80\x04cos\nsystem\n(S'true'\ntR."),
    "no bytes": with_array(b"\x93NUMPY"),
    "another serialisation": with_array(stype="pickle"),
    "doubles": of_doubles,
    "metrics for arrays": of_metrics,
    "no fields": without_fields,
    "more records": more_records,
    "an unknown field": field("loss", 0.5),
    "a round that is text": field("round", "1"),
    "another protocol": field("protocol", 99),
}


def request(spoil: Spoil) -> RecordDict:
    content = pack(Request("run-1", 3, "{}", "d" * 64), {"w": np.zeros(3, np.float32)})
    spoil(content)
    return content


def message(content: RecordDict, kind: Kind = Kind.TRAIN) -> Message:
    return Message(content, 100, kind.value, ttl=600.0, group_id="1")


def test_a_whole_request_is_read_and_its_arrays_may_be_changed(config: RunConfig, tmp_path: Path) -> None:
    LoopbackGrid(client_app, [tmp_path], {})  # Flower wants to know who it is before a message is made
    read, arrays = read_request(message(request(lambda _: None)))
    assert (read.run_id, read.round) == ("run-1", 3)
    assert arrays["w"].dtype == np.float32
    assert arrays["w"].flags.writeable


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_refused_with_the_run_and_round_that_can(
    name: str, make_site: Callable[..., Site]
) -> None:
    site = make_site()
    grid = LoopbackGrid(client_app, [site.root], {})
    asked = message(request(UNREADABLE[name]))
    with pytest.raises(ProtocolError):
        read_request(asked)
    (reply,) = deliver(grid.send_and_receive([asked]))
    said = reply.opened().reply
    assert (said.partner, said.refusal) == ("north", "protocol")
    readable = {"no fields": ("", 0), "a round that is text": ("run-1", 0)}
    assert (said.run_id, said.round) == readable.get(name, ("run-1", 3))
    assert reply.opened().arrays == {}
    assert "Error" not in said.refusal_text


def test_an_error_that_nobody_foresaw_leaves_as_a_fixed_sentence(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Message) -> None:
        raise KeyError("user 17")

    monkeypatch.setattr(client_app_module, "read_request", fail)
    grid = LoopbackGrid(client_app, [make_site().root], {})
    (reply,) = deliver(grid.send_and_receive([message(request(lambda _: None))]))
    said = reply.opened().reply
    assert said.refusal == "site"
    assert "17" not in said.refusal_text


def test_the_named_request_holds_nothing_but_what_the_refusal_repeats(tmp_path: Path) -> None:
    LoopbackGrid(client_app, [tmp_path], {})
    named = named_request(message(request(lambda _: None)))
    assert named == Request("run-1", 3, plan="", model_digest="d" * 64)
