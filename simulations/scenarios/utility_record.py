"""What a grid of prices shows, as it stands in `grid.json` (`simulations.scenarios.grid_record`)."""

from __future__ import annotations

from typing import Literal, TypeAlias

from mmrec_model.config_types import Strict
from simulations.run_record import Amount, Finite, MetricName, Natural, Share
from simulations.scenarios.grid_record import ColdRecord, Estimate, GridRecord, Traffic
from simulations.scenarios.rival_record import RivalRecord

Kind: TypeAlias = Literal["exported", "home", "rung", "rival"]


class SystemEntry(Strict):
    """One system at one price, over its seeds.

    Attributes:
        system: its name.
        kind: what the federation exported, that with the partners' own terms, a rung of its ladder, or a rival.
        epsilon: its price, `inf` for a federation without noise; null for a rival without a price.
        noise: `central` or `local`; null for a rival without a price.
        seeds: runs with other noise.
        validation: mean ndcg@10 on the validation items.
        ndcg: ndcg@10 on the test items; the error is over users and seeds.
        recall: recall@10, likewise.
        train_items_alone: ndcg@10 where the validation item is no input; null where not measured.
        seed_error: standard error of `ndcg` that the seeds alone would give.
    """

    system: str
    kind: Kind
    epsilon: str | None
    noise: str | None
    seeds: Natural
    validation: Share
    ndcg: Estimate
    recall: Estimate
    train_items_alone: Estimate | None
    seed_error: Amount


class Rung(Strict):
    """What the gate did in the cells of one price and noise: exported rung -> cells, and what it saw."""

    epsilon: str
    noise: str
    exported: dict[str, Natural]
    pairs: Natural
    metric: MetricName
    released: dict[str, Estimate]
    spent: Amount | None
    traffic: dict[str, Traffic]


class PairedTest(Strict):
    """The exported model minus another system in ndcg@10, on the same users; `p_holm` counts all tests of the grid."""

    epsilon: str
    noise: str
    other: str
    difference: Finite
    low: Finite
    high: Finite
    p: Share
    p_holm: Share


class Cold(Strict):
    """Items without any train row: those that a cell kept out on purpose, or (`held_out` false) the data's own.

    Attributes:
        epsilon: of the cell.
        noise: of the cell.
        held_out: whether on purpose.
        rung: what the gate exported.
        systems: recall of such items.
        others: ndcg@10 of all other test items, of the exported model with and without places for new items.
    """

    epsilon: str
    noise: str
    held_out: bool
    rung: str
    systems: dict[str, ColdRecord]
    others: dict[str, Share]


class Goal(Strict):
    """A goal that was set before: what was found, what was wanted, and whether it is met; null where not measured."""

    text: str
    noise: str
    found: Finite | None
    wanted: Finite | None
    met: bool | None


class UtilityFindings(Strict):
    """What follows.

    Attributes:
        systems: everything that was measured on all items.
        rungs: what was exported, by price and noise; `released` is of the first seed.
        tests: paired tests.
        cold: of cold items.
        goals: those of the project.
        rivals: how rivals were found.
    """

    systems: list[SystemEntry]
    rungs: list[Rung]
    tests: list[PairedTest]
    cold: list[Cold]
    goals: list[Goal]
    rivals: list[RivalRecord]


UtilityGrid: TypeAlias = GridRecord[UtilityFindings]
