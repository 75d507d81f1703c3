"""Why a ledger, a key or a head is refused: one error type with a code per kind of fault.

An auditor maps codes to exit codes, a site shows them to its operator, a test asserts them. `LedgerError` is the base:
a caller that does not care about the kind catches that.
"""

from __future__ import annotations

from enum import StrEnum

from mmrec_model.errors import LedgerError


class FaultCode(StrEnum):
    """Kinds of faults; a code is never given a second meaning."""

    FORM = "form"
    """Not one canonical JSON record per line."""
    VERSION = "version"
    """A record version that this release does not know."""
    PLACE = "place"
    """Position or previous hash do not continue the chain: a record was dropped, swapped or repeated."""
    HASH = "hash"
    """The content was edited after it was hashed."""
    SIGNATURE = "signature"
    """Not signed by the key in force."""
    SCHEMA = "schema"
    """Unknown record type, missing or unknown field, or a value outside its range."""
    LEAK = "leak"
    """A field that would tell something about the users of a round."""
    STATE = "state"
    """The record is not allowed after the records before it."""
    CLOSED = "closed"
    """The ledger or the run was closed."""
    TORN = "torn"
    """The last line is incomplete."""
    EMPTY = "empty"
    """There is no complete record."""
    ROLLBACK = "rollback"
    """Shorter than a head that was already shown."""
    FORK = "fork"
    """Another history than a head that was already shown."""
    HEAD = "head"
    """The file of the last head is missing or unreadable."""
    NONCE = "nonce"
    """A nonce that was not asked for, or was used before."""
    KEY = "key"
    """Another key than the one expected, or a key file that others can read."""
    LOCKED = "locked"
    """Another process has the ledger open."""
    EXISTS = "exists"
    """Creation would overwrite."""
    MISSING = "missing"
    """The file is not there."""
    FILE = "file"
    """The operating system refused to read or write a file."""
    BROKEN = "broken"
    """This handle may no longer write: a write failed, the file changed under it, or it was closed."""


class LedgerFault(LedgerError):
    """A refused ledger, key or head.

    Attributes:
        code: the kind of fault.
    """

    def __init__(self, code: FaultCode, problem: str, *, remedy: str) -> None:
        self.code = code
        super().__init__(f"[{code}] {problem}", remedy=remedy)
