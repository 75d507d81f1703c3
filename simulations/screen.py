"""The short table that a person sees at the end."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from simulations.report_content import evaluation_rows
from simulations.run_record import Metrics, RunRecord


def show_result(record: RunRecord, out: Path) -> None:
    """Print the table of systems and where the page is."""
    console = Console()
    epsilon = record.privacy.epsilon
    price = f"epsilon {epsilon:.2f} at delta {record.privacy.delta:g}" if epsilon is not None else "without privacy"
    table = Table(title=f"{record.data.name}: {record.data.partners} partners, {record.data.users} users, {price}")
    for heading in ("system", "recall@10", "ndcg@10", "recall@20", "ndcg@20"):
        table.add_column(heading, justify="left" if heading == "system" else "right")
    table.add_row("federated model", *_cells(record.metrics), style="bold")
    for kind, systems in (("floor", record.floors), ("not private", record.baselines)):
        for name, values in systems.items():
            table.add_row(f"{name} ({kind})", *_cells(values))
    console.print(table)
    verdict = record.verdict
    console.print(
        f"ndcg@10 against the best floor ({verdict.best_floor}): {verdict.difference:+.4f} "
        f"[{verdict.low:+.4f}, {verdict.high:+.4f}]; {record.wall_seconds:.0f} s",
        highlight=False,
    )
    joined = record.alone
    console.print(
        f"ndcg@10 against staying alone: {joined.difference:+.4f} [{joined.low:+.4f}, {joined.high:+.4f}]; better at "
        f"{joined.better} of {joined.partners} partners, {joined.worst:+.4f} at the worst",
        highlight=False,
    )
    console.print(f"exported: {record.ladder.exported}", highlight=False)
    for row in evaluation_rows(record):
        console.print(
            f"released for {row.state}: {row.metric} {row.released}, without noise {row.central}", highlight=False
        )
    console.print(f"report: {out / 'report.html'}", highlight=False, soft_wrap=True)


def _cells(values: Metrics) -> list[str]:
    return [
        f"{value:.4f}" for value in (values.recall_at_10, values.ndcg_at_10, values.recall_at_20, values.ndcg_at_20)
    ]
