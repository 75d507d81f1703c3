"""Who is asked, and what is averaged: Flower's Strategy with the admission gate in front.

Waves of messages: DESCRIBE (who is there), POPULARITY (one priced release), TRAIN once per round, EVALUATE after the
rounds that the plan names, and RECEIPT at the end, which nobody has to answer. In each

1. every message lives as long as the wave (`ttl` = the round's timeout), so that nobody works on a round that is over;
2. every reply, an error reply too, passes `server.admission`; no reply ends the wave;
3. every message is signed for its partner, and a reply counts only with a ledger that grew (`server.sites`);
4. fewer admitted replies than the plan's `minimum_cohort` end the run with an error: a void round is never silent. An
   EVALUATE with too few gives no figure, and the run goes on: a partner may refuse to show metrics and still train.

The order in which replies arrive does not matter: admitted updates are summed in the order of the partners' names.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from typing_extensions import override

from mmrec_model.config import RunConfig
from mmrec_model.errors import AdmissionError
from mmrec_model.privacy.clipping import clip_of, next_clip, start_clip
from mmrec_model.privacy.witness import witness_size
from mmrec_model.protocol import ARRAYS, CLIP_SHARE, FIELDS, METRICS, WITNESS, Arrays, Kind, Reply, Request
from server.admission import (
    AnyArrays,
    Expected,
    Reason,
    public_counts_bound,
    public_norm_bound,
    public_share_bound,
    refuse,
)
from server.aggregation import ServerOptimizer, popularity_prior, sum_counts, weighted_mean
from server.checkpoint import Snapshot
from server.journal import Rejection, WaveFacts
from server.measurement import Measured, mean_metrics, metrics_bound
from server.messages import deliver, pack, pack_arrays, wire_size
from server.sites import Sites
from server.waves import Delivery, Enrolment, VoidWave, Wave, enrol, gather, require_cohort
from server.witness import WitnessWatch

COUNTS = "counts"
"""Name of the one array of a POPULARITY reply."""
RECEIPT_SECONDS = 60.0
"""Longest wait for the answers to the last message of a run."""
_LOG = logging.getLogger(__name__)


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


def describe(grid: Grid, config: RunConfig, nodes: list[int], sites: Sites) -> tuple[Enrolment, WaveFacts]:
    """Ask every node who it is; the partners approve the plan, and their ledgers with it are countersigned.

    Raises:
        VoidWave: fewer partners than the plan's minimum enrol.
    """
    started = time.monotonic()
    request = sites.describe(Request(config.run_id, 0, config.model_dump_json()))
    content = pack(request, {})
    names = {node: f"node {node}" for node in nodes}
    wave = Wave(request, names, (), dict.fromkeys(nodes, wire_size(content)))
    messages = [_message(config, Kind.DESCRIBE, request, node, content) for node in nodes]
    enrolment, facts = enrol(_exchange(grid, config, messages), wave, lambda reply, _: sites.admit(reply))
    require_cohort(facts, config)
    return enrolment, replace(facts, seconds=time.monotonic() - started)


def release_popularity(
    grid: Grid, config: RunConfig, enrolment: Enrolment, initial: Arrays, sites: Sites
) -> tuple[Snapshot, WaveFacts]:
    """Ask every partner for its noised item counts, once, and turn their sum into the prior of round 0.

    Raises:
        VoidWave: fewer releases than the plan's minimum are admitted.
    """
    started = time.monotonic()
    request = Request(config.run_id, 0, config.model_dump_json())
    asked = _address(grid, config, enrolment, sites, Kind.POPULARITY, request, pack_arrays({}))
    bounds = {name: public_counts_bound(config, users=users) for name, users in enrolment.users.items()}
    expected = Expected(request, Kind.POPULARITY, {COUNTS: (config.features.items,)}, enrolment.users, bounds)
    replies = _exchange(grid, config, asked.messages)
    accepted, facts = gather(replies, asked.wave, expected, lambda reply, _: sites.admit(reply))
    require_cohort(facts, config)
    privacy = config.privacy
    noise_sd = privacy.popularity_noise_multiplier * math.sqrt(privacy.popularity_cap * len(accepted))
    prior = popularity_prior(sum_counts([accepted[name][COUNTS] for name in facts.accepted]), noise_sd=noise_sd)
    still = {name: 0.0 * array for name, array in initial.items()}
    first = Snapshot(0, initial, prior, still, enrolment.users, start_clip(privacy))
    return first, replace(facts, seconds=time.monotonic() - started)


def release_metrics(  # noqa: PLR0917 - the parts of one round
    grid: Grid, config: RunConfig, enrolment: Enrolment, snapshot: Snapshot, sites: Sites, round_: int
) -> tuple[Measured | None, WaveFacts]:
    """Ask every partner for the noised sums of its validation metrics, once.

    Args:
        grid: the transport.
        config: the plan.
        enrolment: the partners.
        snapshot: the state to be evaluated.
        sites: the partners' keys and ledger heads.
        round_: one of the plan's `evaluated_rounds`.

    Returns:
        The means, None where fewer releases than the plan's minimum were admitted; and what came back.
    """
    started = time.monotonic()
    request = Request(config.run_id, round_, config.model_dump_json(), snapshot.digest)
    asked = _address(grid, config, enrolment, sites, Kind.EVALUATE, request, pack_arrays(snapshot.travelling))
    bounds = {name: metrics_bound(config, users=users) for name, users in enrolment.users.items()}
    shapes = {METRICS: (len(config.evaluation.metrics) + 1,)}
    expected = Expected(request, Kind.EVALUATE, shapes, enrolment.users, bounds)
    replies = _exchange(grid, config, asked.messages)
    accepted, facts = gather(replies, asked.wave, expected, lambda reply, _: sites.admit(reply))
    facts = replace(facts, seconds=time.monotonic() - started)
    try:
        require_cohort(facts, config)
    except VoidWave as void:
        _LOG.warning("no metrics of %s; the run goes on", void.problem)
        return None, facts
    return mean_metrics(config, accepted), facts


def send_receipts(grid: Grid, config: RunConfig, enrolment: Enrolment, sites: Sites) -> WaveFacts:
    """Send every partner the countersignature of its last head, so that its ledger ends countersigned.

    The run is over: a partner that is gone, or does not answer within `RECEIPT_SECONDS`, is counted and no more.
    """
    started = time.monotonic()
    request = Request(config.run_id, 0, config.model_dump_json())
    asked = _address(grid, config, enrolment, sites, Kind.RECEIPT, request, pack_arrays({}))
    expected = Expected(request, Kind.RECEIPT, {}, enrolment.users, dict.fromkeys(enrolment.users, 0.0))
    timeout = min(config.round_timeout, RECEIPT_SECONDS)
    replies = deliver(grid.send_and_receive(asked.messages, timeout=timeout))
    _, facts = gather(replies, asked.wave, expected, lambda reply, _: sites.admit(reply))
    return replace(facts, seconds=time.monotonic() - started)


class PrivateFederation(Strategy):
    """Every enrolled partner that is connected trains in every round; the admitted updates move the global state.

    Args:
        config: the plan.
        enrolment: the partners.
        snapshot: where to go on; `snapshot.round` rounds are behind us.
        sites: the partners' keys and ledger heads.
        witness: the memory of the witness blocks.
        on_round: called after each round with the new snapshot and the round's facts, before the next one starts.
    """

    def __init__(
        self,
        config: RunConfig,
        enrolment: Enrolment,
        snapshot: Snapshot,
        *,
        sites: Sites,
        witness: WitnessWatch,
        on_round: Callable[[Snapshot, WaveFacts], None],
    ) -> None:
        self.snapshot = snapshot
        self._config = config
        self._enrolment = enrolment
        self._sites = sites
        self._witness = witness
        self._on_round = on_round
        self._first_round = snapshot.round
        self._wave = Wave(Request(config.run_id, 0, ""), {}, (), {})
        self._started = time.monotonic()
        self._optimizer = ServerOptimizer(config.training.server_learning_rate, config.training.server_momentum)
        self._shapes = {name: array.shape for name, array in snapshot.state.items()}
        if size := witness_size(config):
            self._shapes[WITNESS] = (size,)
        self._width = sum(math.prod(shape) for shape in self._shapes.values())
        self._shares: dict[str, float] = {}
        if snapshot.clip is not None:
            self._shapes[CLIP_SHARE] = (1,)
            self._shares = {name: public_share_bound(config, users=users) for name, users in enrolment.users.items()}

    @override
    def summary(self) -> None:
        _LOG.info("private federation of %d partners, plan %s", len(self._enrolment.users), self._config.digest[:12])

    @override
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One TRAIN message to each enrolled partner that is connected now."""
        self._started = time.monotonic()
        request = Request(
            self._config.run_id, self._first_round + server_round, self._config.model_dump_json(), self.snapshot.digest
        )
        asked = _address(grid, self._config, self._enrolment, self._sites, Kind.TRAIN, request, arrays)
        self._wave = asked.wave
        return asked.messages

    @override
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Admit, average, step, report; the next global state.

        Raises:
            VoidWave: fewer updates than the plan's minimum are admitted.
        """
        users = self._enrolment.users
        bounds = {
            name: public_norm_bound(self._config, users=count, width=self._width, clip=self._clip)
            for name, count in users.items()
        }
        expected = Expected(self._wave.request, Kind.TRAIN, self._shapes, users, bounds, self._shares)
        updates, facts = gather(deliver(replies), self._wave, expected, self._last_checks)
        require_cohort(facts, self._config)
        for update in updates.values():
            update.pop(WITNESS, None)
        mean = weighted_mean([updates[name] for name in facts.accepted], [users[name] for name in facts.accepted])
        clip = self.snapshot.clip
        if clip is not None:
            clip = next_clip(self._config.privacy, clip, float(mean.pop(CLIP_SHARE)[0]))
        state, velocity = self._optimizer.step(self.snapshot.state, self.snapshot.velocity, mean)
        self.snapshot = replace(self.snapshot, round=facts.round, state=state, velocity=velocity, clip=clip)
        self._on_round(self.snapshot, replace(facts, seconds=time.monotonic() - self._started))
        return pack_arrays(self.snapshot.travelling), None

    def _last_checks(self, reply: Reply, arrays: AnyArrays) -> None:
        self._sites.admit(reply)
        self._witness.admit(reply, arrays, clip=self._clip)

    @property
    def _clip(self) -> float:
        return clip_of(self._config.privacy, self.snapshot.beside)

    @override
    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """No message of Flower's own: metrics are priced releases, which the coordinator asks for itself."""
        return []

    @override
    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing was asked."""
        return None


def _address(  # noqa: PLR0917 - the parts of one round
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
        messages.append(_message(config, kind, request, node, RecordDict({FIELDS: fields, ARRAYS: arrays})))
    return Round(Wave(request, nodes, tuple(unasked), sizes), messages)


def _message(config: RunConfig, kind: Kind, request: Request, node: int, content: RecordDict) -> Message:
    group = str(request.round)
    return Message(content, dst_node_id=node, message_type=kind.value, ttl=config.round_timeout, group_id=group)


def _exchange(grid: Grid, config: RunConfig, messages: list[Message]) -> Iterator[Delivery]:
    return deliver(grid.send_and_receive(messages, timeout=config.round_timeout))
