"""What a deployment submits to Flower: a bundle that names two apps and holds no code at all.

Flower wants a bundle for every run, sends it to every node and, left alone, runs what is in it. Coordinator and
partners of this project run the packages that they have installed (`client.launcher`), so the bundle is one small file
that is the same for every run of a release. Its digest is what partners list under `allowed_bundles`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

PROJECT: Final = """\
[project]
name = "mmrec-run"
version = "1.0.0"
description = "A run of mmrec; no code: each side runs what it has installed."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "mmrec"
fab-include = ["pyproject.toml"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
workspace = ""
"""


def write_app(folder: Path) -> Path:
    """Write the app's folder, from which Flower builds the bundle; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    return folder
