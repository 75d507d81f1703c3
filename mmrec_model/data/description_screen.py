"""The figures of a partner folder on one screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def show_description(figures: Mapping[str, Any], name: str, notice: str) -> None:
    """Print the table, the warnings and the notice that the page is not to be shared."""
    console = Console(soft_wrap=False)
    console.print(notice, style="bold yellow", highlight=False)
    table = Table(title=escape(name), show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column()
    for label, value in _rows(figures):
        table.add_row(label, escape(value))
    console.print(table)
    for warning in figures["warnings"]:
        console.print(f"warning: {escape(warning)}", style="yellow", highlight=False)


def _rows(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "users, items", f"{figures['users']:,}, {figures['items']:,} ({figures['items_never_met']:,} never met)"
    yield "interactions", f"{figures['interactions']:,}, {figures['distinct_pairs']:,} distinct pairs"
    yield "impressions", f"{figures['impressions']:,}"
    yield "density", f"{figures['density']:.3%}"
    yield "time", f"{figures['from']} to {figures['to']}"
    yield "history length", _quantiles(figures["history_length"])
    yield "popularity deciles", " ".join(f"{share:.1%}" for share in figures["popularity_deciles"])
    yield "events", _counts(figures["events"])
    ratings = figures["ratings"]
    if ratings is not None:
        counts = f": {_counts(ratings['counts'])}" if ratings["counts"] else ""
        span = f"{ratings['lowest']:g} to {ratings['highest']:g}, mean {ratings['mean']:.2f}"
        yield "ratings", f"{ratings['share']:.1%} of rows, {span}{counts}"
    for medium, share in figures["media"].items():
        yield medium, f"{share['items']:.1%} of items, {share['interactions']:.1%} of interactions"
    yield "text length", f"{_quantiles(figures['text_length'])} characters"
    for column, silo in figures["silos"].items():
        rest = f", {silo['unknown']:,} unknown" if silo["unknown"] else ""
        yield column, f"{silo['values']:,} values; largest {_counts(silo['largest'])}{rest}"
    for name, shares in figures["bounded"].items():
        beyond = " ".join(f"{share:.1%}" for share in shares)
        yield f"unseen by {name}", f"{beyond} of train items, users by activity"
    split = figures["split"]
    yield "split", f"{split['train_rows']:,} train rows, {split['all_train_users']:,} users all train"
    cold = f"{split['cold_test_users']:,} of them items without train rows"
    yield "held out", f"{split['validation_users']:,} validation, {split['test_users']:,} test ({cold})"


def _quantiles(values: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in values.items())


def _counts(values: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in values.items())
