"""What is known of one system's quality on one panel: the definition that `assess` fills and pages read. Schema 1.

Frozen and strict: a record that a page can show was written whole. Figures come from held-out rows without noise; they
describe a simulation or a consented public panel and are no release of a partner. `docs/evaluation.md` explains every
figure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mmrec_model.config_types import Strict
from mmrec_model.storage import write_atomically
from simulations.run_record import Amount, Finite, Natural, Share

QUALITY_SCHEMA: Literal[1] = 1


class Figure(Strict):
    """A mean over users with its standard error, and the exact mean of a random order."""

    value: Share
    error: Amount
    chance: Share


class MeanFigure(Strict):
    """A mean over the users for whom it is defined, with its standard error."""

    value: Finite
    error: Amount
    users: Natural


class SliceRecord(Strict):
    """Some users and held-out items; `metrics` by name, empty where there are no users."""

    users: Natural
    targets: Natural
    metrics: dict[str, Figure]


class PartnerFigures(Strict):
    """One partner's users; what is null was not measured.

    `gain` is over what the partner reaches alone, `contribution` what its taking part gives the users of all others.
    """

    name: str
    users: Natural
    value: Share
    gain: Finite | None
    gain_error: Amount | None
    contribution: Finite | None
    contribution_error: Amount | None


class PartnersRecord(Strict):
    """A metric over partners, each counting once; `bottom` is the mean of the worst tenth, `gini` is 0 if all alike.

    `gaining` is the share of partners that are not below what they reach alone; null where that was not measured.
    """

    metric: str
    each: list[PartnerFigures]
    mean: Share
    worst: Share
    bottom: Share
    gini: Share
    gaining: Share | None


class ListsRecord(Strict):
    """The lists of `k` items: what they show of the catalogue, and what single lists are like.

    `distance` by modality; `divergence` is null where no category is known.
    """

    k: Natural
    coverage: Share
    gini: Share
    entropy_bits: Amount
    novelty_bits: Amount
    popularity_complement: Share
    free_discovery_bits: Amount
    tail_share: MeanFigure
    distance: dict[str, MeanFigure]
    divergence: MeanFigure | None


class PairRecord(Strict):
    """The system minus another on the same users: 95 % bootstrap interval, sign-flip p, and p adjusted by Holm."""

    other: str
    metric: str
    mean: Finite
    low: Finite
    high: Finite
    p: Share
    p_holm: Share


class QualityRecord(Strict):
    """One system on one panel.

    Attributes:
        system: its name.
        split: the rule, or a word for a pinned one.
        items: size of the catalogue.
        overall: all users.
        targets: by popularity of the held-out item in training; `cold` ones have no interaction at all.
        held_out: items that were kept out of all training on purpose; null where none were.
        held_out_placed: the same with one place in ten of every list kept for them; null where that was not measured.
        new_users: by number of events that the system was shown of the same users; `all` for the whole history.
        activity: users by length of history.
        taste: users by popularity of history.
        partners: by partner; null for a panel of one.
        lists: the recommended lists.
        against: comparisons with other systems.
    """

    schema_: Annotated[Literal[1], Field(alias="schema")] = QUALITY_SCHEMA
    system: str
    split: str
    items: Natural
    overall: SliceRecord
    targets: dict[str, SliceRecord]
    held_out: SliceRecord | None
    held_out_placed: SliceRecord | None = None
    new_users: dict[str, SliceRecord]
    activity: dict[str, SliceRecord]
    taste: dict[str, SliceRecord]
    partners: PartnersRecord | None
    lists: ListsRecord
    against: list[PairRecord]


def quality_json(record: QualityRecord) -> str:
    """The record as JSON text; equal records give equal text."""
    return record.model_dump_json(indent=2, by_alias=True) + "\n"


def write_quality(record: QualityRecord, path: Path) -> None:
    """Write the record whole or not at all."""
    write_atomically(path, quality_json(record).encode())
