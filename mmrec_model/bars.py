"""What a person sees while a long command works: one bar per stage."""

from __future__ import annotations

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
from rich.text import Text


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
