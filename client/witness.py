"""The partner's own look at its witness block, before the commit: an update whose noise is not right stays here.

The laws are those by which the coordinator judges (`mmrec_model.privacy.witness`). The block of the last committed
round lies in a file of the site, so that noise which repeats is found. The file is replaced after the commit: a crash
between the two leaves an older block, which is as good to compare with.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from mmrec_model.config import RunConfig
from mmrec_model.errors import PrivacyError
from mmrec_model.privacy.witness import (
    Block,
    Spread,
    correlation_bound,
    correlations,
    direction,
    expected_deviation,
    ratio_bounds,
)
from mmrec_model.protocol import WITNESS, Arrays
from mmrec_model.storage import write_atomically


def check(path: Path, config: RunConfig, arrays: Arrays, *, users: int, clip: float | None) -> dict[str, object] | None:
    """Judge the block of a finished update.

    Args:
        path: the block of the last committed round, if there is one.
        config: the plan.
        arrays: the finished reply.
        users: the public number of users.
        clip: of the round; None in a run without noise.

    Returns:
        The `witness` of the commit record; None if the reply has no block.

    Raises:
        PrivacyError: the deviation is not that of the planned noise, or the noise is that of the round before.
    """
    block_K = arrays.get(WITNESS)
    if block_K is None or clip is None:
        return None
    spread = Spread().plus(block_K, expected_deviation(config, users=users, clip=clip))
    if not spread.is_honest:
        low, high = ratio_bounds(spread.count)
        raise PrivacyError(
            f"the noise of the update has {spread.ratio:.4f} times the planned deviation, honest noise has {low:.4f} "
            f"to {high:.4f}",
            remedy="Release nothing; check the installed training code",
        )
    before_K = _read(path, block_K.size)
    found = None if before_K is None else float(correlations(direction(block_K), direction(before_K)[None])[0])
    bound = correlation_bound(block_K.size)
    if found is not None and not abs(found) <= bound:
        raise PrivacyError(
            f"the noise of the update correlates at {found:.3f} with the round before, the limit is {bound:.3f}",
            remedy="Release nothing; the source of randomness repeats itself",
        )
    return {"coordinates": block_K.size, "deviation_ratio": spread.ratio, "correlation": found}


def remember(path: Path, arrays: Arrays) -> None:
    """Keep the block of a committed update for the next comparison."""
    if WITNESS in arrays:
        stream = io.BytesIO()
        np.save(stream, arrays[WITNESS], allow_pickle=False)
        write_atomically(path, stream.getvalue(), mode=0o600)


def _read(path: Path, size: int) -> Block | None:
    """The kept block; one that is missing, damaged or of another size means only that there is nothing to compare."""
    try:
        kept = np.asarray(np.load(path, allow_pickle=False), np.float32)
    except (OSError, ValueError, EOFError):
        return None
    return kept if kept.shape == (size,) and bool(np.isfinite(kept).all()) else None
