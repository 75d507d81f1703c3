"""The rungs of the ladder: from what costs nothing to what was trained, each a recommender of its own.

    popularity      the DP popularity prior alone                              one release
    content         the free content profile alone                             epsilon 0
    free            content and prior                                          one release
    pairs           the scorer made of the released pairs alone                two releases
    collaboration   content, prior and pairs                                   two releases
    trained         all of that and the privately trained residual             the whole plan

A rung is the exported model with some free terms switched off and, below `trained`, an untrained residual. The gate
compares the rungs of a plan on the partners' validation items by one priced release (`client.comparison`), and only
what is not below any simpler rung is exported (`server.gate`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from mmrec_model.config import RunConfig

TRAINED: Final = "trained"
SAFE: Final = "free"
"""What is exported where the gate has no figures: it needs no trust in training."""
_TERMS: Final = {
    "popularity": ("prior",),
    "content": ("content",),
    SAFE: ("content", "prior"),
    "pairs": ("pairs",),
    "collaboration": ("content", "prior", "pairs"),
}


def rungs_of(config: RunConfig) -> tuple[str, ...]:
    """The rungs that a plan has, from the simplest up."""
    return rung_names(pairs=config.collaboration.released, trained=config.training.rounds > 0)


def rung_names(*, pairs: bool, trained: bool) -> tuple[str, ...]:
    """The rungs of a plan that releases pairs, or trains, or neither; from the simplest up."""
    without = () if pairs else ("pairs", "collaboration")
    below = tuple(name for name in _TERMS if name not in without)
    return (*below, TRAINED) if trained else below


def kept_terms(config: RunConfig, rung: str) -> npt.NDArray[np.float32]:
    """1 for each free term of the score that the rung has, else 0, `[S]`: modalities, prior, pairs if there are any."""
    terms = _TERMS.get(rung, ("content", "prior", "pairs"))
    switches = [float("content" in terms)] * len(config.model_dims) + [float("prior" in terms)]
    if config.collaboration.released:
        switches.append(float("pairs" in terms))
    return np.array(switches, dtype=np.float32)
