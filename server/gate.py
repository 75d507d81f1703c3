"""The gate: what is exported is the rung of the ladder with the best released score, however much training cost.

The partners release one noised sum per rung on their validation items (`client.comparison`). The rung with the largest
mean is exported, the simpler one where two are equal: a trained model that is below any floor never leaves as the
result of a run. The choice looks at the release alone, so it costs nothing more; noise can make it wrong between rungs
that differ by less than their standard errors, and the report shows both. Where there is no figure, the floor `free` is
exported, because nothing shows that training did no harm.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from mmrec_model.config import RunConfig
from mmrec_model.ladder import SAFE, TRAINED, kept_terms, rungs_of
from mmrec_model.protocol import Arrays
from server.checkpoint import Snapshot
from server.measurement import Measured


@dataclass(frozen=True)
class Verdict:
    """What the gate decided.

    Attributes:
        rung: what is exported.
        measured: the released scores; None where there is no figure.
    """

    rung: str
    measured: Measured | None

    def to_json(self) -> dict[str, Any]:
        """Plain values for `run.jsonl`."""
        return asdict(self)


def decide(config: RunConfig, measured: Measured | None) -> Verdict:
    """The rung to export, from the released scores alone."""
    if measured is None or not measured.metrics:
        return Verdict(SAFE, measured)
    # `max` keeps the first of equals, and the rungs stand from the simplest up.
    return Verdict(max(rungs_of(config), key=lambda rung: measured.metrics[rung].value), measured)


def gated(config: RunConfig, snapshot: Snapshot, verdict: Verdict, initial: Arrays) -> Snapshot:
    """The state of the rung: the trained arrays or, below `trained`, the untrained ones, and what the score keeps."""
    state = snapshot.state if verdict.rung == TRAINED else initial
    return replace(snapshot, state=state, kept_terms=kept_terms(config, verdict.rung))
