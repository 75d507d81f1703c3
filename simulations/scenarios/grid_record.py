"""The one definition of `grid.json`: what the cells of a scenario reached, and what follows. Schema version 1.

Writer and reader share these frozen, strict classes; docs/scenarios.md explains every field. The figures are those of a
simulation, as in `simulations.run_record`, and no release of a real partner. `CellFile` is what a finished cell leaves
on disk, so that a grid that was stopped goes on where it was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeVar

from pydantic import Field, ValidationError

from mmrec_model.config import Modality
from mmrec_model.config_types import Digest, Strict
from mmrec_model.errors import DataError
from mmrec_model.storage import write_atomically
from simulations.run_record import Amount, Finite, Metrics, Natural, Share, Verdict, Versions

SCHEMA: Literal[1] = 1
GRID_FILE = "grid.json"
State: TypeAlias = Literal["recovered", "contradicted", "undecided"]


class CellRecord(Strict):
    """One cell.

    Attributes:
        name: of the cell.
        axes: what makes it different.
        plan_digest: of the plan that its partners approved.
        weights: trained numbers of its model.
        epsilon: price of its plan at one partner; null without privacy.
        replies: accepted updates of all rounds.
        rejected: reason -> replies that were not.
        validation: metrics of the exported model on the validation items; choices are made here.
        test: the same on the test items.
        standard_errors: of `test`, over users.
        floors: on the test items: the released popularity, and the untrained model without and with it.
        verdict: the exported model against the best floor on the test items.
        seconds: wall time of the cell.
    """

    name: str
    axes: dict[str, str]
    plan_digest: Digest
    weights: Natural
    epsilon: Amount | None
    replies: Natural
    rejected: dict[str, Natural]
    validation: Metrics
    test: Metrics
    standard_errors: Metrics
    floors: dict[str, Metrics]
    verdict: Verdict
    seconds: Amount


class CellFile(Strict):
    """A finished cell on disk: its record, a digest of all that it was made from, and the rank of every test user."""

    inputs: Digest
    record: CellRecord
    test_ranks: list[Natural]


class Estimate(Strict):
    """A mean over test users with its standard error."""

    value: Finite
    error: Amount


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


class Findings(Strict):
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


class GridRecord(Strict):
    """All of `grid.json`."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = SCHEMA
    scenario: str
    command: str
    version: Versions
    data: str
    users: Natural
    items: Natural
    partners: Natural
    users_evaluated: Natural
    epsilon: Amount | None
    delta: Amount | None
    rounds: Natural
    seed: Natural
    seeds: Natural
    bundles: dict[str, Digest]
    cells_in_grid: Natural
    chance: Metrics
    cells: list[CellRecord]
    findings: Findings


RecordT = TypeVar("RecordT", bound=Strict)


def write_record(record: Strict, path: Path) -> None:
    """Write a record whole or not at all; equal records give equal bytes."""
    value = record.model_dump(mode="json", by_alias=True)
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())


def read_grid(path: Path) -> GridRecord:
    """Read `path`, or `grid.json` in it if it is a folder.

    Raises:
        DataError: absent, not JSON, or not of the schema.
    """
    return _read(GridRecord, path / GRID_FILE if path.is_dir() else path)


def read_cell(path: Path) -> CellFile:
    """Read a finished cell.

    Raises:
        DataError: absent, not JSON, or not a cell.
    """
    return _read(CellFile, path)


def _read(kind: type[RecordT], path: Path) -> RecordT:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{path} is no {kind.__name__} of schema {SCHEMA}: {error}",
            remedy="Read it with the version of mmrec that wrote it, or run the scenario again",
        ) from error
