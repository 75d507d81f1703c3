"""Central evaluation of a simulated federation, where the data of all partners belongs to whoever runs it.

Protocol: one held-out item per user (pinned split, or leave-last-out), ranked against the whole catalogue; items of the
user's history are no candidates. For validation the history is the train items; for the test train and validation.
Nothing computed here is a release of a partner, and nothing of it reaches the coordinator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from mmrec_model.config import RunConfig
from mmrec_model.data.dataset import PartnerDataset
from mmrec_model.evaluation.baselines import EASE, MAX_ITEMS, Csr, ItemKNN, Popularity, interaction_matrix, scorer
from mmrec_model.evaluation.ranking import RankingTask, Ranks, Scorer, ranking_metrics, ranks
from mmrec_model.evaluation.ranking import standard_errors as standard_errors_of
from mmrec_model.model.items import Items
from mmrec_model.model.recommender import RecommenderNetwork, build_model
from mmrec_model.model.scoring import encode_catalogue, score_catalogue
from mmrec_model.protocol import PRIOR, Arrays, trained_arrays
from simulations.run_record import Metrics

Part = Literal["val", "test"]
Ints = npt.NDArray[np.int64]

_TIES_SEED = 20_240_601


@dataclass(frozen=True)
class Panel:
    """Users with a held-out item.

    Attributes:
        histories: item indices of each user, oldest first.
        partner_U: number of each user's partner.
        task: held-out items and what is no candidate.
        train: train rows of all users of the federation `[all, N]`, what baselines learn from.
        rows: history rows of the panel's users `[U, N]`, what baselines see of a user.
        train_rows_U: row of `train` of each user.
        train_partner_A: number of the partner of each row of `train`.
    """

    histories: tuple[Ints, ...]
    partner_U: Ints
    task: RankingTask
    train: Csr
    rows: Csr
    train_rows_U: Ints
    train_partner_A: Ints

    def sample(self, most: int, seed: int) -> Panel:
        """At most `most` users, drawn once by `seed`."""
        if len(self.histories) <= most:
            return self
        keep = np.sort(np.random.default_rng(seed).choice(len(self.histories), most, replace=False))
        histories = tuple(self.histories[user] for user in keep)
        task = RankingTask.from_histories(histories, self.task.targets_U[keep], n_items=self.task.n_items)
        return replace(
            self,
            histories=histories,
            partner_U=self.partner_U[keep],
            task=task,
            rows=self.rows[keep],
            train_rows_U=self.train_rows_U[keep],
        )

    def rank(self, scores: Scorer) -> Ranks:
        """Rank every user's held-out item."""
        return ranks(scores, self.task, seed=_TIES_SEED)

    def model_scorer(self, model: RecommenderNetwork, catalogue: Items) -> Scorer:
        """The model on the panel's histories."""
        read = encode_catalogue(model, catalogue)
        return lambda users: score_catalogue(model, read, [self.histories[user] for user in users])


def panel_of(datasets: Sequence[PartnerDataset], part: Part) -> Panel:
    """All users of all partners who have a held-out item of `part`."""
    n_items = len(datasets[0].catalogue)
    histories: list[Ints] = []
    targets: list[int] = []
    partners: list[int] = []
    train_rows: list[int] = []
    sizes = [len(data) for data in datasets]
    for number, data in enumerate(datasets):
        held_out = data.val if part == "val" else data.test
        for user in np.flatnonzero(held_out >= 0):
            history = data.train.of(int(user))
            if part == "test" and data.val[user] >= 0:
                history = np.append(history, data.val[user])
            histories.append(history[history != held_out[user]])
            targets.append(int(held_out[user]))
            partners.append(number)
            train_rows.append(sum(sizes[:number]) + int(user))
    train = [data.train.of(user) for data in datasets for user in range(len(data))]
    return Panel(
        histories=tuple(histories),
        partner_U=np.asarray(partners, dtype=np.int64),
        task=RankingTask.from_histories(histories, np.asarray(targets, dtype=np.int64), n_items=n_items),
        train=_matrix(train, n_items),
        rows=_matrix(histories, n_items),
        train_rows_U=np.asarray(train_rows, dtype=np.int64),
        train_partner_A=np.repeat(np.arange(len(datasets)), sizes),
    )


def model_ranks(config: RunConfig, items: Items, panel: Panel, state: Arrays) -> Ranks:
    """Ranks of a panel's held-out items under a global state.

    Args:
        config: the run.
        items: the whole catalogue.
        panel: the users.
        state: the trained arrays and the prior.
    """
    return panel.rank(panel.model_scorer(trained_model(config, state), items.with_prior(state[PRIOR])))


def trained_model(config: RunConfig, state: Arrays) -> RecommenderNetwork:
    """The model of a run with the trained arrays of a global state."""
    model = build_model(config)
    model.load_trainable_state({name: torch.from_numpy(array) for name, array in trained_arrays(state).items()})
    return model


def baseline_ranks(panel: Panel) -> dict[str, Ranks]:
    """Non-private recommenders that see everybody's train rows: what centralising the data would reach."""
    found = {"popularity": panel.rank(scorer(Popularity().fit(panel.train), panel.rows))}
    if panel.task.n_items <= MAX_ITEMS:
        found["item_knn"] = panel.rank(scorer(ItemKNN().fit(panel.train), panel.rows))
        found["ease"] = panel.rank(scorer(EASE().fit(panel.train), panel.rows))
    return found


def floor_ranks(panel: Panel, untrained: RecommenderNetwork, catalogue: Items) -> dict[str, Ranks]:
    """What costs nothing, or one small release: a trained model has to beat the best of these.

    Args:
        panel: the users.
        untrained: the model before training, whose residual is zero.
        catalogue: all items, with the DP popularity prior.
    """
    without = catalogue.with_prior(np.zeros(panel.task.n_items, dtype=np.float32))
    prior = catalogue.prior.numpy()
    return {
        "popularity_dp": panel.rank(lambda users: np.broadcast_to(prior, (len(users), len(prior)))),
        "free_content": panel.rank(panel.model_scorer(untrained, without)),
        "free_content_with_prior": panel.rank(panel.model_scorer(untrained, catalogue)),
    }


def metrics(found: Ranks) -> Metrics:
    """Ranking metrics of a panel."""
    return Metrics(**ranking_metrics(found))


def errors(found: Ranks) -> Metrics:
    """Their standard errors over users."""
    return Metrics(**standard_errors_of(found))


def of_partner(found: Ranks, panel: Panel, number: int) -> Metrics | None:
    """Metrics of one partner's users; None where it has none in the panel."""
    mine = panel.partner_U == number
    return metrics(Ranks(found.rank_U[mine], found.candidates_U[mine])) if mine.any() else None


def all_metrics(found: Mapping[str, Ranks]) -> dict[str, Metrics]:
    """Metrics by name."""
    return {name: metrics(rank) for name, rank in found.items()}


def all_errors(found: Mapping[str, Ranks]) -> dict[str, Metrics]:
    """Standard errors by name."""
    return {name: errors(rank) for name, rank in found.items()}


def _matrix(histories: Sequence[Ints], n_items: int) -> Csr:
    users = np.repeat(np.arange(len(histories)), [len(items) for items in histories])
    items = np.concatenate(histories) if histories else np.zeros(0, dtype=np.int64)
    return interaction_matrix(users.astype(np.int64), items.astype(np.int64), n_users=len(histories), n_items=n_items)
