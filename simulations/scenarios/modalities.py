"""The scenario `modalities`: every subset of modalities x every fusion, with media as they are and with some hidden.

All cells share the partners, the price and, by the seed, the released popularity; they differ in what the model reads
and how it fuses it. Hidden media are missing for training and for evaluation alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import get_args

from mmrec_model.config import FusionName, Modality, ModelConfig
from mmrec_model.config_reader import parse_config
from simulations.scenarios.interface import Cell, Scenario
from simulations.scenarios.modality_findings import conclude
from simulations.scenarios.modality_page import render_modalities, summary
from simulations.scenarios.modality_record import ModalityGrid
from simulations.workspace import Recipe

ROUNDS = 10
HIDDEN = (0.0, 0.3)


def cells(base: Recipe, modalities: Sequence[Modality], seeds: int) -> list[Cell]:
    """All cells, without pairs and gate, which would hide what fusion does: complete media first, small subsets first.

    Args:
        base: what they have in common.
        modalities: M of the feature bundle.
        seeds: the cells repeat with this many seeds of model and noise.

    Returns:
        (2^M - 1) x fusions x 2 x seeds cells.
    """
    subsets = [chosen for size in range(1, len(modalities) + 1) for chosen in combinations(modalities, size)]
    return [
        _cell(base, chosen, fusion, hidden, base.seed + repeat)
        for hidden in HIDDEN
        for repeat in range(seeds)
        for chosen in subsets
        for fusion in get_args(FusionName)
    ]


def _cell(base: Recipe, chosen: tuple[Modality, ...], fusion: FusionName, hidden: float, seed: int) -> Cell:
    changes = {"modalities": chosen, "fusion": fusion}
    model = parse_config(ModelConfig, base.model.model_dump(mode="json") | changes, source=f"the cell with {fusion}")
    axes = {"modalities": "+".join(chosen), "fusion": fusion, "hidden": f"{hidden:g}", "seed": str(seed)}
    return Cell(axes, replace(base, model=model, hidden=hidden, seed=seed, pairs=False, gate=None))


SCENARIO = Scenario(
    name="modalities",
    rounds=ROUNDS,
    sets=frozenset({"rivals"}),
    cells=cells,
    conclude=conclude,
    page=render_modalities,
    summary=summary,
    record=ModalityGrid,
)
