"""The loopback grid keeps what partners may rely on in a deployment: isolation, own state, error replies, deadlines."""

from __future__ import annotations

from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from mmrec_model.errors import UsageError
from server.messages import wire_size
from simulations.loopback import Delivery, LoopbackGrid, run_loopback

SITES = [Path("sites/a"), Path("sites/b")]


def echo() -> ClientApp:
    """Counts its calls in its own state and writes over what it was sent."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        calls = int(context.state["calls"]["n"]) + 1 if "calls" in context.state else 1  # type: ignore[arg-type, call-overload]
        context.state["calls"] = ConfigRecord({"n": calls})
        sent = message.content["fields"]
        reply = {"site": str(context.node_config["site"]), "calls": calls, "text": str(sent["text"])}  # type: ignore[call-overload]
        sent["text"] = "overwritten"  # type: ignore[call-overload]
        if reply["text"] == "fail":
            raise ValueError("the disk is full")
        return Message(RecordDict({"fields": ConfigRecord(reply)}), reply_to=message)  # type: ignore[arg-type]

    return app


def ask(grid: LoopbackGrid, text: str = "hello", ttl: float = 60.0) -> list[Message]:
    content = RecordDict({"fields": ConfigRecord({"text": text})})
    return list(
        grid.send_and_receive([Message(content, node, "train", ttl=ttl, group_id="4") for node in grid.get_node_ids()])
    )


def fields(reply: Message) -> dict[str, object]:
    return dict(reply.content.config_records["fields"])


def test_each_partner_has_its_own_site_and_a_state_that_lasts() -> None:
    grid = LoopbackGrid(echo(), SITES, {})
    ask(grid)
    second = [fields(reply) for reply in ask(grid)]
    assert [reply["site"] for reply in second] == [str(site) for site in SITES]
    assert [reply["calls"] for reply in second] == [2, 2]


def test_what_one_partner_does_to_a_message_no_other_sees() -> None:
    assert [fields(reply)["text"] for reply in ask(LoopbackGrid(echo(), SITES, {}))] == ["hello", "hello"]


def test_an_exception_becomes_an_error_reply_from_its_node() -> None:
    grid = LoopbackGrid(echo(), SITES, {})
    replies = ask(grid, "fail")
    assert [reply.metadata.src_node_id for reply in replies] == list(grid.get_node_ids())
    assert all(reply.has_error() and reply.error.reason == "ValueError: the disk is full" for reply in replies)


def test_partners_work_only_when_their_reply_is_read() -> None:
    seen: list[Delivery] = []
    grid = LoopbackGrid(echo(), SITES, {}, on_message=seen.append)
    content = RecordDict({"fields": ConfigRecord({"text": "hello"})})
    replies = iter(grid.send_and_receive([Message(content, node, "train") for node in grid.get_node_ids()]))
    assert seen == []
    next(replies)
    assert [delivery.site for delivery in seen] == SITES[:1]


def test_work_that_outlasts_the_message_is_not_delivered() -> None:
    now = {"seconds": 0.0}

    def clock() -> float:
        now["seconds"] += 30.0
        return now["seconds"]

    assert len(ask(LoopbackGrid(echo(), SITES, {}, clock=clock), ttl=31.0)) == 2
    assert ask(LoopbackGrid(echo(), SITES, {}, clock=clock), ttl=29.0) == []


def test_bytes_are_counted_in_both_directions_per_site() -> None:
    server = ServerApp()
    sizes: dict[str, int] = {}

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        assert isinstance(grid, LoopbackGrid)
        assert context.run_config["workspace"] == "here"
        for reply in [*ask(grid), *ask(grid)]:
            site = str(fields(reply)["site"])
            sizes[site] = sizes.get(site, 0) + wire_size(reply.content)

    progress: list[Delivery] = []
    result = run_loopback(server, echo(), SITES, {"workspace": "here"}, progress.append)
    assert {str(site): count for site, count in result.bytes_up.items()} == sizes
    down = wire_size(RecordDict({"fields": ConfigRecord({"text": "hello"})}))
    assert result.bytes_down == dict.fromkeys(SITES, 2 * down)
    assert set(result.seconds) == set(SITES)
    assert [(delivery.kind, delivery.group, delivery.failed) for delivery in progress] == [("train", "4", False)] * 4


@pytest.mark.parametrize("sites", [[], [Path("a"), Path("a")]])
def test_no_site_or_one_site_twice_is_refused(sites: list[Path]) -> None:
    with pytest.raises(UsageError):
        LoopbackGrid(echo(), sites, {})
