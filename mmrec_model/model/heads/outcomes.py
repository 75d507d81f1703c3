"""What the heads see of a batch of users: rows of feedback as tensors, and user and item as vectors.

Dim 0 of every tensor is the user, so that a gradient per sample stays a gradient per user.

Legend: B users, F rows of feedback of a user, K places of the history, H width of the fused space, S free terms.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmrec_model.model.items import Items

if TYPE_CHECKING:
    from mmrec_model.data.feedback import FeedbackBatch


@dataclass(frozen=True)
class Outcomes:
    """Rows of feedback, padded; see `mmrec_model.data.feedback.FeedbackBatch`.

    Attributes:
        items_BF: catalogue indices.
        mask_BF: True where real.
        shown_BF: whether the row says if a shown item was clicked.
        clicked_BF: whether it was clicked.
        converted_BF: whether it was converted.
        rated_BF: whether there is a rating.
        ratings_BF: float32, 0 where there is none.
        hour_BF: bucket of the time of day.
        weekday_BF: day of the week.
        category_BF: public class number of the row's item, -1 for none.
        category_BK: the same of the items of the history.
        kept_BFM: False where a modality of the row's item is hidden from that user in this step; None to hide nothing.
    """

    items_BF: Tensor
    mask_BF: Tensor
    shown_BF: Tensor
    clicked_BF: Tensor
    converted_BF: Tensor
    rated_BF: Tensor
    ratings_BF: Tensor
    hour_BF: Tensor
    weekday_BF: Tensor
    category_BF: Tensor
    category_BK: Tensor
    kept_BFM: Tensor | None = None

    @classmethod
    def from_rows(
        cls,
        rows: FeedbackBatch,
        history_BK: npt.NDArray[np.int64],
        category_N: npt.NDArray[np.int64],
        kept_BFM: npt.NDArray[np.bool_] | None = None,
    ) -> Outcomes:
        """Tensors of drawn rows.

        Args:
            rows: the rows.
            history_BK: catalogue indices of the history of the same users.
            category_N: class number of every item, -1 for none.
            kept_BFM: which modalities of the rows' items stay (`mmrec_model.data.batches.draw_kept`).
        """
        columns = {part.name: torch.from_numpy(np.ascontiguousarray(getattr(rows, part.name))) for part in fields(rows)}
        columns["ratings_BF"] = columns["ratings_BF"].float()
        category_BF, category_BK = (torch.from_numpy(category_N[items]) for items in (rows.items_BF, history_BK))
        kept = None if kept_BFM is None else torch.from_numpy(kept_BFM)
        return cls(**columns, category_BF=category_BF, category_BK=category_BK, kept_BFM=kept)

    def part(self, start: int, stop: int) -> Outcomes:
        """The users `start:stop`."""
        columns = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "kept_BFM"}
        kept = None if self.kept_BFM is None else self.kept_BFM[start:stop]
        return Outcomes(**{name: rows[start:stop] for name, rows in columns.items()}, kept_BFM=kept)

    def items(self, catalogue: Items) -> Items:
        """The items of the rows `[B, F]`, without what is hidden from the user."""
        items = catalogue.take(self.items_BF)
        return items if self.kept_BFM is None else items.hiding(self.kept_BFM)


@dataclass(frozen=True)
class Pairs:
    """A user's vector for each row, beside the row's item.

    Attributes:
        users_BFH: the user without the row's own item.
        items_BFH: the fused item.
        terms_BFS: what the free recommender knows: weighted similarity per modality, and the popularity prior.
    """

    users_BFH: Tensor
    items_BFH: Tensor
    terms_BFS: Tensor
