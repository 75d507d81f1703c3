"""Who is asked, and what is averaged: Flower's Strategy with the admission gate in front.

Three waves of messages: DESCRIBE (who is there), POPULARITY (one priced release), and TRAIN once per round. In each

1. every message lives as long as the wave (`ttl` = the round's timeout), so that nobody works on a round that is over;
2. every reply, an error reply too, passes `server.admission`; no reply ends the wave;
3. fewer admitted replies than the plan's `minimum_cohort` end the run with an error: a void round is never silent.

The order in which replies arrive does not matter: admitted updates are summed in the order of the partners' names.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from typing_extensions import override

from mmrec_model.config import RunConfig
from mmrec_model.errors import AdmissionError
from mmrec_model.protocol import ARRAYS, FIELDS, Arrays, Kind, Request
from server.admission import Expected, Reason, public_counts_bound, public_norm_bound
from server.aggregation import ServerOptimizer, popularity_prior, sum_counts, weighted_mean
from server.checkpoint import Snapshot
from server.journal import WaveFacts
from server.messages import deliver, pack, pack_arrays, wire_size
from server.waves import Delivery, Enrolment, Wave, enrol, gather, require_cohort

COUNTS = "counts"
"""Name of the one array of a POPULARITY reply."""
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


def describe(grid: Grid, config: RunConfig, nodes: list[int]) -> tuple[Enrolment, WaveFacts]:
    """Ask every node who it is.

    Raises:
        VoidWave: fewer partners than the plan's minimum enrol.
    """
    request = Request(config.run_id, 0, config.model_dump_json())
    content = pack(request, {})
    wave = Wave(request, {node: f"node {node}" for node in nodes}, (), wire_size(content))
    started = time.monotonic()
    enrolment, facts = enrol(_exchange(grid, config, Kind.DESCRIBE, wave, content), wave)
    require_cohort(facts, config)
    return enrolment, replace(facts, seconds=time.monotonic() - started)


def release_popularity(
    grid: Grid, config: RunConfig, enrolment: Enrolment, initial: Arrays
) -> tuple[Snapshot, WaveFacts]:
    """Ask every partner for its noised item counts, once, and turn their sum into the prior of round 0.

    Raises:
        VoidWave: fewer releases than the plan's minimum are admitted.
    """
    request = Request(config.run_id, 0, config.model_dump_json())
    content = pack(request, {})
    wave = Wave(request, *_connected(grid, enrolment), wire_size(content))
    bounds = {name: public_counts_bound(config, users=users) for name, users in enrolment.users.items()}
    expected = Expected(request, Kind.POPULARITY, {COUNTS: (config.features.items,)}, enrolment.users, bounds)
    started = time.monotonic()
    accepted, facts = gather(_exchange(grid, config, Kind.POPULARITY, wave, content), wave, expected)
    require_cohort(facts, config)
    privacy = config.privacy
    noise_sd = privacy.popularity_noise_multiplier * math.sqrt(privacy.popularity_cap * len(accepted))
    prior = popularity_prior(sum_counts([accepted[name][COUNTS] for name in facts.accepted]), noise_sd=noise_sd)
    still = {name: 0.0 * array for name, array in initial.items()}
    return Snapshot(0, initial, prior, still, enrolment.users), replace(facts, seconds=time.monotonic() - started)


class PrivateFederation(Strategy):
    """Every enrolled partner that is connected trains in every round; the admitted updates move the global state.

    Args:
        config: the plan.
        enrolment: the partners.
        snapshot: where to go on; `snapshot.round` rounds are behind us.
        on_round: called after each round with the new snapshot and the round's facts, before the next one starts.
    """

    def __init__(
        self,
        config: RunConfig,
        enrolment: Enrolment,
        snapshot: Snapshot,
        on_round: Callable[[Snapshot, WaveFacts], None],
    ) -> None:
        self.snapshot = snapshot
        self._config = config
        self._enrolment = enrolment
        self._on_round = on_round
        self._first_round = snapshot.round
        self._wave = Wave(Request(config.run_id, 0, ""), {}, (), 0)
        self._started = time.monotonic()
        self._optimizer = ServerOptimizer(config.training.server_learning_rate, config.training.server_momentum)
        self._shapes = {name: array.shape for name, array in snapshot.state.items()}
        width = sum(array.size for array in snapshot.state.values())
        self._bounds = {
            name: public_norm_bound(config, users=users, width=width) for name, users in enrolment.users.items()
        }

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
        content = RecordDict({FIELDS: pack(request, {})[FIELDS], ARRAYS: arrays})
        self._wave = Wave(request, *_connected(grid, self._enrolment), wire_size(content))
        return _messages(self._config, Kind.TRAIN, self._wave, content)

    @override
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Admit, average, step, report; the next global state.

        Raises:
            VoidWave: fewer updates than the plan's minimum are admitted.
        """
        users = self._enrolment.users
        expected = Expected(self._wave.request, Kind.TRAIN, self._shapes, users, self._bounds)
        updates, facts = gather(deliver(replies), self._wave, expected)
        require_cohort(facts, self._config)
        mean = weighted_mean([updates[name] for name in facts.accepted], [users[name] for name in facts.accepted])
        state, velocity = self._optimizer.step(self.snapshot.state, self.snapshot.velocity, mean)
        self.snapshot = replace(self.snapshot, round=facts.round, state=state, velocity=velocity)
        self._on_round(self.snapshot, replace(facts, seconds=time.monotonic() - self._started))
        return pack_arrays(self.snapshot.travelling), None

    @override
    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """No message: a metric of private data is a release, and the plan has none."""
        return []

    @override
    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing was asked."""
        return None


def _connected(grid: Grid, enrolment: Enrolment) -> tuple[dict[int, str], tuple[str, ...]]:
    # A message to a node that has gone would be waited for until the deadline.
    connected = set(grid.get_node_ids())
    nodes = {node: name for node, name in enrolment.nodes.items() if node in connected}
    return nodes, tuple(name for node, name in enrolment.nodes.items() if node not in connected)


def _messages(config: RunConfig, kind: Kind, wave: Wave, content: RecordDict) -> list[Message]:
    group, ttl = str(wave.request.round), config.round_timeout
    return [
        Message(content, dst_node_id=node, message_type=kind.value, ttl=ttl, group_id=group)
        for node in sorted(wave.nodes)
    ]


def _exchange(grid: Grid, config: RunConfig, kind: Kind, wave: Wave, content: RecordDict) -> Iterator[Delivery]:
    return deliver(grid.send_and_receive(_messages(config, kind, wave, content), timeout=config.round_timeout))
