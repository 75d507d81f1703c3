"""What a partner folder holds, in figures. They come from private data without noise: for the partner's screen alone.

A user's history is counted in distinct positive items, as training does; interactions are positive rows, repeated
ones included.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrec_model.config import PrivacyConfig, TrainingConfig
from mmrec_model.config_ladder import CollaborationConfig
from mmrec_model.data.catalogue import Catalogue, open_catalogue
from mmrec_model.data.interactions import Interactions, read_interactions
from mmrec_model.data.schema import DEFAULT_LIMITS, EVENTS, MEDIA, SILO_PREFIX, Limits
from mmrec_model.data.splits import Split, split_interactions
from mmrec_model.data.users import check_users, read_user_columns
from mmrec_model.data.validation import ValidationReport

QUANTILES = (0, 10, 25, 50, 75, 90, 99, 100)
FEW_USERS = 1000
SMALL_SILO = 50
"""Users below which `mmrec simulate` merges a partner with others."""
_CAPS = {
    "pairs": int(CollaborationConfig().history),
    "popularity": int(PrivacyConfig.model_fields["popularity_cap"].default),
    "training": int(TrainingConfig().max_history),
}
_SHOWN_SILOS = 8
_SHOWN_RATINGS = 11
_LEAST_TEXT = 0.9
_SHORT_HISTORY = 5

Ints = NDArray[np.int64]


def describe_folder(folder: Path, *, now: float | None = None, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """Figures of a partner folder, as JSON types.

    Args:
        folder: in partner format.
        now: Unix seconds; later rows are quarantined. The clock's time by default.
        limits: bounds of the files.

    Raises:
        DataError: the folder cannot be used.
    """
    catalogue = open_catalogue(folder, limits=limits)
    moment = time.time() if now is None else now
    rows = read_interactions(folder, catalogue.item_ids, now=moment, limits=limits)
    split = split_interactions(rows, catalogue.item_ids)
    users = check_users(folder, rows.user_ids, limits=limits)
    report = ValidationReport.merged([catalogue.report, rows.report, users])
    pairs = np.unique(rows.users_R[rows.positive_R] * len(catalogue) + rows.items_R[rows.positive_R])
    lengths_U = np.bincount(pairs // len(catalogue), minlength=len(rows.user_ids))
    counts_N = np.bincount(rows.items_R[rows.positive_R], minlength=len(catalogue))
    figures: dict[str, Any] = {
        "users": len(rows.user_ids),
        "items": len(catalogue),
        "interactions": int(rows.positive_R.sum()),
        "impressions": int((~rows.positive_R).sum()),
        "distinct_pairs": len(pairs),
        "density": len(pairs) / (len(rows.user_ids) * len(catalogue)),
        "from": _day(rows.seconds_R.min()),
        "to": _day(rows.seconds_R.max()),
        "history_length": _quantiles(lengths_U),
        "users_with_short_history": int((lengths_U < _SHORT_HISTORY).sum()),
        "popularity_deciles": _deciles(counts_N),
        "items_never_met": int((counts_N == 0).sum()),
        "events": _events(rows),
        "ratings": _ratings(rows),
        "media": _media(catalogue, counts_N),
        "text_length": _text_lengths(catalogue),
        "silos": _silos(folder, rows.user_ids, limits),
        "split": _split(split),
        "bounded": bounded_shares(np.diff(split.train.offsets)),
        "quarantined": report.quarantined,
    }
    return figures | {"warnings": list(_warnings(figures))}


def bounded_shares(lengths_U: Ints) -> dict[str, list[float]]:
    """What the bounds of the unit of privacy leave out, by release and activity group.

    Args:
        lengths_U: train items of each user.

    Returns:
        For each release with a bound (the defaults of a plan), the share of the train items of each quarter of the
        users, the least active first, that the release cannot see.
    """
    quarters = [part for part in np.array_split(np.sort(lengths_U), 4) if part.sum()]
    return {
        name: [float(1.0 - np.minimum(part, cap).sum() / part.sum()) for part in quarters]
        for name, cap in _CAPS.items()
    }


def _quantiles(values: Ints) -> dict[str, int]:
    """Quantiles that are values themselves."""
    found = np.percentile(values, QUANTILES, method="inverted_cdf")
    return {f"p{share}": int(value) for share, value in zip(QUANTILES, found, strict=True)}


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(float(seconds), UTC).date().isoformat()


def _deciles(counts_N: Ints) -> list[float]:
    """Share of the interactions that each tenth of the items has, the most popular tenth first."""
    total = max(int(counts_N.sum()), 1)
    return [float(part.sum() / total) for part in np.array_split(np.sort(counts_N)[::-1], 10)]


def _events(rows: Interactions) -> dict[str, int]:
    counts = np.bincount(rows.events_R + 1, minlength=len(EVENTS) + 1)
    return {name: int(count) for name, count in zip(("none", *EVENTS), counts, strict=True) if count}


def _ratings(rows: Interactions) -> dict[str, Any] | None:
    """Share of rows with a rating, mean, and the counts of the values where these are few; None without ratings."""
    rated = rows.ratings_R[~np.isnan(rows.ratings_R)]
    if not len(rated):
        return None
    values, counts = np.unique(rated, return_counts=True)
    few = len(values) <= _SHOWN_RATINGS
    return {
        "share": len(rated) / len(rows.ratings_R),
        "mean": float(rated.mean()),
        "lowest": float(values[0]),
        "highest": float(values[-1]),
        "counts": {f"{value:g}": int(count) for value, count in zip(values, counts, strict=True)} if few else None,
    }


def _media(catalogue: Catalogue, counts_N: Ints) -> dict[str, dict[str, float]]:
    """Share of the items, and of the interactions, whose item has a text (title or text) or a file of a medium."""
    titled = zip(catalogue.titles, catalogue.texts, strict=True)
    has = {"text": [bool(title.strip() or text.strip()) for title, text in titled]}
    has |= {medium: [path is not None for path in catalogue.media[medium]] for medium in MEDIA}
    total = max(int(counts_N.sum()), 1)
    return {
        name: {"items": float(np.mean(held)), "interactions": float(counts_N[np.array(held)].sum() / total)}
        for name, held in has.items()
    }


def _text_lengths(catalogue: Catalogue) -> dict[str, int]:
    pairs = zip(catalogue.titles, catalogue.texts, strict=True)
    return _quantiles(np.array([len(f"{title} {text}".strip()) for title, text in pairs], dtype=np.int64))


def _silos(folder: Path, user_ids: tuple[str, ...], limits: Limits) -> dict[str, dict[str, Any]]:
    """By column: number of values, users of the largest ones, users without a value, and silos that are small."""
    known = read_user_columns(folder, limits=limits)
    names = sorted({name for values in known.values() for name in values if name.startswith(SILO_PREFIX)})
    silos = {}
    for name in names:
        values = [known.get(user, {}).get(name, "").strip() for user in user_ids]
        labels, counts = np.unique([value for value in values if value], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        silos[name] = {
            "values": len(labels),
            "largest": {str(labels[place]): int(counts[place]) for place in order[:_SHOWN_SILOS]},
            "unknown": sum(not value for value in values),
            "below_50": int((counts < SMALL_SILO).sum()),
        }
    return silos


def _split(split: Split) -> dict[str, int]:
    validated, tested = (np.diff(part.offsets) > 0 for part in (split.val_items, split.test_items))
    unseen = ~np.isin(split.test_items.items, split.train.items)
    owners = np.repeat(np.arange(len(split.train)), np.diff(split.test_items.offsets))
    return {
        "train_rows": len(split.train.items),
        "validation_users": int(validated.sum()),
        "test_users": int(tested.sum()),
        "all_train_users": int((~validated & ~tested).sum()),
        "cold_test_users": len(np.unique(owners[unseen])),
    }


def _warnings(figures: dict[str, Any]) -> Iterator[str]:
    if figures["users"] < FEW_USERS:
        yield (
            f"{figures['users']:,} users, below {FEW_USERS:,}: at epsilon 8 noise hides which items go together; the "
            "content of items and the popularity prior are the rungs that make sense"
        )
    text = figures["media"]["text"]
    if text["items"] < _LEAST_TEXT:
        yield f"{1 - text['items']:.0%} of the items have neither title nor text"
    media = [medium for medium in MEDIA if figures["media"][medium]["items"] > 0]
    if text["items"] == 0 and not media:
        yield "no item has any content: nothing can be recommended that nobody met"
    if not figures["silos"]:
        yield "no silo_* column: simulate with --partners"
    yield from (
        f"{name}: {silo['below_50']} of {silo['values']} values have fewer than {SMALL_SILO} users and are merged"
        for name, silo in figures["silos"].items()
        if silo["below_50"]
    )
    if figures["split"]["test_users"] == 0:
        yield "no user has a test item: every history has fewer than 3 items"
    if figures["users_with_short_history"] > figures["users"] / 2:
        yield f"{figures['users_with_short_history']:,} users have fewer than {_SHORT_HISTORY} items"
    lost = sum(figures["quarantined"].values())
    if lost:
        yield f"{lost:,} rows or cells are quarantined (docs/partner-folder.md lists the codes)"
