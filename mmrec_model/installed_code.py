"""Which code a partner runs: one digest that a federation names, a policy allows and a ledger records.

Here, and not beside the code that it covers, because the coordinator states the digest of the client package that it
was founded with, and imports none of it.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

from mmrec_model.canonical import sha256_hex
from mmrec_model.errors import ConfigError

_PACKAGES: Final = ("client", "mmrec_model")


@lru_cache(maxsize=1)
def code_digest() -> str:
    """SHA-256 over the names and digests of the installed modules of `client` and `mmrec_model`.

    Read once per process, at its first message, and that is right: what runs is what was imported at the start. A file
    that is replaced later does not run, so it must not change what policy and ledger are told has run.

    Raises:
        ConfigError: one of the two packages is not installed beside this module.
    """
    top = Path(__file__).resolve().parents[1]
    files = sorted(path for package in _PACKAGES for path in (top / package).rglob("*.py"))
    absent = [package for package in _PACKAGES if not (top / package / "__init__.py").is_file()]
    if absent:
        raise ConfigError(
            f"the package {absent[0]} is not installed in {top}", remedy="Install the whole mmrec distribution"
        )
    lines = (f"{path.relative_to(top).as_posix()} {sha256_hex(path.read_bytes())}\n" for path in files)
    return sha256_hex("".join(lines).encode())
