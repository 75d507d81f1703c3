"""What a person sees while waiting, and the short table at the end."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from simulations.report_content import evaluation_rows
from simulations.run_record import Metrics, RunRecord


class _Rate(ProgressColumn):
    """Parts per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "", style="dim")


class _Unreadable(ProgressColumn):
    """How many media could not be read, once there are any."""

    def render(self, task: Task) -> Text:
        count = task.fields["unreadable"]
        return Text(f"{count} unreadable" if count else "", style="yellow")


class Bars:
    """One bar per stage with rate, time left and unreadable media; plain lines where the output is no terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), _Rate())
        self._progress = Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), _Unreadable(), console=self._console
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, stage: str, done: int, total: int, unreadable: int = 0) -> None:
        """Move the bar of `stage`."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total, unreadable=unreadable)
        self._progress.update(self._tasks[stage], completed=done, total=total, unreadable=unreadable)

    def say(self, text: str) -> None:
        """A line above the bars."""
        self._progress.console.print(text)


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
    for row in evaluation_rows(record):
        console.print(
            f"released for {row.state}: {row.metric} {row.released}, without noise {row.central}", highlight=False
        )
    console.print(f"report: {out / 'report.html'}", highlight=False, soft_wrap=True)


def _cells(values: Metrics) -> list[str]:
    return [
        f"{value:.4f}" for value in (values.recall_at_10, values.ndcg_at_10, values.recall_at_20, values.ndcg_at_20)
    ]
