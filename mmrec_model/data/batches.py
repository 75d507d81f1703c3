"""User batches: one row is one user's whole bounded history, the unit of privacy.

Shapes: B users of the batch, K = `max_history`, N = `negatives`, L = K + N, M modalities of the catalogue.

Guarantees, each tested:
1. Shapes depend on public arguments alone; K is constant whatever the histories hold.
2. The draws of a user are a function of (seed, the user's index, the user's own items, public arguments). Replacing
   another user's data by nothing, or changing who else is in the batch, changes no other row.
3. A history longer than K is a uniformly random subset without replacement, in time order: the rule does not look
   at the items.
4. Negatives are independent and uniform over the catalogue without the user's train items, and held-out items are
   as likely as any other: leaving them out would tell the model which items are held out. A user who has every item
   has nothing to draw from, and gets uniform items of the whole catalogue.
5. Which modalities of an item are hidden from a user depends on the seed, the user's index and the item alone, so an
   item that is drawn twice looks the same both times.

Draws are counter-based: the output function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) over a per-user key and
a position. They choose training examples; nothing secret and no privacy noise comes from them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmrec_model.data.histories import Histories
from mmrec_model.errors import DataError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_HISTORY_STREAM = 0x6869_7374_6F72_7900
_NEGATIVE_STREAM = 0x6E65_6761_7469_7600
_MODALITY_STREAM = 0x6D6F_6461_6C69_7479
_PLACE_STREAM = 0x706C_6163_6573_0000
_MASK_64 = (1 << 64) - 1


@dataclass(frozen=True, eq=False)
class UserBatch:
    """B users.

    Attributes:
        history_BK: catalogue indices, oldest first, 0 where padded.
        mask_BK: True where real; real entries come first.
        negatives_BN: catalogue indices, none of them a train item of that user.
        kept_BLM: False where a modality of an item of the history, then of the negatives, is hidden; None where
            nothing is hidden.
    """

    history_BK: NDArray[np.int64]
    mask_BK: NDArray[np.bool_]
    negatives_BN: NDArray[np.int64]
    kept_BLM: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class _Rows:
    """All R train items of the batch's users: the item, the row of its owner, its place in time, and counts [B]."""

    items_R: NDArray[np.int64]
    owners_R: NDArray[np.int64]
    places_R: NDArray[np.int64]
    counts_B: NDArray[np.int64]


def draw_batch(
    histories: Histories,
    users: NDArray[np.int64],
    *,
    n_items: int,
    max_history: int,
    negatives: int,
    seed: int,
    modalities: int = 0,
    modality_dropout: float = 0.0,
) -> UserBatch:
    """Draw the training rows of `users`.

    Args:
        histories: train items of all users.
        users: [B] user indices; may be empty.
        n_items: size of the catalogue.
        max_history: K, at least 1.
        negatives: N, at least 0.
        seed: any integer; 64 bits of it count. Another seed gives independent draws.
        modalities: M of the catalogue; read where some of them are to be hidden.
        modality_dropout: probability with which each modality of each item is hidden from a user, in [0, 1).

    Raises:
        DataError: an argument is outside its range, or a user or item index is outside the data.
    """
    users_B = np.asarray(users, dtype=np.int64)
    _check(histories, users_B, n_items, max_history, negatives)
    rows = _gathered(histories, users_B)
    if len(rows.items_R) and not 0 <= rows.items_R.min() <= rows.items_R.max() < n_items:
        raise DataError(
            f"A history holds an item index of {rows.items_R.min()}..{rows.items_R.max()}, outside 0..{n_items - 1}",
            remedy="Open the data with the catalogue that the run uses",
        )
    history_BK, mask_BK = _bounded(rows, max_history, _keys(users_B, seed ^ _HISTORY_STREAM))
    negatives_BN = _negatives(rows, n_items, negatives, _keys(users_B, seed ^ _NEGATIVE_STREAM))
    items_BL = np.concatenate([history_BK, negatives_BN], axis=1)
    kept_BLM = draw_kept(items_BL, users_B, modalities=modalities, modality_dropout=modality_dropout, seed=seed)
    return UserBatch(history_BK, mask_BK, negatives_BN, kept_BLM)


def draw_kept(
    items_BL: NDArray[np.int64], users: NDArray[np.int64], *, modalities: int, modality_dropout: float, seed: int
) -> NDArray[np.bool_] | None:
    """Which modalities of these items are not hidden from the users, `[B, L, M]`; None where nothing is to be hidden.

    With the seed of a `draw_batch` an item looks as it does there.

    Args:
        items_BL: catalogue indices, any number for each user.
        users: [B] user indices.
        modalities: M of the catalogue; read where some of them are to be hidden.
        modality_dropout: probability with which each modality of each item is hidden from a user, in [0, 1).
        seed: any integer; 64 bits of it count.

    Raises:
        DataError: an argument is outside its range.
    """
    if not modality_dropout:
        return None
    if not 0.0 < modality_dropout < 1.0 <= modalities:
        raise DataError(
            f"modality_dropout is {modality_dropout} of {modalities} modalities, outside 0 to 1 of at least 1",
            remedy="Use the rate of the run and the modalities of its features",
        )
    keys_B = _keys(np.asarray(users, dtype=np.int64), seed ^ _MODALITY_STREAM)
    return _kept(items_BL, modalities, modality_dropout, keys_B)


