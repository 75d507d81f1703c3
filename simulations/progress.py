"""How long work tells whoever waits for it how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told how far a stage is; `mmrec_model.bars.Bars` shows it to a person."""

    def __call__(self, stage: str, done: int, total: int, unreadable: int = 0) -> None:
        """`done` of `total` parts of `stage` are finished; `unreadable` of the finished ones were damaged media."""
