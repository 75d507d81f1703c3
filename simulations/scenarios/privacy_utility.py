"""The scenario `privacy-utility`: what privacy costs, from no noise to epsilon 1, for one draw of noise and for many.

    noise    central   one partner holds all users, so that every release has one draw of noise: what secure aggregation
                       with distributed noise would give, which the product does not have
             local     each partner draws its own, as the product does
    items    all       the split of the data
             cold      besides, `COLD_SHARE` of the catalogue is kept out of all training and is what is ranked

Cells with cold items are run with the first seed alone: their error is that of the users, not of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from mmrec_model.config import Modality
from mmrec_model.data.split_rules import SplitRule
from simulations.rivals.grids import EPSILONS
from simulations.scenarios.interface import Cell, RivalPlan, Scenario
from simulations.scenarios.utility_findings import conclude
from simulations.scenarios.utility_page import render_utility, summary
from simulations.scenarios.utility_record import UtilityGrid
from simulations.workspace import Recipe

ROUNDS: Final = 0
"""Training rounds unless the command asks for some: without them the pairs get the whole budget."""
PARTNERS: Final = 5
"""Of local noise, unless the command names others."""
COLD_SHARE: Final = 0.1
NOISES: Final = ("central", "local")


def cells(base: Recipe, modalities: Sequence[Modality], seeds: int) -> list[Cell]:
    """All cells: no noise first, central before local, cold items after all items.

    Args:
        base: what they have in common.
        modalities: of the feature bundle; every cell reads all.
        seeds: the cells with all items repeat with this many seeds of noise.

    Returns:
        epsilons x noises x (seeds + 1) cells.
    """
    del modalities
    places = [(items, repeat) for repeat in range(seeds) for items in (("all", "cold") if repeat == 0 else ("all",))]
    return [
        _cell(base, epsilon, noise, items, base.seed + repeat)
        for items, repeat in places
        for epsilon in (math.inf, *EPSILONS)
        for noise in NOISES
    ]


def rivals(base: Recipe) -> RivalPlan:
    """All rivals: those with a price at every finite epsilon, and the partners of local noise for staying alone."""
    return RivalPlan(_divided(base, "local"), EPSILONS)


def _cell(base: Recipe, epsilon: float, noise: str, items: str, seed: int) -> Cell:
    split = SplitRule(cold_share=COLD_SHARE) if items == "cold" else base.split
    axes = {"epsilon": f"{epsilon:g}", "noise": noise, "items": items, "seed": str(seed)}
    return Cell(axes, replace(_divided(base, noise), epsilon=epsilon, seed=seed, split=split))


def _divided(base: Recipe, noise: str) -> Recipe:
    if noise == "central":
        return replace(base, silo=None, partners=1)
    return base if base.silo is not None or base.partners is not None else replace(base, partners=PARTNERS)


SCENARIO = Scenario(
    name="privacy-utility",
    rounds=ROUNDS,
    sets=frozenset({"epsilon", "clipping"}),
    cells=cells,
    conclude=conclude,
    page=render_utility,
    summary=summary,
    record=UtilityGrid,
    rivals=rivals,
)
