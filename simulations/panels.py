"""Panels: the users of all partners who have held-out items, and what is ranked for each of them.

A panel belongs to whoever owns all the data: a simulation, or a consented public panel. For validation the history is
the train items; for the test and for items held out on purpose it is train and validation. Items of the history are no
candidates. Nothing here is a release of a partner, and nothing of it reaches the coordinator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from mmrec_model.data.dataset import PartnerDataset
from mmrec_model.data.histories import Histories
from mmrec_model.evaluation.baselines import Csr, Recommender, interaction_matrix
from mmrec_model.evaluation.ranking import RankingTask, Ranks, Scorer, ranks
from mmrec_model.model.items import Items
from mmrec_model.model.new_items import reserve_places
from mmrec_model.model.recommender import RecommenderNetwork
from mmrec_model.model.scoring import encode_catalogue, score_catalogue

Part = Literal["val", "test", "cold"]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
HistoryScorer: TypeAlias = Callable[[Sequence[Ints]], npt.NDArray[np.float32]]
"""Histories of B users -> scores [B, N]; larger is better."""

TIES_SEED = 20_240_601


@dataclass(frozen=True)
class Panel:
    """Users with held-out items.

    Attributes:
        histories: item indices of each user, oldest first.
        partner_U: number of each user's partner.
        task: held-out items and what is no candidate.
        train: train rows of all users of the federation `[all, N]`, what baselines learn from.
        rows: history rows of the panel's users `[U, N]`, what baselines see of a user.
        train_rows_U: row of `train` of each user.
        train_partner_A: number of the partner of each row of `train`.
        own: own media of the panel's users `[U]`, in a run that reads them.
    """

    histories: tuple[Ints, ...]
    partner_U: Ints
    task: RankingTask
    train: Csr
    rows: Csr
    train_rows_U: Ints
    train_partner_A: Ints
    own: Items | None = None

    @cached_property
    def counts_N(self) -> Ints:  # noqa: N802 - the shape is part of the name
        """Distinct train users of every item in the whole federation."""
        return np.asarray(self.train.sum(axis=0), dtype=np.int64).ravel()

    def sample(self, most: int, seed: int) -> Panel:
        """At most `most` users, drawn once by `seed`."""
        if len(self.histories) <= most:
            return self
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self.histories), most, replace=False)))

    def take(self, users: Ints) -> Panel:
        """Some users."""
        return replace(
            self,
            histories=tuple(self.histories[user] for user in users),
            partner_U=self.partner_U[users],
            task=self.task.take(users),
            rows=self.rows[users],
            train_rows_U=self.train_rows_U[users],
            own=None if self.own is None else self.own.take(torch.from_numpy(users)),
        )

    def rank(self, scores: Scorer) -> Ranks:
        """Rank every user's held-out items."""
        return ranks(scores, self.task, seed=TIES_SEED)

    def scorer(self, score: HistoryScorer) -> Scorer:
        """A system on the panel's histories."""
        return lambda users: score([self.histories[user] for user in users])

    def model_scorer(self, model: RecommenderNetwork, catalogue: Items) -> Scorer:
        """The model on the panel's histories."""
        if self.own is None:
            return self.scorer(model_on_histories(model, catalogue))
        read = encode_catalogue(model, catalogue)
        return lambda users: score_catalogue(
            model, read, [self.histories[user] for user in users], profiles_of(self.own, users)
        )


def profiles_of(own: Items | None, users: Ints) -> Items | None:
    """Own media of some users as the model takes them, `[B, 1]`; None where a run reads none."""
    return None if own is None else own.take(torch.from_numpy(np.asarray(users, np.int64)).unsqueeze(1))


def model_on_histories(model: RecommenderNetwork, catalogue: Items) -> HistoryScorer:
    """A model as a function of histories; the catalogue is encoded once."""
    read = encode_catalogue(model, catalogue)
    return lambda histories: score_catalogue(model, read, histories)


def with_new_items(score: HistoryScorer, content: HistoryScorer, new_N: Bools) -> HistoryScorer:
    """A system whose lists keep one place in ten for new items, see `mmrec_model.model.new_items`.

    Args:
        score: the system.
        content: orders the new items.
        new_N: which items are new.
    """
    return lambda histories: reserve_places(score(histories), content(histories), histories, new_N)


def baseline_on_histories(fitted: Recommender, n_items: int) -> HistoryScorer:
    """A fitted baseline as a function of histories."""
    return lambda histories: fitted.scores(matrix_of(histories, n_items))


def panel_of(
    datasets: Sequence[PartnerDataset], part: Part, own: Sequence[Items] = (), *, train_items_alone: bool = False
) -> Panel:
    """All users of all partners who have a held-out item of `part`; `cold` are the items held out on purpose.

    Args:
        datasets: one per partner.
        part: which held-out items.
        own: per partner, its users' own media, in a run that reads them.
        train_items_alone: leave validation items out of the histories, as most published figures do; they are no
            candidates either way.
    """
    n_items = len(datasets[0].catalogue)
    met: list[Ints] = []
    shown: list[Ints] = []
    targets: list[Ints] = []
    partners: list[int] = []
    train_rows: list[int] = []
    sizes = [len(data) for data in datasets]
    media: list[Items] = []
    for number, data in enumerate(datasets):
        held_out = _held_out(data, part)
        users = np.flatnonzero(np.diff(held_out.offsets))
        if own:
            media.append(own[number].take(torch.from_numpy(users)))
        for user in users:
            wanted = held_out.of(int(user))
            history = trained = data.train.of(int(user))
            if part != "val":
                history = np.append(history, data.val_items.of(int(user)))
            met.append(history[~np.isin(history, wanted)])
            shown.append(trained[~np.isin(trained, wanted)] if train_items_alone else met[-1])
            targets.append(wanted)
            partners.append(number)
            train_rows.append(sum(sizes[:number]) + int(user))
    train = [data.train.of(user) for data in datasets for user in range(len(data))]
    return Panel(
        histories=tuple(shown),
        partner_U=np.asarray(partners, dtype=np.int64),
        task=RankingTask.from_histories(met, targets, n_items=n_items),
        train=matrix_of(train, n_items),
        rows=matrix_of(shown, n_items),
        train_rows_U=np.asarray(train_rows, dtype=np.int64),
        train_partner_A=np.repeat(np.arange(len(datasets)), sizes),
        own=reduce(lambda first, more: more.behind(first), media) if media else None,
    )


def matrix_of(histories: Sequence[Ints], n_items: int) -> Csr:
    """Binary rows `[B, N]` of histories."""
    users = np.repeat(np.arange(len(histories)), [len(items) for items in histories])
    items = np.concatenate(histories) if len(histories) else np.zeros(0, dtype=np.int64)
    return interaction_matrix(users.astype(np.int64), items.astype(np.int64), n_users=len(histories), n_items=n_items)


def _held_out(data: PartnerDataset, part: Part) -> Histories:
    return {"val": data.val_items, "test": data.test_items, "cold": data.cold_items}[part]
