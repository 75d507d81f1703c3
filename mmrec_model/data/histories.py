"""Histories: the items of each user in time order, as one compressed array (CSR)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmrec_model.errors import DataError

if TYPE_CHECKING:
    import scipy.sparse


@dataclass(frozen=True, eq=False)
class Histories:
    """Items of U users, R in total; the arrays are made read-only.

    Attributes:
        offsets: [U + 1]; user u owns `items[offsets[u]:offsets[u + 1]]`.
        items: [R] indices into the catalogue, in time order within a user, distinct within a user.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int64]

    def __post_init__(self) -> None:
        fits = len(self.offsets) > 0 and self.offsets[0] == 0 and self.offsets[-1] == len(self.items)
        if not fits or bool(np.any(np.diff(self.offsets) < 0)):
            raise DataError(
                f"{len(self.offsets)} offsets do not describe {len(self.items)} items",
                remedy="Offsets start at 0, never fall, and end at the number of items",
            )
        self.offsets.setflags(write=False)
        self.items.setflags(write=False)

    @classmethod
    def grouped(cls, users_R: NDArray[np.int64], items_R: NDArray[np.int64], n_users: int) -> Histories:
        """Compress rows that are already sorted by user, then time."""
        offsets = np.zeros(n_users + 1, dtype=np.int64)
        np.cumsum(np.bincount(users_R, minlength=n_users), out=offsets[1:])
        return cls(offsets, items_R.astype(np.int64))

    def __len__(self) -> int:
        """Number of users."""
        return len(self.offsets) - 1

    def of(self, user: int) -> NDArray[np.int64]:
        """Items of one user, oldest first."""
        if not 0 <= user < len(self):
            raise DataError(f"User {user} is outside 0..{len(self) - 1}", remedy="Use an index of `user_ids`")
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def matrix(self, n_items: int) -> scipy.sparse.csr_matrix:
        """Binary matrix [U, n_items], float32, columns sorted within a row."""
        from scipy.sparse import csr_matrix  # noqa: PLC0415  (only baselines need SciPy)

        ones = np.ones(len(self.items), dtype=np.float32)
        matrix = csr_matrix((ones, self.items.copy(), self.offsets.copy()), shape=(len(self), n_items))
        matrix.sort_indices()
        return matrix
