"""The declared search space: eight configurations of every rival, the same for every data set.

The values span what the sources and the public comparisons use. Those of DPALS were laid out after a random search of
some 500 configurations on the validation items of X-Wines Slim, which favours that rival there beyond its eight. Raw
popularity has nothing to choose. What cannot run on a catalogue, because of its size or for want of features, has no
grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from mmrec_model.evaluation.baselines import MAX_ITEMS
from mmrec_model.model.items import Items
from simulations.rivals.bpr_mf import BprMf
from simulations.rivals.dpals import Dpals
from simulations.rivals.dpals_statistics import Shares
from simulations.rivals.interface import Rival
from simulations.rivals.item_similarity import Ease, ItemKnn
from simulations.rivals.lightgcn import LightGcn
from simulations.rivals.local_only import LocalOnly
from simulations.rivals.popularity import BoundedPopularity, NoiseAt, Popularity
from simulations.rivals.vbpr import Vbpr

Grid: TypeAlias = Sequence[Rival]

EPSILONS = (8.0, 4.0, 2.0, 1.0)
"""Prices at which the private rivals are compared."""

_CAPS = (1, 2, 3, 5, 10, 20, 50, 100)
_RIDGES = (3.0, 10.0, 30.0, 100.0, 200.0, 300.0, 500.0, 1000.0)
_NO_OUTER, _OUTER = Shares(0.05, 0.0, 0.95), Shares(0.05, 0.3, 0.65)


def grids(n_items: int, items: Items | None) -> dict[str, Grid]:
    """Grids of the rivals without a price, by name.

    Args:
        n_items: of the catalogue.
        items: with features; None where there are none.
    """
    found: dict[str, Grid] = {
        "popularity": (Popularity(),),
        "popularity_bounded": tuple(BoundedPopularity(cap) for cap in _CAPS),
        "bpr_mf": tuple(BprMf(l2=l2, epochs=epochs) for l2 in (0.003, 0.01, 0.03, 0.1) for epochs in (20, 60)),
        "lightgcn": tuple(
            LightGcn(layers=layers, l2=l2, epochs=epochs)
            for layers in (2, 3)
            for l2 in (1e-4, 1e-3)
            for epochs in (20, 60)
        ),
        "als": tuple(
            Dpals(iterations=6, cap=10, user_l2=user_l2, item_l2=item_l2, unobserved=unobserved)
            for unobserved in (0.1, 0.3)
            for user_l2, item_l2 in ((3.0, 10.0), (10.0, 10.0), (10.0, 30.0), (30.0, 30.0))
        ),
    }
    if items is not None:
        found["vbpr"] = tuple(
            Vbpr(l2=l2, content_penalty=penalty, epochs=epochs)
            for l2 in (0.01, 0.03)
            for penalty in (0.01, 0.1)
            for epochs in (20, 60)
        )
    if n_items <= MAX_ITEMS:
        ease = tuple(Ease(l2) for l2 in _RIDGES)
        knn = tuple(ItemKnn(neighbours, shrink) for neighbours in (50, 200) for shrink in (0.0, 10.0, 30.0, 100.0))
        found |= {"ease": ease, "item_knn": knn}
        found |= {"local_ease": tuple(map(LocalOnly, ease)), "local_item_knn": tuple(map(LocalOnly, knn))}
    return found


def private_grids(epsilon: float, delta: float = 1e-5, noise: NoiseAt = "central") -> dict[str, Grid]:
    """Grids of the rivals with a price, by name.

    Args:
        epsilon: of each.
        delta: of each.
        noise: one draw over all users, or one at each partner.
    """
    small = Dpals(iterations=6, cap=10, radius=0.1, item_l2=30.0, epsilon=epsilon, delta=delta, noise=noise)
    wide = replace(small, unobserved=0.3, shares=_NO_OUTER, exponent=-0.25)
    dpals = (
        replace(wide, dims=64),
        replace(wide, dims=32),
        replace(wide, dims=32, unobserved=1.0, user_l2=3.0),
        replace(wide, dims=16),
        replace(wide, dims=8, unobserved=1.0, user_l2=3.0),
        replace(small, dims=8, unobserved=0.3, user_l2=3.0, item_l2=10.0, shares=_NO_OUTER),
        replace(small, dims=4, item_l2=10.0, shares=_NO_OUTER),
        replace(small, dims=8, unobserved=0.3, user_l2=3.0, item_l2=10.0, shares=_OUTER, allocation="sample"),
    )
    return {
        "popularity_dp": tuple(BoundedPopularity(cap, epsilon, delta, noise) for cap in _CAPS),
        "dpals": dpals,
    }
