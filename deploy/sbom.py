"""A bill of materials of a wheelhouse: CycloneDX 1.5 (ECMA-424), JSON, from the wheels' own metadata alone.

    python deploy/sbom.py WHEELHOUSE OUT

Each wheel is a component: name and version of its METADATA, package URL (`pkg:pypi/...`), SHA-256 of the file, and the
licence as the metadata states it. Equal wheels give equal bytes: nothing of when and where is in it. Needs the standard
library alone, so that it runs before anything is installed.
"""  # noqa: INP001 - a program beside the package, not of it

from __future__ import annotations

import hashlib
import json
import re
import sys
import uuid
import zipfile
from collections.abc import Sequence
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import Any, Final

_LONGEST_NAME: Final = 120
"""Characters of a licence's name; some packages put the whole text into the field."""
_UNKNOWN: Final = frozenset({"", "UNKNOWN", "Dual License"})
_CLASSIFIER: Final = "License :: "


class WheelhouseFault(Exception):
    """A file of the wheelhouse is no wheel, or there is none."""


def bill_of_materials(folder: Path) -> dict[str, Any]:
    """The bill of all wheels of a folder, ordered by name and version.

    Raises:
        WheelhouseFault: there is no wheel, or one cannot be read.
    """
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise WheelhouseFault(f"{folder} holds no wheel")
    components = sorted((component(wheel) for wheel in wheels), key=lambda entry: entry["bom-ref"])
    content = json.dumps(components, sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "components": components,
    }


def component(wheel: Path) -> dict[str, Any]:
    """One wheel as a component.

    Raises:
        WheelhouseFault: it is no wheel, or its metadata has no name or version.
    """
    metadata = _metadata(wheel)
    name, version = metadata["Name"], metadata["Version"]
    if not name or not version:
        raise WheelhouseFault(f"the metadata of {wheel.name} has no name or version")
    normal = re.sub(r"[-_.]+", "-", name).lower()
    purl = f"pkg:pypi/{normal}@{version.replace('+', '%2B').replace('!', '%21')}"
    entry: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"{purl}?file_name={wheel.name}",
        "name": name,
        "version": version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": _sha256(wheel)}],
    }
    if found := licences(metadata):
        entry["licenses"] = found
    return entry


def licences(metadata: Message) -> list[dict[str, Any]]:
    """What a package says of its licence: an SPDX expression (PEP 639), else names; empty where it says nothing."""
    if expression := str(metadata.get("License-Expression", "")).strip():
        return [{"expression": expression}]
    names = [
        text.removeprefix(_CLASSIFIER).removeprefix("OSI Approved :: ")
        for text in metadata.get_all("Classifier", [])
        if text.startswith(_CLASSIFIER) and text != "License :: OSI Approved"
    ]
    stated = str(metadata.get("License", "")).strip().splitlines()
    if stated and stated[0] not in _UNKNOWN and len(stated) == 1:
        names = [stated[0]]
    return [{"license": {"name": name[:_LONGEST_NAME]}} for name in names]


def main(words: Sequence[str]) -> int:
    """Write the bill; the exit status."""
    if len(words) != 2:
        sys.stderr.write("usage: sbom.py WHEELHOUSE OUT\n")
        return 2
    try:
        bill = bill_of_materials(Path(words[0]))
    except WheelhouseFault as error:
        sys.stderr.write(f"{error}\n")
        return 1
    Path(words[1]).write_text(json.dumps(bill, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


def _metadata(wheel: Path) -> Message:
    try:
        with zipfile.ZipFile(wheel) as archive:
            places = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
            if len(places) != 1:
                raise WheelhouseFault(f"{wheel.name} has {len(places)} METADATA files, not one")
            return BytesParser().parsebytes(archive.read(places[0]))
    except (zipfile.BadZipFile, OSError) as error:
        raise WheelhouseFault(f"{wheel.name} is no wheel: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
