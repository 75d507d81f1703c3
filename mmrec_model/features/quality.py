"""The quality section of a bundle's manifest, and the quarantine it may lead to: the catalogue alone, epsilon 0.

Promises:
1. Duplicates are named, never dropped; a disagreeing vector is dropped only where the configuration has a `quarantine`
   above 0, and then counted. The item stays in the catalogue either way.
2. With `quarantine` 0 the media are judged at the rate `REPORT_RATE`, for a person to look at.

Shapes: N items, M modalities, D raw width, K final width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmrec_model.canonical import JsonValue
from mmrec_model.config import Modality, TransformConfig
from mmrec_model.encoders.interface import Mask, Vectors
from mmrec_model.features.agreement import Agreement, judge
from mmrec_model.features.duplicates import Whole, find_duplicates

NAMED_ITEMS = 20
REPORT_RATE = 0.05


@dataclass(frozen=True)
class Encoded:
    """One modality before its transform.

    Attributes:
        inputs: what the encoder read of every item, None where it has nothing.
        raw_ND: the encoder's vectors, zeros where missing.
        present_N: items that have a vector.
    """

    inputs: Sequence[str | Path | None]
    raw_ND: Vectors
    present_N: Mask


@dataclass(frozen=True)
class Assessed:
    """Vectors and presence after the quarantine, and the manifest's entries.

    Attributes:
        vectors: final vectors [N, K] per modality, zeros where missing or in quarantine.
        present_NM: over the modalities of `vectors`.
        account: `{"quality": ...}`, or nothing where the configuration does not ask.
    """

    vectors: dict[Modality, Vectors]
    present_NM: npt.NDArray[np.bool_]
    account: dict[str, JsonValue]


def assess(
    encoded: Mapping[Modality, Encoded],
    vectors: dict[Modality, Vectors],
    present_NM: npt.NDArray[np.bool_],
    item_ids: Sequence[str],
    config: TransformConfig,
) -> Assessed:
    """Look for duplicates and disagreeing media, and take the latter out where the configuration says so.

    Args:
        encoded: what was encoded, for the modalities of `vectors`.
        vectors: final vectors [N, K] per modality, zeros where missing.
        present_NM: over the modalities of `vectors`, in their order.
        item_ids: N ids.
        config: whether and how.
    """
    if not config.quality:
        return Assessed(vectors, present_NM, {})
    agreements = judge(vectors, present_NM, config.quarantine or REPORT_RATE)
    kept, shown_NM = dict(vectors), present_NM.copy()
    accounts: dict[str, JsonValue] = {}
    for column, (name, one) in enumerate(encoded.items()):
        found = find_duplicates(one.inputs, one.raw_ND, one.present_N, config.near_duplicate)
        entry = {**_repeats("exact", found.exact_N, item_ids), **_repeats("near", found.near_N, item_ids)}
        if name in agreements:
            agreement = agreements[name]
            entry |= _disagreements(agreement, item_ids)
            entry["quarantined"] = int(agreement.flagged_N.sum()) if config.quarantine else 0
            if config.quarantine:
                shown_NM[agreement.flagged_N, column] = False
                kept[name] = np.where(agreement.flagged_N[:, None], np.float32(0.0), vectors[name])
        accounts[name] = entry
    settings: dict[str, JsonValue] = {"near_duplicate": config.near_duplicate, "quarantine": config.quarantine}
    return Assessed(kept, shown_NM, {"quality": {**settings, "modalities": accounts}})


def _repeats(kind: str, earlier_N: Whole, item_ids: Sequence[str]) -> dict[str, JsonValue]:
    """How many items repeat an earlier one, and the first of them, each with the earlier one."""
    positions = np.flatnonzero(earlier_N >= 0)
    first = positions[:NAMED_ITEMS].tolist()
    named: list[JsonValue] = [[item_ids[place], item_ids[earlier_N[place]]] for place in first]
    return {f"{kind}_duplicates": len(positions), f"{kind}_duplicate_items": named}


def _disagreements(agreement: Agreement, item_ids: Sequence[str]) -> dict[str, JsonValue]:
    """How many vectors disagree with their item, and the worst of them."""
    flagged = np.flatnonzero(agreement.flagged_N)
    worst = flagged[np.argsort(agreement.score_N[flagged], kind="stable")][:NAMED_ITEMS]
    return {
        "heard": [*agreement.sources],
        "judged": agreement.judged,
        "disagreeing": len(flagged),
        "disagreeing_items": [item_ids[place] for place in worst],
        "shuffled_caught_permille": round(1000 * agreement.caught),
    }
