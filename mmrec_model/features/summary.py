"""A bundle's manifest as a table that a person reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from mmrec_model.config import MODALITIES
from mmrec_model.features.folder import FeatureBundle

COLUMNS = ("encoder", "licence", "dims", "encoded", "missing", "corrupt")
QUALITY = ("exact_duplicates", "near_duplicates", "disagreeing", "quarantined")


def show_bundle(bundle: FeatureBundle) -> None:
    """Print one row per modality, what disagrees, and the digest."""
    console, manifest = Console(), bundle.manifest
    quality: Mapping[str, Any] = manifest.get("quality", {}).get("modalities", {})
    estimated: Mapping[str, int] = manifest.get("imputation", {}).get("estimated", {})
    table = Table(title=f"{manifest['items']} items, {manifest['without_features']} without features")
    for heading in ("medium", *COLUMNS, *(QUALITY if quality else ()), *(("estimated",) if estimated else ())):
        table.add_column(heading.replace("_", " "), justify="left" if heading in COLUMNS[:2] else "right")
    for name in (modality for modality in MODALITIES if modality in manifest["modalities"]):
        entry = manifest["modalities"][name]
        cells = [name, entry["encoder"]["name"], entry["encoder"]["licence"], *(entry[key] for key in COLUMNS[2:])]
        cells += [quality.get(name, {}).get(key, "") for key in QUALITY] if quality else []
        cells += [estimated.get(name, "")] if estimated else []
        table.add_row(*map(str, cells))
    console.print(table)
    for line in _findings(quality):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"bundle {bundle.digest}", highlight=False, soft_wrap=True)


def _findings(quality: Mapping[str, Any]) -> list[str]:
    """One line per modality and kind of finding, with the first items."""
    lines = []
    for name in (modality for modality in MODALITIES if modality in quality):
        entry = quality[name]
        for kind in ("exact", "near"):
            pairs = [f"{item} = {earlier}" for item, earlier in entry[f"{kind}_duplicate_items"]]
            if pairs:
                lines.append(f"{name}, {kind} duplicates: {', '.join(pairs)}")
        if entry.get("disagreeing_items"):
            lines.append(
                f"{name} against {', '.join(entry['heard'])}, {entry['judged']} judged, "
                f"{entry['shuffled_caught_permille'] / 10:.0f} % of shuffled ones would be found: "
                f"{', '.join(entry['disagreeing_items'])}"
            )
    return lines
