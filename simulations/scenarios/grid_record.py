"""The one definition of `grid.json`: what the cells of a scenario reached, and what follows. Schema version 2.

Writer and reader share these frozen, strict classes; docs/scenarios.md explains every field. What follows from the
cells, the findings, is a class of each scenario. The figures are those of a simulation, as in `simulations.run_record`,
and no release of a real partner. `CellFile` is what a finished cell leaves on disk, so that a grid that was stopped
goes on where it was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field, ValidationError

from mmrec_model.config_types import Digest, Strict
from mmrec_model.errors import DataError
from mmrec_model.storage import write_atomically
from simulations.run_record import Amount, Finite, MetricName, Metrics, Natural, Share, Verdict, Versions

SCHEMA: Literal[2] = 2
GRID_FILE = "grid.json"
EXPORTED = "exported"
"""The system that a cell's federation exported."""


class Estimate(Strict):
    """A mean over test users with its standard error."""

    value: Finite
    error: Amount


class Traffic(Strict):
    """Bytes of one wave of messages at the partner that had most of them: from it and to it."""

    up: Natural
    down: Natural


class ColdRecord(Strict):
    """recall@10 of items that nobody trained on, against the full catalogue.

    Attributes:
        users: who have such a held-out item.
        recall: mean over them.
        chance: of a random order.
    """

    users: Natural
    recall: Estimate
    chance: Share


class CellLadder(Strict):
    """The rungs of a cell whose partners compare them.

    Attributes:
        rung: what the gate exported.
        metric: that the gate compares.
        released: the noised scores that it saw, by rung, with the errors of their noise; empty without a figure.
        spent: the largest epsilon of any partner's own ledger; null without privacy.
        pairs: items whose pairs were released.
        traffic: by wave; `round` is the largest of the training rounds.
        validation: metrics of every rung, of the exported model and of `train_items_alone`.
        test: the same on the test items.
        cold: by system; test items without a train row anywhere, or those that the cell keeps out of all training.
    """

    rung: str
    metric: MetricName
    released: dict[str, Estimate]
    spent: Amount | None
    pairs: Natural
    traffic: dict[str, Traffic]
    validation: dict[str, Metrics]
    test: dict[str, Metrics]
    cold: dict[str, ColdRecord]


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
        ladder: its rungs; null where its partners compare none.
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
    ladder: CellLadder | None
    seconds: Amount


class CellFile(Strict):
    """A finished cell on disk.

    Attributes:
        inputs: digest of all that it was made from.
        record: of the cell.
        test_ranks: by system, the rank of every test user's item; users stand in the order of their ids.
    """

    inputs: Digest
    record: CellRecord
    test_ranks: dict[str, list[Natural]]


FindingsT = TypeVar("FindingsT", bound=Strict)


class GridRecord(Strict, Generic[FindingsT]):
    """All of `grid.json`; `epsilon` is null without privacy and where cells differ in it."""

    schema_: Annotated[Literal[2], Field(alias="schema")] = SCHEMA
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
    findings: FindingsT


RecordT = TypeVar("RecordT", bound=Strict)


def write_record(record: Strict, path: Path) -> None:
    """Write a record whole or not at all; equal records give equal bytes."""
    value = record.model_dump(mode="json", by_alias=True)
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())


def read_grid(path: Path, kind: type[GridRecord[FindingsT]]) -> GridRecord[FindingsT]:
    """Read `path`, or `grid.json` in it if it is a folder.

    Args:
        path: where.
        kind: class of the scenario's record.

    Raises:
        DataError: absent, not JSON, or not of the schema.
    """
    return read_record(kind, path / GRID_FILE if path.is_dir() else path)


def read_cell(path: Path) -> CellFile:
    """Read a finished cell.

    Raises:
        DataError: absent, not JSON, or not a cell.
    """
    return read_record(CellFile, path)


def read_record(kind: type[RecordT], path: Path) -> RecordT:
    """Read what `write_record` wrote.

    Raises:
        DataError: absent, not JSON, or no such record.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{path} is no {kind.__name__} of schema {SCHEMA}: {error}",
            remedy="Read it with the version of mmrec that wrote it, or run the scenario again",
        ) from error
