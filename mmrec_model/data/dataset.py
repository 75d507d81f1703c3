"""A partner folder, opened: users, catalogue, train histories and held-out items, or a `DataError`.

Opening reads every file once and keeps no handle. Users without a usable interaction are not part of the data set;
users with impressions alone are, with an empty history.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmrec_model.data.catalogue import Catalogue, open_catalogue
from mmrec_model.data.categories import category_codes
from mmrec_model.data.feedback import Feedback, Labels, split_feedback
from mmrec_model.data.histories import Histories
from mmrec_model.data.interactions import read_interactions
from mmrec_model.data.schema import DEFAULT_LIMITS, Limits
from mmrec_model.data.split_rules import SplitRule
from mmrec_model.data.splits import first_items, split_interactions
from mmrec_model.data.users import check_users, read_user_columns
from mmrec_model.data.validation import ValidationReport

__all__ = ["Histories", "PartnerDataset", "open_partner", "read_user_columns"]


@dataclass(frozen=True, eq=False)
class PartnerDataset:
    """One partner's U users over N items.

    Attributes:
        root: the folder.
        user_ids: ids sorted as text, so that file order has no effect.
        catalogue: the items.
        report: what validation found in the folder's files; private to the partner.
        train: positives (every event but impressions) of the split "train": distinct items in time order.
        val_items: held-out items for choosing; at most one per user under leave-last-out.
        test_items: held-out items for the final figure; likewise.
        cold_items: of the user's items those that no partner trains on; empty unless the split holds items out.
        feedback: outcomes of the items that a user met up to the last train item; held-out items are not in it.
        later: outcomes of the items that a user first met after that, for the figures of a simulation alone.
    """

    root: Path
    user_ids: tuple[str, ...]
    catalogue: Catalogue
    report: ValidationReport
    train: Histories
    val_items: Histories
    test_items: Histories
    cold_items: Histories
    feedback: Feedback
    later: Feedback

    @cached_property
    def val(self) -> NDArray[np.int64]:
        """[U] the earliest validation item, or -1."""
        return first_items(self.val_items)

    @cached_property
    def test(self) -> NDArray[np.int64]:
        """[U] the earliest test item, or -1."""
        return first_items(self.test_items)

    def labels(self, categories: Sequence[str]) -> Labels:
        """What heads learn from.

        Args:
            categories: the public names; an item of another category has none.
        """
        return Labels(self.feedback, category_codes(self.catalogue.categories, categories))

    def __len__(self) -> int:
        """Number of users."""
        return len(self.user_ids)


def open_partner(
    folder: Path,
    *,
    catalogue: Catalogue | None = None,
    now: float | None = None,
    limits: Limits = DEFAULT_LIMITS,
    split: SplitRule | None = None,
) -> PartnerDataset:
    """Read and check a partner folder.

    Args:
        folder: holds `interactions.*`, and `items.*` unless a catalogue is given; `users.*` is checked if present.
        catalogue: item ids are checked against it; the folder's own items file is not read, nor is its report repeated.
        now: Unix seconds of "now"; rows later than it are quarantined. The clock's time by default.
        limits: bounds of the files.
        split: how to divide the interactions; by default as the folder pins, and leave-last-out where it pins nothing.

    Raises:
        DataError: a file is missing, damaged, above a limit, or has too many unusable rows.
    """
    root = Path(folder)
    reports = []
    if catalogue is None:
        catalogue = open_catalogue(root, limits=limits)
        reports.append(catalogue.report)
    rows = read_interactions(root, catalogue.item_ids, now=time.time() if now is None else now, limits=limits)
    parts = split_interactions(rows, catalogue.item_ids, split)
    feedback, later = split_feedback(rows, parts, len(catalogue))
    reports += [rows.report, ValidationReport(notices=parts.notices), check_users(root, rows.user_ids, limits=limits)]
    report = ValidationReport.merged(reports)
    return PartnerDataset(root, rows.user_ids, catalogue, report, parts.train, *parts.held_out, feedback, later)
