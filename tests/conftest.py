"""What all tests share: where the real data set lies, and a quiet, single-threaded torch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mmrec_model.data.writing import write_partner

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def xwines() -> Path:
    """The real CC0 data set beside the checkout; tests that need it are skipped where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data" / "xwines_slim"
    if not folder.is_dir():
        pytest.skip("the X-Wines folder ../shared/data/xwines_slim is not on this machine")
    return folder


@pytest.fixture(scope="session")
def small_partner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 users of two regions and 24 items of two kinds, with text and pictures; each region likes one kind."""
    folder = tmp_path_factory.mktemp("small") / "shop"
    folder.mkdir()
    rng = np.random.default_rng(0)
    colours = {"north": (200, 30, 30), "south": (30, 30, 200)}
    kinds = list(colours)
    rows = []
    for item in range(24):
        kind = kinds[item % 2]
        Image.new("RGB", (40, 40), colours[kind]).save(folder / f"{item}.png")
        picture = f"{item}.png" if item % 5 else None
        rows.append((f"i{item}", f"{kind} {item}", f"a thing from the {kind} number {item}", picture))
    items = pa.table({n: [row[c] for row in rows] for c, n in enumerate(("item_id", "title", "text", "image"))})
    seen = []
    for user in range(90):
        chosen = rng.choice(np.arange(user % 2, 24, 2), size=5, replace=False)
        seen += [(f"u{user}", f"i{item}", 1_600_000_000 + place) for place, item in enumerate(chosen)]
    interactions = pa.table({n: [r[c] for r in seen] for c, n in enumerate(("user_id", "item_id", "timestamp"))})
    users = pa.table({"user_id": [f"u{u}" for u in range(90)], "silo_region": [kinds[u % 2] for u in range(90)]})
    write_partner(folder, interactions=interactions, items=items, users=users)
    return folder
