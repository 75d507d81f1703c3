"""Central evaluation of the heads of a simulated federation, on rows that no partner trained on.

Protocol: the user vector is made of the train items alone; the judged rows are those that the user first met after the
last train item (`PartnerDataset.later`), for the category head each user's test item after train and validation items.
Beside every figure stands the best constant, fitted on the train rows of all partners without noise: a head that does
not beat it has learned nothing. Nothing computed here is a release of a partner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmrec_model.config import HEADS, HeadName
from mmrec_model.data.dataset import PartnerDataset
from mmrec_model.data.feedback import Feedback, draw_feedback
from mmrec_model.errors import DataError
from mmrec_model.evaluation import classification
from mmrec_model.model.heads.prediction import predict_categories, predict_rows
from mmrec_model.model.items import Items
from mmrec_model.model.recommender import RecommenderNetwork
from simulations.panels import Panel, profiles_of
from simulations.run_record import HeadRecord

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_CHUNK = 256


@dataclass(frozen=True)
class Judged:
    """Rows of one head: the label, what the head says, and whose row it is; R rows."""

    labels_R: Floats
    said_R: Floats
    users_R: Ints


def assess_heads(
    datasets: Sequence[PartnerDataset],
    test: Panel,
    model: RecommenderNetwork,
    catalogue: Items,
    own: Sequence[Items] = (),
) -> dict[HeadName, HeadRecord]:
    """Figures of every head of the model that has rows to judge.

    Args:
        datasets: all partners.
        test: users with a test item, for the category head.
        model: the trained model.
        catalogue: all items, with the DP popularity prior.
        own: per partner, its users' own media, in a run that reads them.
    """
    category_N = datasets[0].labels(model.config.categories).category_N
    records: dict[HeadName, HeadRecord] = {}
    if len(model.heads.rows):
        for name, judged in _judge(datasets, model, catalogue, category_N, own).items():
            if len(judged.labels_R):
                constant = _constant(name, [data.feedback for data in datasets], model.config.rating_scale)
                records[name] = _rating(judged, constant) if name == "rating" else _binary(judged, constant)
    if "category" in model.config.heads and (category_N[test.task.targets_U] >= 0).any():
        records["category"] = _category(test, model, catalogue, category_N)
    return {name: records[name] for name in HEADS if name in records}


def _judge(
    datasets: Sequence[PartnerDataset],
    model: RecommenderNetwork,
    catalogue: Items,
    category_N: Ints,
    own: Sequence[Items],
) -> dict[HeadName, Judged]:
    low, high = model.config.rating_scale
    found: dict[HeadName, list[Judged]] = {}
    first = 0
    for number, data in enumerate(datasets):
        counts = np.diff(data.later.offsets)
        busy = np.flatnonzero(counts)
        for start in range(0, len(busy), _CHUNK):
            users = busy[start : start + _CHUNK]
            rows = draw_feedback(data.later, users, max_feedback=int(counts[users].max()), seed=0)
            histories = [data.train.of(int(user)) for user in users]
            media = profiles_of(own[number], users) if own else None
            said = predict_rows(model, catalogue, histories, rows, category_N, own=media)
            labels = {
                "ctr": (rows.shown_BF, rows.clicked_BF.astype(np.float64)),
                "cvr": (rows.clicked_BF, rows.converted_BF.astype(np.float64)),
                "rating": (rows.rated_BF, np.clip(rows.ratings_BF, low, high)),
            }
            owner_BF = np.broadcast_to((first + users)[:, None], rows.mask_BF.shape)
            for name, said_BF in said.items():
                counted_BF, label_BF = labels[name]
                part = Judged(label_BF[counted_BF], said_BF[counted_BF], owner_BF[counted_BF])
                found.setdefault(name, []).append(part)
        first += len(data)
    return {name: _joined(parts) for name, parts in found.items()}


def _joined(parts: Sequence[Judged]) -> Judged:
    return Judged(
        np.concatenate([part.labels_R for part in parts]),
        np.concatenate([part.said_R for part in parts]),
        np.concatenate([part.users_R for part in parts]),
    )


def _constant(name: HeadName, train: Sequence[Feedback], scale: tuple[float, float]) -> float:
    """The best constant prediction on train rows; half a row of each kind keeps a rate off 0 and 1."""
    if name == "rating":
        rated = np.concatenate([part.ratings[~np.isnan(part.ratings)] for part in train])
        return float(np.clip(rated, *scale).mean()) if len(rated) else sum(scale) / 2
    click = name == "ctr"
    labels = [part.clicked[part.shown] if click else part.converted[part.clicked] for part in train]
    hits, rows = sum(int(part.sum()) for part in labels), sum(map(len, labels))
    return (hits + 0.5) / (rows + 1.0)


def _binary(judged: Judged, constant: float) -> HeadRecord:
    labels_R = judged.labels_R > 0.5
    return HeadRecord(
        rows=len(labels_R),
        users=len(np.unique(judged.users_R)),
        mean=float(labels_R.mean()),
        measure="log_loss",
        loss=classification.log_loss(labels_R, judged.said_R),
        constant_loss=classification.log_loss(labels_R, np.full(len(labels_R), constant)),
        auc=_or_none(lambda: classification.auc(labels_R, judged.said_R)),
        gauc=_or_none(lambda: classification.gauc(labels_R, judged.said_R, judged.users_R)),
        ece=classification.ece(labels_R, judged.said_R),
    )


def _rating(judged: Judged, constant: float) -> HeadRecord:
    return HeadRecord(
        rows=len(judged.labels_R),
        users=len(np.unique(judged.users_R)),
        mean=float(judged.labels_R.mean()),
        measure="rmse",
        loss=classification.rmse(judged.labels_R, judged.said_R),
        constant_loss=classification.rmse(judged.labels_R, np.full(len(judged.labels_R), constant)),
        auc=None,
        gauc=None,
        ece=None,
    )


def _category(test: Panel, model: RecommenderNetwork, catalogue: Items, category_N: Ints) -> HeadRecord:
    target_U = category_N[test.task.targets_U]
    users = np.flatnonzero(target_U >= 0)
    parts = []
    for start in range(0, len(users), _CHUNK):
        chunk = users[start : start + _CHUNK]
        histories = [test.histories[user] for user in chunk]
        parts.append(predict_categories(model, catalogue, histories, category_N, own=profiles_of(test.own, chunk)))
    said_UC = np.concatenate(parts)
    trained = category_N[test.train.indices]
    counts_C = np.bincount(trained[trained >= 0], minlength=said_UC.shape[1]) + 0.5
    constant_UC = np.broadcast_to(counts_C / counts_C.sum(), said_UC.shape)
    return HeadRecord(
        rows=len(users),
        users=len(users),
        mean=None,
        measure="log_loss",
        loss=classification.class_log_loss(target_U[users], said_UC),
        constant_loss=classification.class_log_loss(target_U[users], constant_UC),
        auc=None,
        gauc=None,
        ece=None,
    )


def _or_none(measure: Callable[[], float]) -> float | None:
    """None where the rows are all of one kind."""
    try:
        return measure()
    except DataError:
        return None
