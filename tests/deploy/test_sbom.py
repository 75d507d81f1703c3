"""The bill of materials says what the wheels say, and nothing of when and where it was made."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "deploy" / "sbom.py"


def wheel(folder: Path, name: str, version: str, *lines: str) -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    text = "\n".join(["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *lines, "", "A text."])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(f"{name}-{version}.dist-info/METADATA"), text)
        archive.writestr(zipfile.ZipInfo(f"{name}/vendored/other-1.dist-info/METADATA"), "Name: other\n")
    return path


def run(folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", str(PROGRAM), str(folder), str(out)], capture_output=True, text=True, check=False
    )


def bill(folder: Path, out: Path) -> dict[str, Any]:
    done = run(folder, out)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_each_wheel_is_a_component_with_its_digest_and_its_licence(tmp_path: Path) -> None:
    house = tmp_path / "house"
    house.mkdir()
    spdx = wheel(house, "Zebra_Lib", "1.0+cu12", "License-Expression: MIT OR Apache-2.0", "License: BSD")
    named = wheel(
        house,
        "alpha",
        "2.1",
        "Classifier: License :: OSI Approved",
        "Classifier: License :: OSI Approved :: MIT License",
    )
    silent = wheel(house, "mute", "0.1", "License: UNKNOWN")
    found = bill(house, tmp_path / "bom.json")
    assert (found["bomFormat"], found["specVersion"], found["version"]) == ("CycloneDX", "1.5", 1)
    parts = {part["name"]: part for part in found["components"]}
    assert [part["name"] for part in found["components"]] == ["alpha", "mute", "Zebra_Lib"]
    assert parts["Zebra_Lib"]["purl"] == "pkg:pypi/zebra-lib@1.0%2Bcu12"
    assert parts["Zebra_Lib"]["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
    assert parts["alpha"]["licenses"] == [{"license": {"name": "MIT License"}}]
    assert "licenses" not in parts["mute"]
    for path, name in ((spdx, "Zebra_Lib"), (named, "alpha"), (silent, "mute")):
        assert parts[name]["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}]
    assert len({part["bom-ref"] for part in found["components"]}) == 3


def test_equal_wheels_give_equal_bytes_and_other_wheels_another_serial_number(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        wheel(tmp_path / name, "alpha", "2.1", "License: MIT")
    first = bill(tmp_path / "one", tmp_path / "one.json")
    bill(tmp_path / "two", tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    wheel(tmp_path / "two", "beta", "1")
    assert bill(tmp_path / "two", tmp_path / "two.json")["serialNumber"] != first["serialNumber"]


@pytest.mark.parametrize("content", [b"", b"no wheel"])
def test_what_is_no_wheel_is_refused_and_nothing_is_written(tmp_path: Path, content: bytes) -> None:
    if content:
        (tmp_path / "alpha-1-py3-none-any.whl").write_bytes(content)
    done = run(tmp_path, tmp_path / "bom.json")
    assert done.returncode == 1
    assert "wheel" in done.stderr
    assert not (tmp_path / "bom.json").exists()
