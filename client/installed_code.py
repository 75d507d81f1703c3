"""Which code runs at this partner: one digest that the policy allows and the ledger records."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from mmrec_model.canonical import sha256_hex


@lru_cache(maxsize=1)
def code_digest() -> str:
    """SHA-256 over the names and digests of the installed modules of `client` and `mmrec_model`.

    Read once per process, at its first message, and that is right: what runs is what was imported at the start. A file
    that is replaced later does not run, so it must not change what policy and ledger are told has run.
    """
    top = Path(__file__).resolve().parents[1]
    files = sorted(path for package in ("client", "mmrec_model") for path in (top / package).rglob("*.py"))
    lines = (f"{path.relative_to(top).as_posix()} {sha256_hex(path.read_bytes())}\n" for path in files)
    return sha256_hex("".join(lines).encode())
