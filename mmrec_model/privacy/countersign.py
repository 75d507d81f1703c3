"""The server's side: one book with the last head of every partner, and the rule by which a head is countersigned.

A head is countersigned if, in this order:
1. the partner is known; rotations shown with the head, if any, lead from its key to another one (`rotation.follow`);
   head and proof of growth are signed by the key in force then (`KEY`, `SIGNATURE`);
2. no fork of this partner is open (`FORK`);
3. it does not contradict the last head of the same size; if it does, the two signatures are kept as a proof (`FORK`);
4. it answers the nonce that was asked for last; the same answer again gives the same countersignature (`NONCE`);
5. it is not shorter than the last head (`ROLLBACK`);
6. the proof shows that it only grew; if it does not, heads and proof are kept as a proof of the fork (`FORK`).

A kept proof blocks the partner until an operator explains it. The book is one JSON file (`bookfile`), replaced as a
whole before a signature leaves; while a book is open, no other process can open it. It holds nothing private.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mmrec_model.closing import Closing
from mmrec_model.privacy.bookfile import Entry, FormerKey, read_book, write_book
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.files import FileLock
from mmrec_model.privacy.fork import ForkProof
from mmrec_model.privacy.heads import Countersignature, Head, SignedGrowth, SignedHead, countersign_head
from mmrec_model.privacy.keys import PublicKey, SigningKey
from mmrec_model.privacy.rotation import Rotation, follow


@dataclass(frozen=True)
class Challenge:
    """What the server asks of a partner: its head with this nonce, and a proof of growth from `size` records."""

    partner: str
    nonce: str
    size: int


class HeadBook(Closing):
    """The heads of all partners; use it as a context, or `close` it.

    Args:
        path: the file; read if it exists. The lock is `path` with the ending `.lock`.
        key: the server's key.

    Raises:
        LedgerFault: `LOCKED` if another process has the book open, `HEAD` if the file cannot be read.
    """

    def __init__(self, path: Path, key: SigningKey) -> None:
        self.path = path
        self._key = key
        self._lock = FileLock(path.with_suffix(".lock"), remedy="End the other coordinator; a head book has one")
        try:
            self._entries = read_book(path)
        except BaseException:
            self._lock.close()
            raise

    def close(self) -> None:
        """Let another process open the book; nothing may be written afterwards."""
        self._lock.close()

    @property
    def partners(self) -> tuple[str, ...]:
        """Names of all enrolled partners."""
        return tuple(sorted(self._entries))

    def enrol(self, partner: str, public_key: PublicKey, opening: SignedHead | None = None) -> None:
        """Take in a new partner; a second enrolment with a key that it has or had does nothing.

        Args:
            partner: its name.
            public_key: its key.
            opening: the head of its ledger's first record, signed by that key: what it shows later must have grown from
                there. Without it the first head that it shows is believed.

        Raises:
            LedgerFault: `KEY` if the partner has another key, or the key belongs to another partner; `SIGNATURE` if
                the opening is not this partner's.
        """
        known = self._entries.get(partner)
        if known is None:
            self._require_free(partner, public_key)
            self._keep(partner, self._opened(partner, public_key, opening))
        elif public_key not in known.keys:
            raise LedgerFault(
                FaultCode.KEY,
                f"partner {partner!r} is enrolled with key {known.public_key.key_id}, not {public_key.key_id}",
                remedy="Have the partner rotate its key in its ledger, or replace the key by hand",
            )

    def _opened(self, partner: str, public_key: PublicKey, opening: SignedHead | None) -> Entry:
        if opening is None:
            return Entry(public_key)
        if opening.partner != partner or not opening.is_signed_by(public_key):
            raise LedgerFault(
                FaultCode.SIGNATURE,
                f"the opening of the ledger of {partner!r} is not signed by its key {public_key.key_id}",
                remedy="Ask the partner for its enrolment again",
            )
        receipt = countersign_head(partner, opening.head, opening.nonce, self._key)
        return Entry(public_key, shown=opening, receipt=receipt)

    def replace_key(self, partner: str, public_key: PublicKey) -> None:
        """Give a partner another key by the operator's hand: its former one is lost or compromised.

        The last head stays: the ledger must still grow from it.

        Raises:
            LedgerFault: `KEY` if the partner is unknown, or the key was in force before, here or for another partner.
        """
        entry = self._entry(partner)
        self._require_free(partner, public_key)
        former = (*entry.former, FormerKey(entry.public_key, None))
        self._keep(partner, replace(entry, public_key=public_key, former=former, nonce=None))

    def challenge(self, partner: str) -> Challenge:
        """A fresh nonce for the partner's next head; an older nonce is void from now on.

        Raises:
            LedgerFault: `KEY` if the partner is unknown, `FORK` while a fork is open.
        """
        entry = self._entry(partner)
        _require_no_fork(partner, entry)
        nonce = secrets.token_hex(16)
        self._keep(partner, replace(entry, nonce=nonce))
        return Challenge(partner, nonce, entry.head.size)

    def countersign(
        self, shown: SignedHead, growth: SignedGrowth, rotations: Sequence[Rotation] = ()
    ) -> Countersignature:
        """Check a head by the rule above, remember it, sign it.

        Args:
            shown: the partner's answer to the last challenge.
            growth: signed proof of growth from the challenge's size to this head's.
            rotations: of the partner's key since its last head.

        Raises:
            LedgerFault: with the code of the first check that fails.
        """
        entry = self._rotated(shown, rotations)
        if not (shown.is_signed_by(entry.public_key) and growth.is_signed_by(entry.public_key, shown)):
            raise LedgerFault(
                FaultCode.SIGNATURE,
                f"the head of {shown.partner!r}, or its growth, is not signed by its key {entry.public_key.key_id}",
                remedy="Refuse the message; after a rotation the partner shows its key_rotate record beside the head",
            )
        _require_no_fork(shown.partner, entry)
        self._require_one_history(shown, entry)
        receipt = self._own(entry.receipt)
        if receipt is not None and (shown.head, shown.nonce) == (entry.head, receipt.nonce):
            return receipt
        self._require_growth(shown, entry, growth)
        receipt = countersign_head(shown.partner, shown.head, shown.nonce, self._key)
        self._keep(shown.partner, replace(entry, nonce=None, shown=shown, receipt=receipt))
        return receipt

    def explain_fork(self, partner: str, keep: Literal["first", "second"]) -> ForkProof:
        """End the block of a partner: an operator knows how the fork came about, and which history goes on.

        Args:
            partner: its name.
            keep: the head of the proof that the ledger must grow from now on.

        Returns:
            The proof, which is no longer in the book.

        Raises:
            LedgerFault: `KEY` if the partner is unknown, `FORK` if it has no open fork.
        """
        entry = self._entry(partner)
        proof = entry.fork
        if proof is None:
            raise LedgerFault(
                FaultCode.FORK, f"partner {partner!r} has no open fork", remedy="Look up the name in partners.json"
            )
        shown = proof.first if keep == "first" else proof.second
        receipt = countersign_head(partner, shown.head, shown.nonce, self._key)
        self._keep(partner, replace(entry, nonce=None, shown=shown, receipt=receipt, fork=None))
        return proof

    def head(self, partner: str) -> Head:
        """The last head of a partner; size 0 if none was shown.

        Raises:
            LedgerFault: `KEY` if the partner is unknown.
        """
        return self._entry(partner).head

    def keys(self, partner: str) -> tuple[PublicKey, ...]:
        """All keys of a partner, the one in force last.

        Raises:
            LedgerFault: `KEY` if the partner is unknown.
        """
        return self._entry(partner).keys

    def receipt(self, partner: str) -> Countersignature | None:
        """The last countersignature for a partner, by the server's key in force."""
        return self._own(self._entry(partner).receipt)

    def fork(self, partner: str) -> ForkProof | None:
        """The proof of a fork, if the partner showed one."""
        return self._entry(partner).fork

    def _own(self, receipt: Countersignature | None) -> Countersignature | None:
        """`receipt`, signed again if the server has rotated its own key since."""
        if receipt is None or receipt.is_signed_by(self._key.public):
            return receipt
        return countersign_head(receipt.partner, receipt.head, receipt.nonce, self._key)

    def _rotated(self, shown: SignedHead, rotations: Sequence[Rotation]) -> Entry:
        entry = self._entry(shown.partner)
        for rotation in follow(rotations, entry.public_key, shown, since=entry.head.size):
            key = PublicKey(rotation.record.text("new_key"))
            self._require_free(shown.partner, key)
            former = FormerKey(entry.public_key, rotation.record.line[:-1].decode())
            entry = replace(entry, public_key=key, former=(*entry.former, former))
        return entry

    def _require_free(self, partner: str, key: PublicKey) -> None:
        holders = sorted(name for name, entry in self._entries.items() if key in entry.keys)
        if holders:
            raise LedgerFault(
                FaultCode.KEY,
                f"the key {key.key_id} for {partner!r} is, or was, that of {holders[0]!r}",
                remedy="Every partner makes a new key of its own for every rotation",
            )

    def _require_one_history(self, shown: SignedHead, entry: Entry) -> None:
        if entry.shown is not None and shown.size == entry.head.size and shown.head != entry.head:
            self._keep_fork(entry, ForkProof(entry.shown, shown))

    def _require_growth(self, shown: SignedHead, entry: Entry, growth: SignedGrowth) -> None:
        if shown.nonce != entry.nonce:
            raise LedgerFault(
                FaultCode.NONCE,
                f"the head of {shown.partner!r} does not answer the last challenge",
                remedy="Drop the message: it is late or a replay; challenge again",
            )
        if shown.size < entry.head.size:
            raise LedgerFault(
                FaultCode.ROLLBACK,
                f"partner {shown.partner!r} shows {shown.size} records, it showed {entry.head.size} before",
                remedy="The partner restores its whole ledger; an older copy must not be continued",
            )
        if growth.holds(entry.head, shown):
            return
        proof = None if entry.shown is None else ForkProof(entry.shown, shown, growth)
        if proof is not None and proof.verifies(*entry.keys):
            self._keep_fork(entry, proof)
        raise LedgerFault(
            FaultCode.FORK,
            f"partner {shown.partner!r}: no proof that its {shown.size} records start with the {entry.head.size} known",
            remedy="Ask for the ledger itself; if the first records differ, another copy was continued",
        )

    def _keep_fork(self, entry: Entry, proof: ForkProof) -> None:
        forked = replace(entry, fork=proof)
        self._keep(proof.second.partner, forked)
        _require_no_fork(proof.second.partner, forked)

    def _entry(self, partner: str) -> Entry:
        if partner not in self._entries:
            raise LedgerFault(
                FaultCode.KEY, f"partner {partner!r} is not enrolled", remedy="Enrol it with its public key first"
            )
        return self._entries[partner]

    def _keep(self, partner: str, entry: Entry) -> None:
        self._lock.require_held()
        entries = {**self._entries, partner: entry}
        write_book(self.path, entries)
        self._entries = entries


def _require_no_fork(partner: str, entry: Entry) -> None:
    if entry.fork is not None:
        raise LedgerFault(
            FaultCode.FORK,
            f"partner {partner!r} {entry.fork.finding}",
            remedy="Stop its runs; show the proof to the partner and its auditor",
        )
