"""Tiny catalogues that are learnable: pictures in colours that the texts name, sentences that belong together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from simulations.synthetic.writing import MOODS, ORIGINS, WORDS, write_item

COLOURS = {
    "red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "yellow": (230, 220, 40),
    "white": (240, 240, 240), "black": (10, 10, 10),
}  # fmt: skip
TOPICS = {
    "sea": ("ship", "anchor", "harbour", "sail"), "sky": ("cloud", "star", "comet", "moon"),
    "farm": ("cow", "plough", "barn", "wheat"), "town": ("street", "tower", "market", "bridge"),
}  # fmt: skip


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


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 texts of the synthetic set, without media; the sentences of a text are on one topic."""
    folder = tmp_path_factory.mktemp("stories")
    rng = np.random.default_rng(0)
    topics, moods, origins = (list(one) for one in (WORDS, MOODS, ORIGINS))
    rows = [
        write_item({"topic": topics[item % 12], "mood": moods[item % 4], "origin": origins[item % 6]}, rng)
        for item in range(400)
    ]
    table = {"item_id": [f"i{item}" for item in range(400)], "title": [one for one, _ in rows]}
    pq.write_table(pa.table(table | {"text": [one for _, one in rows]}), folder / "items.parquet")
    return folder


@pytest.fixture(autouse=True)
def _own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path_factory.getbasetemp() / "pretraining-vectors"))
