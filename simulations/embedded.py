"""The embedded set: made once per workspace, by the seed, when no data is given."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from simulations.synthetic.answer import FILE_NAME, KnownAnswer
from simulations.synthetic.folder import write_synthetic

USERS, ITEMS = 2400, 400


class Advance(Protocol):
    """Told how many items are made."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` parts of `stage`."""


def embedded_data(out: Path, seed: int, advance: Advance) -> Path:
    """The folder with text, pictures, sounds and films; kept if it was made with the same numbers.

    Args:
        out: the workspace; the data goes to its folder `data`.
        seed: of the set.
        advance: told about every item.
    """
    folder = out / "data"
    if (folder / FILE_NAME).is_file():
        known = KnownAnswer.load(folder)
        same = (known.users, known.items, known.seed) == (USERS, ITEMS, seed) and bool(known.outcomes)
        if same and (folder / "interactions.parquet").is_file():
            return folder
    write_synthetic(
        folder, users=USERS, items=ITEMS, seed=seed, progress=lambda done, total: advance("drawing items", done, total)
    )
    return folder
