"""The partner's keys in operation: which key is in force, how the partner's own is replaced, how the server's is.

    key.pem        the key in force
    key.next.pem   a key that is to take over; there only while a rotation is under way

A rotation is one ledger record, signed by the old and the new key. The new key lies in `key.next.pem` before the record
is written and takes the place of `key.pem` after it, so a crash at any moment leaves the key in force in one of the
two files, and `signing_key` finds it. The coordinator learns of the rotation from the record, which is shown with the
next head (`mmrec_model.privacy.rotation`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.files import file_faults
from mmrec_model.privacy.keys import PublicKey, SigningKey
from mmrec_model.privacy.ledger import Ledger
from mmrec_model.privacy.rotation import Place
from mmrec_model.storage import fsync_folder

KEY: Final = "key.pem"
NEXT_KEY: Final = "key.next.pem"
LEDGER: Final = "ledger.jsonl"


def signing_key(root: Path) -> SigningKey:
    """The key in force at a site; a rotation that a crash cut short after its record is ended first.

    Raises:
        LedgerFault: the key file is missing, damaged or open to others, or the ledger cannot be opened.
    """
    if (root / NEXT_KEY).exists() and _is_in_force(root, SigningKey.load(root / NEXT_KEY)):
        _take_over(root)
    return SigningKey.load(root / KEY)


def rotate_key(root: Path, *, reason: str = "scheduled") -> PublicKey:
    """Give a site a new key; the former one is destroyed. Repeated after a crash, it ends what was begun.

    Args:
        root: the site's folder.
        reason: `scheduled`; or `compromised`, which the coordinator's operator must confirm by enrolling the new key.

    Returns:
        The public key in force from now on.

    Raises:
        LedgerFault: see `signing_key`; `LOCKED` while the site answers a request; `CLOSED`.
    """
    with Ledger.open(root / LEDGER, signing_key(root)) as ledger:
        path = root / NEXT_KEY
        new_key = SigningKey.load(path) if path.exists() else SigningKey.create(path)
        ledger.rotate_key(new_key, reason=reason)
        _take_over(root)
    return new_key.public


def server_key_place(root: Path, new_key: PublicKey) -> Place:
    """What the coordinator signs with its old and its new key, so that this ledger takes over the new one.

    It names the present end of the ledger: any record written before the signatures come back makes them void.

    Raises:
        LedgerFault: see `signing_key`.
    """
    with Ledger.open(root / LEDGER, signing_key(root)) as ledger:
        return ledger.history.rotation_place("server", new_key)


def accept_server_key(root: Path, new_key: PublicKey, old_signature: str | None, new_signature: str) -> None:
    """Write the coordinator's new key into the ledger; requests must be signed by it from now on.

    Args:
        root: the site's folder.
        new_key: the coordinator's new key, as its operator told it.
        old_signature: by the coordinator's key in force over `server_key_place`; None if the ledger names none yet.
        new_signature: by the new key over the same.

    Raises:
        LedgerFault: `SIGNATURE` if one of the two is not right, or the ledger has grown since; see `signing_key`.
    """
    with Ledger.open(root / LEDGER, signing_key(root)) as ledger:
        ledger.rotate_server_key(new_key, old_signature, new_signature)


def destroy_keys(root: Path) -> None:
    """Destroy the site's key: nothing can be signed, sent or spent any more. The ledger stays and can be read.

    Raises:
        LedgerFault: see `signing_key`; `LOCKED` while the site answers a request.
    """
    with Ledger.open(root / LEDGER, signing_key(root)), file_faults(root / KEY):
        (root / NEXT_KEY).unlink(missing_ok=True)
        (root / KEY).unlink()
        fsync_folder(root)


def _is_in_force(root: Path, key: SigningKey) -> bool:
    try:
        Ledger.open(root / LEDGER, key).close()
    except LedgerFault as fault:
        if fault.code is FaultCode.KEY:
            return False
        raise
    return True


def _take_over(root: Path) -> None:
    with file_faults(root / KEY):
        (root / NEXT_KEY).replace(root / KEY)
        fsync_folder(root)
