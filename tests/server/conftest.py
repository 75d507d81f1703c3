"""A small feature bundle that was not signed, and a founded coordinator."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from mmrec_model.canonical import canonical_json
from mmrec_model.features.folder import npy_bytes, write_bundle
from mmrec_model.federation_file import FederationFile
from server.founding import found_federation

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Four items."""
    files = {
        "items.json": canonical_json(list("abcd")),
        "present.npy": npy_bytes(np.ones((4, 1), dtype=bool)),
        "text.npy": npy_bytes(np.eye(4, dtype=np.float32)),
    }
    write_bundle(tmp_path / "bundle", files, {"items": 4, "modalities": {}})
    return tmp_path / "bundle"


@pytest.fixture
def founded(tmp_path: Path, bundle: Path) -> tuple[Path, FederationFile]:
    """A coordinator's folder and its federation file."""
    folder = tmp_path / "coordinator"
    return folder, found_federation(
        folder, name="shops", address="127.0.0.1:8443", names=["localhost"], features=bundle, now=NOW
    )
