"""The cap of the popularity release, chosen by one release of activity, and kept in the coordinator's folder.

`activity.json` holds the cap, the noised numbers of users by bucket that it was chosen by, and the digest of the plan.
It is written before any partner is told the cap: a partner refuses a second cap in a run, and a coordinator that starts
again must name the first one. What is lost before that is asked for again: a partner answers with the same bytes, at no
further price.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmrec_model.activity import bucket_edges, chosen_cap
from mmrec_model.config import RunConfig
from mmrec_model.storage import write_atomically

_FILE = "activity.json"


def choose(config: RunConfig, counts: np.ndarray[Any, np.dtype[np.float64]] | None, noise: float) -> Mapping[str, Any]:
    """The cap and what it was chosen by.

    Args:
        config: the plan.
        counts: noised users by bucket, of all partners; None where too few released them, which leaves the plan's cap.
        noise: standard deviation of the noise in each number.
    """
    privacy = config.privacy
    cap = privacy.popularity_cap if counts is None else chosen_cap(counts, privacy, noise=noise)
    figures = None if counts is None else [round(float(count), 3) for count in counts]
    return {"cap": cap, "edges": list(bucket_edges(privacy.popularity_cap)), "counts": figures, "noise": noise}


def keep(folder: Path, config: RunConfig, chosen: Mapping[str, Any]) -> None:
    """Write the file."""
    write_atomically(folder / _FILE, json.dumps({**chosen, "plan_digest": config.digest}, indent=1).encode())


def find(folder: Path, config: RunConfig) -> int | None:
    """The cap that was chosen before in this run; None without one, or where the file is damaged or of another plan."""
    try:
        known = json.loads((folder / _FILE).read_bytes())
        cap = int(known["cap"]) if known["plan_digest"] == config.digest else 0
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return cap if 1 <= cap <= config.privacy.popularity_cap else None


def cap_in_force(folder: Path, config: RunConfig) -> int:
    """Distinct items of a user that the popularity release counted: the chosen cap, or the plan's where none was."""
    return find(folder, config) or config.privacy.popularity_cap