def draw_places(
    offsets: NDArray[np.int64], users: NDArray[np.int64], *, most: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows of a compressed table that a step may see: all of a user's, or a uniformly random `most` of them.

    The laws 1 to 3 above hold, for rows of any kind; the draws are independent of those of `draw_batch`.

    Args:
        offsets: [U + 1]; user u owns the rows `offsets[u]:offsets[u + 1]`.
        users: [B] user indices; may be empty.
        most: at least 1.
        seed: any integer; 64 bits of it count.

    Returns:
        Row numbers [B, most], in order, 0 where padded; and a mask, real rows first.

    Raises:
        DataError: an argument is outside its range.
    """
    users_B = np.asarray(users, dtype=np.int64)
    table = Histories(offsets, np.arange(offsets[-1], dtype=np.int64))
    _check(table, users_B, 1, most, 0)
    return _bounded(_gathered(table, users_B), most, _keys(users_B, seed ^ _PLACE_STREAM))


def _check(histories: Histories, users_B: NDArray[np.int64], n_items: int, max_history: int, negatives: int) -> None:
    for name, value, limit in (("n_items", n_items, 1), ("max_history", max_history, 1), ("negatives", negatives, 0)):
        if value < limit:
            raise DataError(f"{name} is {value}, below the limit of {limit}", remedy=f"Raise {name}")
    if len(users_B) and not 0 <= users_B.min() <= users_B.max() < len(histories):
        raise DataError(
            f"User indices span {users_B.min()}..{users_B.max()}, outside 0..{len(histories) - 1}",
            remedy="Use indices of this data set's `user_ids`",
        )


def _gathered(histories: Histories, users_B: NDArray[np.int64]) -> _Rows:
    counts_B = histories.offsets[users_B + 1] - histories.offsets[users_B]
    owners_R = np.repeat(np.arange(len(users_B)), counts_B)
    places_R = np.arange(len(owners_R)) - _starts(counts_B)[owners_R]
    items_R = histories.items[histories.offsets[users_B][owners_R] + places_R]
    return _Rows(items_R, owners_R, places_R, counts_B)


def _bounded(rows: _Rows, max_history: int, keys_B: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """History and mask; of a long history, the K places with the smallest draws, in time order."""
    kept_R = np.ones(len(rows.items_R), dtype=np.bool_)
    long = np.flatnonzero(rows.counts_B[rows.owners_R] > max_history)
    if len(long):
        owners, places = rows.owners_R[long], rows.places_R[long]
        order = np.lexsort((_draws(keys_B[owners], places), owners))
        kept_R[long[order]] = places < max_history  # the rank of a draw within its user runs as the places do
    sizes_B = np.minimum(rows.counts_B, max_history)
    columns_R = np.cumsum(kept_R) - 1 - _starts(sizes_B)[rows.owners_R]
    history_BK = np.zeros((len(sizes_B), max_history), dtype=np.int64)
    history_BK[rows.owners_R[kept_R], columns_R[kept_R]] = rows.items_R[kept_R]
    return history_BK, np.arange(max_history) < sizes_B[:, None]


def _negatives(rows: _Rows, n_items: int, negatives: int, keys_B: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Exactly uniform without rejection: draw a rank among the items the user does not have, then skip the others.

    With the user's items sorted as s_0 < s_1 < ..., there are s_i - i other items below s_i; the item of rank j is
    j plus the number of i with s_i - i <= j.
    """
    width = n_items + 1
    owned = np.unique(rows.owners_R * width + rows.items_R)
    owners = owned // width
    counts_B = np.bincount(owners, minlength=len(keys_B))
    starts_B = _starts(counts_B)
    below = owned - (np.arange(len(owned)) - starts_B[owners])
    everything_B = counts_B == n_items
    choices_B = np.where(everything_B, n_items, n_items - counts_B).astype(np.uint64)
    draws_BN = _draws(keys_B[:, None], np.arange(negatives)[None, :])
    ranks_BN = (draws_BN % choices_B[:, None]).astype(np.int64)
    wanted_BN = np.arange(len(keys_B))[:, None] * width + ranks_BN
    skipped_BN = np.searchsorted(below, wanted_BN.ravel(), side="right").reshape(wanted_BN.shape) - starts_B[:, None]
    return np.where(everything_B[:, None], ranks_BN, ranks_BN + skipped_BN)


def _kept(
    items_BL: NDArray[np.int64], modalities: int, dropout: float, keys_B: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Each modality of each item is hidden where its 53-bit uniform number is below `dropout`."""
    places_BLM = items_BL[..., None] * modalities + np.arange(modalities)
    uniform_BLM = (_draws(keys_B[:, None, None], places_BLM) >> np.uint64(11)) * 2.0**-53
    return np.asarray(uniform_BLM >= dropout)


def _starts(counts_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of B consecutive groups of these sizes begins."""
    return np.cumsum(counts_B) - counts_B


def _keys(users_B: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """One 64-bit key per user, by two rounds of mixing."""
    root = _mixed(np.asarray([seed & _MASK_64], dtype=np.uint64))
    return _mixed(root ^ _mixed((users_B.astype(np.uint64) + np.uint64(1)) * _GOLDEN))


def _draws(keys: NDArray[np.uint64], places: NDArray[np.int64]) -> NDArray[np.uint64]:
    return _mixed(keys + (places.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Output function of SplitMix64, a bijection of 64-bit words."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
