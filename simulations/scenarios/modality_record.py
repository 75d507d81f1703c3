"""What a grid of modalities shows, as it stands in `grid.json` (`simulations.scenarios.grid_record`)."""

from __future__ import annotations

from typing import Literal, TypeAlias

from mmrec_model.config import Modality
from mmrec_model.config_types import Strict
from simulations.run_record import Finite, Natural, Share
from simulations.scenarios.grid_record import Estimate, GridRecord

State: TypeAlias = Literal["recovered", "contradicted", "undecided"]


class Entry(Strict):
    """One place of the table, over its seeds: ndcg@10 of the model on both parts, and of the untrained model."""

    modalities: tuple[Modality, ...]
    fusion: str
    hidden: str
    seeds: Natural
    validation: Share
    test: Estimate
    untrained: Share


class Contribution(Strict):
    """Shapley values of the modalities in ndcg@10; they add up to `full` minus `empty`, which is chance."""

    fusion: str
    hidden: str
    values: dict[Modality, Estimate]
    full: Share
    empty: Share


class Pair(Strict):
    """Two modalities of which the first is worth more in truth; `found` is their difference in the grid."""

    first: Modality
    second: Modality
    planted: Finite
    found: Estimate
    state: State


class AnswerRecord(Strict):
    """The known answer of a synthetic set against the grid.

    Attributes:
        planted: Shapley values of the truth.
        found: those of the grid, of complete media, as the mean over fusions.
        signs: whether each modality is found to add something, where in truth it does.
        pairs: every two modalities.
        recovered: every sign is recovered, and no pair is contradicted.
    """

    planted: dict[Modality, Finite]
    found: dict[Modality, Estimate]
    signs: dict[Modality, State]
    pairs: list[Pair]
    recovered: bool


class ModalityFindings(Strict):
    """What a grid of modalities shows.

    Attributes:
        table: all places.
        best: per share of hidden media, the place with the best validation figure.
        contributions: for every fusion whose subsets are all there, and their mean as fusion `mean`.
        answer: null for data without a known answer, and for a grid without contributions.
    """

    table: list[Entry]
    best: list[Entry]
    contributions: list[Contribution]
    answer: AnswerRecord | None


ModalityGrid: TypeAlias = GridRecord[ModalityFindings]
