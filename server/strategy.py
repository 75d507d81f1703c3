"""What is averaged in a training round: Flower's Strategy with the admission gate in front.

Every enrolled partner that is connected trains in every round; every reply, an error reply too, passes
`server.admission`, and counts only with a ledger that grew (`server.sites`). Fewer admitted replies than the plan's
`minimum_cohort` end the run with an error: a void round is never silent. The order in which replies arrive does not
matter: admitted updates are summed in the order of the partners' names.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from typing_extensions import override

from mmrec_model.config import RunConfig
from mmrec_model.privacy.clipping import clip_of, next_clip
from mmrec_model.privacy.witness import witness_size
from mmrec_model.protocol import CLIP_SHARE, WITNESS, Kind, Reply, Request
from server.admission import AnyArrays, Expected, public_norm_bound, public_share_bound
from server.aggregation import ServerOptimizer, weighted_mean
from server.checkpoint import Snapshot
from server.exchange import address
from server.journal import WaveFacts
from server.messages import deliver, pack_arrays
from server.sites import Sites
from server.waves import Enrolment, Wave, gather, require_cohort
from server.witness import WitnessWatch

_LOG = logging.getLogger(__name__)


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
            self._config.run_id,
            self._first_round + server_round,
            self._config.model_dump_json(),
            self.snapshot.digest,
            self.snapshot.scorer,
        )
        asked = address(grid, self._config, self._enrolment, self._sites, Kind.TRAIN, request, arrays)
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
        updates, facts = gather(deliver(replies), self._wave, expected, self._last_checks, self._sites.require_standing)
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
