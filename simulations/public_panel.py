"""A public panel against an exported model: the users of a folder, in the order of the model's own catalogue.

Items of the panel that the model does not know are quarantined and counted like any other bad row; the panel is refused
where they are most of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mmrec_model.data.catalogue import Catalogue, open_catalogue
from mmrec_model.data.dataset import open_partner
from mmrec_model.data.schema import ITEMS, MEDIA
from mmrec_model.data.split_rules import SplitRule
from mmrec_model.data.tables import find_file
from mmrec_model.data.validation import ValidationReport
from mmrec_model.errors import DataError
from mmrec_model.evaluation.ranking import Progress
from mmrec_model.library import MultimodalRecommender
from mmrec_model.model.state import beside_of
from simulations.assessment import floor_ranks
from simulations.figures import metric_label
from simulations.panels import model_on_histories, panel_of
from simulations.quality import Extras, ItemFacts, assess
from simulations.quality_page import METRIC, slice_rows
from simulations.quality_record import QualityRecord

PINNED = "as pinned, else leave-last-out"


def assess_export(
    model: Path,
    data: Path,
    *,
    features: Path | None = None,
    rule: SplitRule | None = None,
    progress: Progress | None = None,
) -> tuple[QualityRecord, tuple[str, ...]]:
    """Every figure of an exported model on a panel, beside its floors; and what the reader should know.

    Args:
        model: folder of the export.
        data: the panel, in partner format; `items.*` is optional and read for categories alone.
        features: the bundle; by default beside the model.
        rule: how to hold out; by default as the panel pins.
        progress: told about users scored.

    Raises:
        MmrecError: a folder is damaged or does not fit, or no user of the panel has a held-out item.
    """
    served = MultimodalRecommender.load(model, features=features)
    catalogue = _in_order(served.item_ids, data)
    panel_data = open_partner(data, catalogue=catalogue, split=rule)
    panel = panel_of([panel_data], "test")
    if not panel.histories:
        raise DataError(
            f"none of the {len(panel_data)} users of {data} has a held-out item",
            remedy="Use a panel with at least 3 items per user, or another --split",
        )
    cold = panel_of([panel_data], "cold")
    extras = Extras(
        held_out=cold if cold.histories else None,
        others=floor_ranks(
            served.config, served.items, panel, beside_of(served.exported.model, served.exported.prior_N)
        ),
    )
    record = assess(
        panel,
        model_on_histories(served.exported.model, served.items),
        ItemFacts.of(catalogue, served.bundle.vectors, np.asarray(served.bundle.present_NM)),
        system=served.config.run_id,
        split=PINNED if rule is None else str(rule),
        extras=extras,
        progress=progress,
    )
    refused = [f"{code}: {count} rows set aside" for code, count in panel_data.report.quarantined.items()]
    return record, (*panel_data.report.notices, *refused)


def show(record: QualityRecord) -> None:
    """The table that a person sees: the whole panel, then every slice."""
    console = Console()
    table = Table(title=f"{record.system}: {record.overall.users:,} users, {record.items:,} items, {record.split}")
    for heading in ("", metric_label(METRIC), "error", "chance", "users"):
        table.add_column(heading, justify="left" if not heading else "right")
    rows = [("all", record.overall), *((f"{group}: {name}", each[0]) for group, name, each in slice_rows([record]))]
    for name, part in rows:
        if part is not None and part.metrics:
            figure = part.metrics[METRIC]
            numbers = (f"{figure.value:.4f}", f"{figure.error:.4f}", f"{figure.chance:.4f}", f"{part.users:,}")
            table.add_row(name, *numbers)
    console.print(table)
    for pair in record.against:
        console.print(
            f"against {pair.other}: {pair.mean:+.4f} [{pair.low:+.4f}, {pair.high:+.4f}], "
            f"p {pair.p:.2g}, adjusted {pair.p_holm:.2g}",
            highlight=False,
        )


def _in_order(item_ids: tuple[str, ...], data: Path) -> Catalogue:
    """The model's items, with the categories that the panel's own items file gives them."""
    known: dict[str, str] = {}
    if find_file(data, ITEMS) is not None:
        given = open_catalogue(data)
        known = dict(zip(given.item_ids, given.categories, strict=True))
    blank = ("",) * len(item_ids)
    none: tuple[Path | None, ...] = (None,) * len(item_ids)
    categories = tuple(known.get(item, "") for item in item_ids)
    return Catalogue(item_ids, blank, blank, categories, dict.fromkeys(MEDIA, none), ValidationReport())
