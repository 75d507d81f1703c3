"""One request to all enrolled partners: who is connected, what each is sent, what comes back.

Every message lives as long as the wave (`ttl` = the round's timeout), so that nobody works on a round that is over, and
is signed for its partner (`server.sites`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from mmrec_model.config import RunConfig
from mmrec_model.errors import AdmissionError
from mmrec_model.protocol import ARRAYS, FIELDS, Kind, Request
from server.admission import Reason, refuse
from server.journal import Rejection
from server.messages import deliver, pack, wire_size
from server.sites import Sites
from server.waves import Delivery, Enrolment, Wave


def online(grid: Grid, *, minimum: int, timeout: float, sleep: Callable[[float], None] = time.sleep) -> list[int]:
    """The connected nodes, once there are `minimum`; Flower itself would wait for ever.

    Raises:
        AdmissionError: `cohort`, after `timeout` seconds with fewer.
    """
    waited, pause = 0.0, min(1.0, timeout)
    while len(nodes := sorted(grid.get_node_ids())) < minimum:
        if waited >= timeout:
            raise AdmissionError(
                Reason.COHORT.value,
                f"{len(nodes)} partners are connected after {timeout:g} s, the plan needs {minimum}",
                remedy="Start the missing partners, or lower minimum_cohort in a new plan",
            )
        sleep(pause)
        waited += pause
    return nodes


@dataclass(frozen=True)
class Round:
    """One message per partner, ready to be sent, and the wave it belongs to."""

    wave: Wave
    messages: list[Message]


def address(  # noqa: PLR0917 - the parts of one round
    grid: Grid,
    config: RunConfig,
    enrolment: Enrolment,
    sites: Sites,
    kind: Kind,
    request: Request,
    arrays: ArrayRecord,
) -> Round:
    """`request` as one message for each enrolled partner that is connected and has no open fork."""
    # A message to a node that has gone would be waited for until the deadline.
    connected = set(grid.get_node_ids())
    nodes: dict[int, str] = {}
    sizes: dict[int, int] = {}
    messages: list[Message] = []
    unasked: list[Rejection] = []
    arrays_size = wire_size(RecordDict({ARRAYS: arrays}))
    for node, name in sorted(enrolment.nodes.items()):
        try:
            if node not in connected:
                raise refuse(Reason.NO_REPLY, "not connected")
            fields = pack(sites.address(kind, request, name), {})[FIELDS]
        except AdmissionError as error:
            unasked.append(Rejection(name, error.reason, error.problem))
            continue
        nodes[node], sizes[node] = name, arrays_size + wire_size(RecordDict({FIELDS: fields}))
        messages.append(message_to(config, kind, request, node, RecordDict({FIELDS: fields, ARRAYS: arrays})))
    return Round(Wave(request, nodes, tuple(unasked), sizes), messages)


def message_to(config: RunConfig, kind: Kind, request: Request, node: int, content: RecordDict) -> Message:
    """One message that lives as long as the plan's round."""
    group = str(request.round)
    return Message(content, dst_node_id=node, message_type=kind.value, ttl=config.round_timeout, group_id=group)


def exchange(grid: Grid, config: RunConfig, messages: list[Message]) -> Iterator[Delivery]:
    """Send messages and read what comes back, as it comes."""
    return deliver(grid.send_and_receive(messages, timeout=config.round_timeout))
