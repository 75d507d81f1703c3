"""The wheelhouse script asks pip for the locked set, and writes checksums and bill of what came. No network is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PIP = """#!{python}
import pathlib, subprocess, sys, zipfile
words = sys.argv[1:]
if words[:3] != ["-m", "pip", "wheel"]:
    sys.exit(subprocess.call([sys.executable, *words]))
pathlib.Path({said!r}).write_text("\\n".join(words))
folder = pathlib.Path(words[words.index("--wheel-dir") + 1])
for name in ("alpha", "beta"):
    with zipfile.ZipFile(folder / f"{{name}}-1-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{{name}}-1.dist-info/METADATA", f"Name: {{name}}\\nVersion: 1\\n")
"""


def collect(tmp_path: Path, house: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the script with a pip that makes two wheels and notes what it was asked."""
    python = tmp_path / "python"
    python.write_text(PIP.format(python=sys.executable, said=str(tmp_path / "said")))
    python.chmod(0o700)
    environment = {**os.environ, "PYTHON": str(python), "EXTRAS": "wordvectors"}
    line = [ROOT / "deploy" / "wheelhouse.sh", house, *words]
    return subprocess.run(line, capture_output=True, text=True, env=environment, check=False)


def test_all_wheels_are_locked_summed_and_listed(tmp_path: Path) -> None:
    house = tmp_path / "house"
    done = collect(tmp_path, house, "--no-deps")
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "said").read_text().splitlines()
    assert said[said.index("--constraint") + 1] == str(ROOT / "constraints.txt")
    assert said[-2:] == ["--no-deps", f"{ROOT}[wordvectors]"]
    summed = {line.split()[1] for line in (house / "SHA256SUMS").read_text().splitlines()}
    assert summed == {path.name for path in house.iterdir()} - {"SHA256SUMS"}
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=house, check=False).returncode == 0
    bill = json.loads((house / "sbom.cdx.json").read_text())
    assert [part["name"] for part in bill["components"]] == ["alpha", "beta"]


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "old-1-py3-none-any.whl").touch()
    done = collect(tmp_path, tmp_path / "house")
    assert done.returncode == 1
    assert not (tmp_path / "said").exists()
