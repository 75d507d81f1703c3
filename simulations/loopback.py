"""Flower's Grid in one process: the coordinator's and the partners' real apps, without Ray, bundles or sockets.

What it keeps of a deployment: every message is copied, every partner has its own node id, node config and state, an
exception of a partner becomes an error reply, and a partner whose work outlasts the message's life does not answer.
What it changes: partners work one after the other, so a run with one seed is the same run every time. Replies are
made when the strategy reads them, so one partner's update is in memory at a time unless the strategy keeps it.
"""

from __future__ import annotations

import copy
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from typing_extensions import override

from mmrec_model.errors import UsageError
from server.messages import wire_size

RUN_ID = 1
COORDINATOR = 1
_FIRST_NODE = 100
_LOG = logging.getLogger(__name__)

Channel: TypeAlias = Callable[[Message, Message], Iterable[Message]]
"""What the network makes of a reply: (request, reply) -> what arrives: nothing, the reply, several, or others."""


@dataclass(frozen=True)
class Delivery:
    """One message and its reply, as the network saw them.

    Attributes:
        site: the partner's folder.
        kind: message type.
        group: the round, as text.
        bytes_down: size of the request.
        bytes_up: size of everything that arrived.
        seconds: time the partner worked.
        failed: the partner's app raised.
    """

    site: Path
    kind: str
    group: str
    bytes_down: int
    bytes_up: int
    seconds: float
    failed: bool


@dataclass
class LoopbackResult:
    """What the run cost at each site, by the site's folder; bytes are those of arrays and fields."""

    bytes_down: dict[Path, int] = field(default_factory=dict)
    bytes_up: dict[Path, int] = field(default_factory=dict)
    seconds: dict[Path, float] = field(default_factory=dict)

    def add(self, delivery: Delivery) -> None:
        """Count one message."""
        site = delivery.site
        self.bytes_down[site] = self.bytes_down.get(site, 0) + delivery.bytes_down
        self.bytes_up[site] = self.bytes_up.get(site, 0) + delivery.bytes_up
        self.seconds[site] = self.seconds.get(site, 0.0) + delivery.seconds


def run_loopback(
    server_app: ServerApp,
    client_app: ClientApp,
    sites: Sequence[Path],
    run_config: dict[str, Any],
    on_progress: Callable[[Delivery], None] | None = None,
) -> LoopbackResult:
    """Run a whole federation in this process.

    Args:
        server_app: the coordinator.
        client_app: what every partner runs.
        sites: one folder per partner; the partner finds it as `site` in its node config.
        run_config: Flower's run config, for both apps.
        on_progress: called after every message.

    Raises:
        UsageError: no site, or one twice.
        MmrecError: whatever ends the coordinator's run.
    """
    result = LoopbackResult()

    def count(delivery: Delivery) -> None:
        result.add(delivery)
        if on_progress is not None:
            on_progress(delivery)

    grid = LoopbackGrid(client_app, sites, run_config, on_message=count)
    context = Context(RUN_ID, COORDINATOR, node_config={}, state=RecordDict(), run_config=dict(run_config))
    with _quiet_flower():
        server_app(grid, context)
    return result


class LoopbackGrid(Grid):
    """A network of partners in this process.

    Args:
        client_app: what every partner runs.
        sites: one folder per partner.
        run_config: Flower's run config of the partners.
        channel: what the network does to replies; None delivers each once, unchanged.
        on_message: called after every message.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        client_app: ClientApp,
        sites: Sequence[Path],
        run_config: dict[str, Any],
        *,
        channel: Channel | None = None,
        on_message: Callable[[Delivery], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not sites or len(set(sites)) != len(sites):
            raise UsageError(
                f"{len(sites)} sites, {len(set(sites))} of them different", remedy="Give one folder per partner"
            )
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN_ID, RUN_ID, COORDINATOR
        self._client_app = client_app
        self._channel = channel
        self._on_message = on_message
        self._clock = clock
        self._sites = {_FIRST_NODE + index: site for index, site in enumerate(sites)}
        self._contexts = {
            node: Context(RUN_ID, node, {"site": str(site)}, RecordDict(), dict(run_config))
            for node, site in self._sites.items()
        }
        self._waiting: dict[str, Message] = {}
        self._numbers = itertools.count(1)
        self._run = Run.create_empty(RUN_ID)

    @property
    def run(self) -> Run:
        """Information about the run."""
        return self._run

    def set_run(self, run: Run) -> None:
        """Take over information about the run."""
        self._run = run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message from the coordinator."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All partners: they are always connected."""
        return list(self._sites)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages; the partners work when the replies are pulled."""
        identities = []
        for message in messages:
            identity = str(next(self._numbers))
            message.metadata.__dict__["_message_id"] = identity
            self._waiting[identity] = message
            identities.append(identity)
        return identities

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Let the addressed partners work, one after the other, and yield what arrives."""
        for identity in message_ids:
            if (request := self._waiting.pop(identity, None)) is not None:
                yield from self._deliver(request)

    @override
    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, then pull lazily; a partner's deadline is its message's `ttl`."""
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, request: Message) -> list[Message]:
        node = request.metadata.dst_node_id
        copied = copy.deepcopy(request)
        down = wire_size(copied.content)
        started = self._clock()
        reply = self._work(copied, self._contexts[node])
        seconds = self._clock() - started
        late = seconds > request.metadata.ttl
        arrived = [] if late else list(self._channel(request, reply) if self._channel else [reply])
        if self._on_message is not None:
            up = sum(wire_size(message.content) for message in arrived if message.has_content())
            kind, group = request.metadata.message_type, request.metadata.group_id
            self._on_message(Delivery(self._sites[node], kind, group, down, up, seconds, reply.has_error()))
        return arrived

    def _work(self, request: Message, context: Context) -> Message:
        try:
            reply = self._client_app(request, context)
        except Exception as error:
            _LOG.debug("the app at %s failed", context.node_config["site"], exc_info=True)
            reason = f"{type(error).__name__}: {error}"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=request)
        return Message(copy.deepcopy(reply.content), reply_to=request) if reply.has_content() else reply


@contextmanager
def _quiet_flower() -> Iterator[None]:
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
