"""A partner folder of a few rows, whose files a test replaces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

INTERACTIONS = "user_id,item_id,timestamp\nu1,a,10\nu1,b,20\nu1,c,30\nu2,a,10\nu2,b,5\n"
ITEMS = "item_id,title,text\na,Apple,A fruit\nb,Book,\nc,,\nd,Dish,Round\n"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write files by name (`interactions_csv="..."`) over a good folder; None leaves one out."""

    def _write(**files: str | bytes | None) -> Path:
        whole: dict[str, str | bytes | None] = {"interactions_csv": INTERACTIONS, "items_csv": ITEMS, **files}
        folder = tmp_path / "partner"
        folder.mkdir(exist_ok=True)
        for name, content in whole.items():
            if content is not None:
                raw = content.encode() if isinstance(content, str) else content
                (folder / name.replace("_", ".")).write_bytes(raw)
        return folder

    return _write
