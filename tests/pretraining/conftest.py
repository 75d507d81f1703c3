"""Tiny catalogues that are learnable: pictures in colours that the texts name, sentences that belong together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

COLOURS = {
    "red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "yellow": (230, 220, 40),
    "white": (240, 240, 240), "black": (10, 10, 10),
}  # fmt: skip
TOPICS = {
    "sea": ("ship", "anchor", "harbour", "sail"), "sky": ("cloud", "star", "comet", "moon"),
    "farm": ("cow", "plough", "barn", "wheat"), "town": ("street", "tower", "market", "bridge"),
}  # fmt: skip


def nothing(stage: str, done: int, total: int, unreadable: int) -> None:
    """A progress that nobody watches."""


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 items: text of two sentences on one topic that names two colours, a picture of these, a tone by topic."""
    folder = tmp_path_factory.mktemp("catalogue")
    rng = np.random.default_rng(0)
    rows = []
    for item in range(96):
        upper, lower = (list(COLOURS)[int(one)] for one in rng.choice(len(COLOURS), 2, replace=False))
        topic = list(TOPICS)[item % len(TOPICS)]
        one, two, three = (str(word) for word in rng.choice(TOPICS[topic], 3, replace=False))
        text = f"The {one} of the {topic} is {upper} above and {lower} below. There the {two} meets the {three}."
        picture = Image.new("RGB", (48, 48), COLOURS[upper])
        picture.paste(COLOURS[lower], (0, 24, 48, 48))
        picture.save(folder / f"{item}.png")
        pitch = 300 * (1 + item % len(TOPICS)) * (1 + 0.02 * rng.random())
        tone = 0.3 * np.sin(2 * np.pi * pitch * np.arange(4000) / 16000)
        soundfile.write(folder / f"{item}.wav", tone.astype(np.float32), 16000)
        rows.append((f"i{item}", "", text, f"{item}.png", f"{item}.wav"))
    names = ("item_id", "title", "text", "image", "audio")
    pq.write_table(pa.table({n: [row[c] for row in rows] for c, n in enumerate(names)}), folder / "items.parquet")
    return folder


@pytest.fixture(autouse=True)
def _own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path_factory.getbasetemp() / "pretraining-vectors"))


@pytest.fixture
def progress() -> Callable[[str, int, int, int], None]:
    return nothing
