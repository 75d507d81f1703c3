"""The partners' keys and ledgers, as the coordinator knows them: what it signs, and what it believes.

    coordinator/key.pem         the coordinator's own Ed25519 key, mode 0600, never leaves
    coordinator/partners.json   enrolled partners, agreed outside this system (`server.partners`)
    coordinator/heads.json      the last ledger head of each partner and its countersignature (`HeadBook`)
    coordinator/heads.lock      held while a coordinator works in this folder
    coordinator/forks/          one file per proof that a partner showed two histories

Every request is signed, and carries to each partner a fresh nonce and the countersignature of the head it showed last.
A reply counts only if its head is signed by the enrolled key, or the one that the partner's ledger rotated to, over
that nonce, and the ledger grew from the last head; the head is stored and countersigned before the reply is used. A
partner with an open fork is asked nothing; neither is a revoked one, and what is on its way from it is not used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from mmrec_model.canonical import JsonValue, canonical_json, sha256_hex
from mmrec_model.closing import Closing
from mmrec_model.errors import ConfigError
from mmrec_model.privacy.countersign import HeadBook
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.fork import ForkProof
from mmrec_model.privacy.heads import SignedGrowth, SignedHead, growth_from_json, statement_from_json
from mmrec_model.privacy.keys import PublicKey, SigningKey
from mmrec_model.privacy.rotation import Rotation, rotations_from_json
from mmrec_model.protocol import REQUEST_DOMAIN, Kind, Reply, Request, request_statement
from mmrec_model.storage import write_atomically
from server.admission import Reason, refuse
from server.partners import PARTNERS, Partner, RevocationList, read_list, write_list

KEY = "key.pem"
HEADS = "heads.json"
FORKS = "forks"
_REASONS = {
    FaultCode.NONCE: Reason.NONCE,
    FaultCode.ROLLBACK: Reason.ROLLBACK,
    FaultCode.FORK: Reason.FORK,
}
_MOST_NODES = 64
_MOST_TEXT = 1 << 13
_MOST_ROTATIONS = 1 << 16
ReadT = TypeVar("ReadT")


class Sites(Closing):
    """The enrolled partners of one coordinator; use it as a context, or `close` it.

    Args:
        folder: the coordinator's folder.
        key: the coordinator's key.
        partners: the enrolled partners by name.

    Raises:
        LedgerFault: `LOCKED` if another coordinator works in this folder, `HEAD` if the book of heads cannot be read,
            `KEY` if it knows a partner by another key.
    """

    def __init__(self, folder: Path, key: SigningKey, partners: Mapping[str, Partner]) -> None:
        self._folder = folder
        self._key = key
        self._partners = dict(partners)
        self._revocations = RevocationList(folder / PARTNERS)
        self._book = HeadBook(folder / HEADS, key)
        try:
            for name in sorted(self._partners):
                self._book.enrol(name, PublicKey(self._partners[name].key))
        except BaseException:
            self._book.close()
            raise

    @classmethod
    def open(cls, folder: Path) -> Sites:
        """Read a coordinator's folder.

        Raises:
            ConfigError: no key or no partners were written, or the list of partners cannot be read.
            LedgerFault: the key file is damaged or open to others, or see the class.
        """
        for name in (KEY, PARTNERS):
            if not (folder / name).is_file():
                raise ConfigError(
                    f"{folder / name} does not exist, so no partner can be known",
                    remedy="Prepare the workspace again: it writes the coordinator's key and the partners' public keys",
                )
        return cls(folder, SigningKey.load(folder / KEY), read_list(folder / PARTNERS))

    def close(self) -> None:
        """Let another process work in this folder."""
        self._book.close()

    def describe(self, request: Request) -> Request:
        """DESCRIBE for everybody, with a nonce and the last head for each enrolled partner, by its key id."""
        known = {}
        for name in sorted(self._partners):
            if self._book.fork(name) is None and self._revocations.of(name) is None:
                head, key = self._book.head(name), self._book.keys(name)[-1]
                known[key.key_id] = [self._book.challenge(name).nonce, head.size, head.root]
        return self._signed(Kind.DESCRIBE, replace(request, known=json.dumps(known, separators=(",", ":"))))

    def address(self, kind: Kind, request: Request, partner: str) -> Request:
        """`request` for one partner: with a fresh nonce and the countersignature of its last head, signed.

        Raises:
            AdmissionError: `fork` while a fork of this partner is open, `unknown_partner` if it is not enrolled,
                `revoked`.
        """
        self.require_standing(partner)
        try:
            nonce = self._book.challenge(partner).nonce
        except LedgerFault as fault:
            raise refuse(_REASONS.get(fault.code, Reason.BAD_SIGNATURE), fault.problem) from fault
        receipt = self._book.receipt(partner)
        text = "" if receipt is None else canonical_json(receipt.to_json()).decode()
        return self._signed(kind, replace(request, partner=partner, nonce=nonce, receipt=text))

    def admit(self, reply: Reply) -> None:
        """Check the ledger head of a reply, remember it and countersign it.

        Raises:
            AdmissionError: `unknown_partner`, `revoked`, `users_changed`, `bad_signature`, `nonce`, `rollback` or
                `fork`.
        """
        self.require_standing(reply.partner)
        enrolled = self._partners[reply.partner].users
        if enrolled is not None and reply.users != enrolled:
            raise refuse(Reason.USERS_CHANGED, f"states {reply.users} users, its enrolment says {enrolled}")
        shown, growth, rotations = _read_head(reply), _read_growth(reply), _read_rotations(reply)
        try:
            self._book.countersign(shown, growth, rotations)
        except LedgerFault as fault:
            self._keep_fork(reply.partner)
            raise refuse(_REASONS.get(fault.code, Reason.BAD_SIGNATURE), fault.problem) from fault

    def require_standing(self, partner: str) -> None:
        """Refuse a partner that is not enrolled, or that was revoked, also a moment ago.

        Raises:
            AdmissionError: `unknown_partner` or `revoked`.
            ConfigError: the list of partners was damaged since.
        """
        if partner not in self._partners:
            raise refuse(Reason.UNKNOWN_PARTNER, f"no key of a partner '{partner}' is enrolled")
        revocation = self._revocations.of(partner)
        if revocation is not None:
            raise refuse(Reason.REVOKED, f"'{partner}' was revoked at {revocation.at}: {revocation.reason}")

    def _signed(self, kind: Kind, request: Request) -> Request:
        return replace(request, signature=self._key.sign(request_statement(kind, request), domain=REQUEST_DOMAIN))

    def _keep_fork(self, partner: str) -> None:
        proof = self._book.fork(partner)
        if proof is None:
            return
        document: dict[str, JsonValue] = {
            "partner": partner,
            "public_keys": [key.hexadecimal for key in self._book.keys(partner)],
            "proof": proof.to_json(),
        }
        file = fork_file(self._folder, partner, proof)
        if not file.exists():
            write_atomically(file, canonical_json(document) + b"\n")


def fork_file(folder: Path, partner: str, proof: ForkProof) -> Path:
    """Where the proof of a fork is kept; a name may hold characters that a file name may not."""
    content = sha256_hex(canonical_json(proof.to_json()))
    return folder / FORKS / f"{sha256_hex(partner.encode())[:16]}-{proof.second.size}-{content[:16]}.json"


def coordinator_key(folder: Path) -> SigningKey:
    """The coordinator's key, made on first use.

    Raises:
        LedgerFault: the file cannot be written, or is damaged or open to others.
    """
    return SigningKey.load(folder / KEY) if (folder / KEY).exists() else SigningKey.create(folder / KEY)


def write_partners(folder: Path, keys: Mapping[str, str]) -> None:
    """Enrol partners: name -> public key, 64 hexadecimal digits; replaces the list."""
    write_list(folder / PARTNERS, {name: Partner(key=key) for name, key in keys.items()})


def read_partners(path: Path) -> dict[str, PublicKey]:
    """The enrolled partners.

    Raises:
        ConfigError: not as `server.partners` says, or two partners with one key.
    """
    return {name: PublicKey(partner.key) for name, partner in read_list(path).items()}


def _read_head(reply: Reply) -> SignedHead:
    shown = _read(reply.head, lambda value: statement_from_json(SignedHead, value), "head", most=_MOST_TEXT)
    if (shown.partner, shown.hash) != (reply.partner, reply.ledger_head):
        raise refuse(
            Reason.BAD_SIGNATURE,
            f"the head is of '{shown.partner}' and record {shown.hash[:12]}, not as the reply says",
        )
    return shown


def _read_growth(reply: Reply) -> SignedGrowth:
    growth = _read(reply.growth, growth_from_json, "growth", most=_MOST_TEXT)
    if len(growth.nodes) > _MOST_NODES:
        raise refuse(Reason.BAD_SIGNATURE, f"the proof of growth has {len(growth.nodes)} nodes, above {_MOST_NODES}")
    return growth


def _read_rotations(reply: Reply) -> tuple[Rotation, ...]:
    if not reply.rotations:
        return ()
    return _read(reply.rotations, rotations_from_json, "rotations", most=_MOST_ROTATIONS)


def _read(text: str, reader: Callable[[JsonValue], ReadT], name: str, *, most: int) -> ReadT:
    try:
        value = json.loads(text) if len(text) <= most else None
        return reader(value)
    except (ValueError, RecursionError, LedgerFault) as error:
        found = error.problem if isinstance(error, LedgerFault) else "it is no JSON"
        raise refuse(
            Reason.BAD_SIGNATURE, f"the reply's {name} cannot be read, or is above {most} characters: {found}"
        ) from error
