"""The coordinator's statistical check of the noise: the witness block of every update, before the update counts.

A block is refused (`witness`) if its deviation, alone or together with the partner's earlier blocks of this run, is not
that of the planned noise, or if it correlates with an earlier block of the partner or another partner's block of the
same round. The laws and their error rates are in `mmrec_model.privacy.witness`. A refused block is not remembered: a
partner that repairs its noise is heard again. The memory is that of one process; a resumed run starts it anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from mmrec_model.config import RunConfig
from mmrec_model.privacy.witness import (
    Block,
    Spread,
    correlation_bound,
    correlations,
    direction,
    expected_deviation,
    ratio_bounds,
    witness_size,
)
from mmrec_model.protocol import WITNESS, Arrays, Reply
from server.admission import Reason, refuse

REMEMBERED = 256
"""Blocks kept per partner: 4 KiB each with the default size."""


class WitnessWatch:
    """The witness blocks of one run.

    Args:
        config: the plan.
        users: the enrolled partners and their public numbers of users.
    """

    def __init__(self, config: RunConfig, users: Mapping[str, int]) -> None:
        self._size = witness_size(config)
        self._per_clip = {name: expected_deviation(config, users=count, clip=1.0) for name, count in users.items()}
        self._spreads = dict.fromkeys(users, Spread())
        self._past: dict[str, deque[Block]] = {name: deque(maxlen=REMEMBERED) for name in users}
        self._round = -1
        self._heard: dict[str, Block] = {}

    @property
    def ratios(self) -> dict[str, float]:
        """Sample deviation over expected deviation of the partners admitted in the round, over their blocks so far."""
        return {name: round(self._spreads[name].ratio, 6) for name in sorted(self._heard)}

    def admit(self, reply: Reply, arrays: Arrays, *, clip: float) -> None:
        """Check the block of an update that passed every other check, and remember it.

        Args:
            reply: the update's fields.
            arrays: its arrays.
            clip: of the round.

        Raises:
            AdmissionError: `witness`.
        """
        if reply.round != self._round:
            self._round, self._heard = reply.round, {}
        if not self._size:
            return
        name, block_K = reply.partner, arrays[WITNESS]
        spread = self._check_spread(name, block_K, clip * self._per_clip[name])
        towards_K = direction(block_K)
        self._check_fresh(name, towards_K)
        self._spreads[name] = spread
        self._past[name].append(towards_K)
        self._heard[name] = towards_K

    def _check_spread(self, name: str, block_K: Block, expected: float) -> Spread:
        together = self._spreads[name].plus(block_K, expected)
        for spread in (Spread().plus(block_K, expected), together):
            if not spread.is_honest:
                low, high = ratio_bounds(spread.count)
                raise refuse(
                    Reason.WITNESS,
                    f"the noise of '{name}' has {spread.ratio:.4f} times the planned deviation over {spread.count} "
                    f"numbers, honest noise has {low:.4f} to {high:.4f}",
                )
        return together

    def _check_fresh(self, name: str, towards_K: Block) -> None:
        own = list(reversed(self._past[name]))
        whose = [f"its own of {age} updates before" for age in range(1, len(own) + 1)]
        whose += [f"that of '{other}'" for other in self._heard]
        if not whose:
            return
        found_R = np.abs(correlations(towards_K, np.array([*own, *self._heard.values()])))
        bound, worst = correlation_bound(self._size, pairs=len(whose)), int(found_R.argmax())
        if not found_R[worst] <= bound:
            raise refuse(
                Reason.WITNESS,
                f"the noise of '{name}' correlates at {found_R[worst]:.3f} with {whose[worst]}, limit {bound:.3f}",
            )
