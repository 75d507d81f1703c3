"""The collaborative scorer of the run that is under way, kept so that it crosses the wire once and not every round.

It is public: made by the coordinator of releases that were paid for. A request that needs it names its digest; what
lies here under another digest does not count.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load, save

from mmrec_model.config import RunConfig
from mmrec_model.errors import ProtocolError
from mmrec_model.protocol import FEATURE_MAP, METRIC, SCORER, SELECTED, Arrays, arrays_digest
from mmrec_model.storage import write_atomically

_FILE = "scorer.safetensors"


def keep_scorer(folder: Path, arrays: Arrays, config: RunConfig) -> None:
    """Store the scorer of a run in place of the one before.

    Args:
        folder: the site's inbox.
        arrays: of pairs of items `scorer` and `selected`, of pairs of features `metric` and `feature_map`.
        config: the plan.

    Raises:
        ProtocolError: other arrays, or of another size.
    """
    items, dims = config.collaboration.items, config.collaboration.dims
    of_items = {SCORER: (items, items), SELECTED: (items,)} if items else {}
    of_features = {METRIC: (dims, dims), FEATURE_MAP: (sum(config.model_dims.values()), dims)} if dims else {}
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != of_items | of_features:
        raise ProtocolError(
            f"a scorer of the arrays {shapes}, the plan has {items} items and {dims} dimensions",
            remedy="Send the plan's own",
        )
    write_atomically(folder / _FILE, save(arrays))


def kept_scorer(folder: Path) -> Arrays:
    """`scorer` and `selected` as they lie here, whatever their digest; nothing without a readable file."""
    try:
        arrays: Arrays = load((folder / _FILE).read_bytes())
    except (OSError, SafetensorError):
        arrays = {}
    return arrays


def find_scorer(folder: Path, digest: str) -> Arrays:
    """The arrays as they were sent; nothing for an empty digest.

    Raises:
        ProtocolError: none with this digest was sent, or the file is damaged.
    """
    if not digest:
        return {}
    arrays = kept_scorer(folder)
    if arrays_digest(arrays) != digest:
        raise ProtocolError(
            f"this site does not have the scorer {digest[:12]} that the request names", remedy="Send it first"
        )
    return arrays
