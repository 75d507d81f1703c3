"""Two small federations: one with a taste that was planted, one of pure noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mmrec_model.evaluation.baselines import interaction_matrix
from mmrec_model.evaluation.ranking import RankingTask
from mmrec_model.model.items import Items
from simulations.assessment import Panel

GROUPS = 4


def panel_from(items_UL: npt.NDArray[np.int64], n_items: int, partners: int) -> Panel:
    """The first item of each user is held out, the others are history and train rows."""
    users, length = items_UL.shape
    histories = tuple(np.sort(items_UL[:, 1:], axis=1))
    task = RankingTask.from_histories(histories, items_UL[:, 0].copy(), n_items=n_items)
    rows = np.repeat(np.arange(users), length - 1)
    train = interaction_matrix(rows, np.concatenate(histories), n_users=users, n_items=n_items)
    partner_U = np.arange(users) % partners
    return Panel(histories, partner_U, task, train, train, np.arange(users), partner_U)


@pytest.fixture(scope="session")
def planted() -> Panel:
    """800 users at 2 partners, each with 7 of the 15 items of one of 4 groups."""
    generator = np.random.default_rng(3)
    groups = generator.integers(GROUPS, size=800)
    items = np.stack([group * 15 + generator.permutation(15)[:7] for group in groups])
    return panel_from(items, 15 * GROUPS, 2)


@pytest.fixture(scope="session")
def noise() -> Panel:
    """2000 users at 2 partners, each with 10 of 80 items by chance."""
    generator = np.random.default_rng(4)
    return panel_from(np.stack([generator.permutation(80)[:10] for _ in range(2000)]), 80, 2)


@pytest.fixture(scope="session")
def planted_items() -> Items:
    """Text tells the group; one item of five lacks it and has a picture of noise instead."""
    generator = np.random.default_rng(5)
    group_N = np.repeat(np.arange(GROUPS), 15)
    present_NM = np.stack([np.arange(60) % 5 > 0, np.arange(60) % 5 == 0], axis=1)
    text = np.eye(GROUPS, dtype=np.float32)[group_N] * present_NM[:, :1]
    image = generator.normal(size=(60, 3)).astype(np.float32) * present_NM[:, 1:]
    return Items.from_arrays({"text": text, "image": image.astype(np.float32)}, present_NM)


@pytest.fixture(scope="session")
def noise_items() -> Items:
    """Features that say nothing."""
    generator = np.random.default_rng(6)
    vectors = generator.normal(size=(80, 4)).astype(np.float32)
    return Items.from_arrays({"text": vectors}, np.ones((80, 1), dtype=bool))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
