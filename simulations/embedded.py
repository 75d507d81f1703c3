"""The embedded set: made once per workspace, by the seed, when no data is given."""

from __future__ import annotations

from pathlib import Path

from simulations.progress import Progress
from simulations.synthetic.answer import FILE_NAME, KnownAnswer
from simulations.synthetic.folder import write_synthetic

USERS, ITEMS = 2400, 400


def embedded_data(out: Path, seed: int, progress: Progress) -> Path:
    """The folder with text, pictures, sounds and films; kept if it was made with the same numbers.

    Args:
        out: the workspace; the data goes to its folder `data`.
        seed: of the set.
        progress: told about every item.
    """
    folder = out / "data"
    if (folder / FILE_NAME).is_file():
        known = KnownAnswer.load(folder)
        same = (known.users, known.items, known.seed) == (USERS, ITEMS, seed) and bool(known.outcomes)
        if same and (folder / "interactions.parquet").is_file():
            return folder
    write_synthetic(
        folder, users=USERS, items=ITEMS, seed=seed, progress=lambda done, total: progress("drawing items", done, total)
    )
    return folder
