"""What a partner believes of its coordinator: nothing that the key named in its own ledger did not sign.

A request is answered if, in this order:
1. its signature covers the type and every field, by the server key in force in the ledger (`SIGNATURE`);
2. it is meant for this partner (`NONCE`);
3. its nonce was neither answered and countersigned before, nor served another round (`NONCE`);
4. the last head that the coordinator says it saw is one of this ledger: a longer one is a `ROLLBACK` of the ledger, a
   different one a `FORK`;
5. the countersignature of that head is by the same key (`SIGNATURE`); it is written into the ledger, once, and for a
   RECEIPT only if it covers more than countersignatures: nobody makes a ledger grow for nothing.

All of this happens before anything is charged. The answer shows the ledger's head, signed with the nonce, and the
rotations of the partner's own key that the coordinator has not seen. A ledger that names no server key belongs to a
site without a coordinator; then nothing is checked and no head is shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mmrec_model.canonical import JsonValue, canonical_json
from mmrec_model.errors import ProtocolError
from mmrec_model.privacy.bodies import RecordType
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.heads import NO_HEAD, Countersignature, Head, require_prefix, statement_from_json
from mmrec_model.privacy.ledger import Ledger
from mmrec_model.privacy.records import Record
from mmrec_model.protocol import REQUEST_DOMAIN, Kind, Request, request_statement

_Claim: TypeAlias = tuple[str, Head, Countersignature | None]
"""A nonce, the last head that the coordinator says it saw (its hash only where there is a receipt), and the receipt."""


@dataclass(frozen=True)
class Challenge:
    """What the coordinator wants to see: the head with this nonce, and the growth since `size` records."""

    nonce: str
    size: int


@dataclass(frozen=True)
class Shown:
    """The fields of a reply that show the ledger."""

    ledger_head: str
    head: str = ""
    growth: str = ""
    rotations: str = ""


def confirm(ledger: Ledger, kind: Kind, request: Request) -> Challenge | None:
    """Check a request and keep its receipt; None if the ledger names no coordinator.

    Raises:
        LedgerFault: with the code of the first check that fails.
        ProtocolError: what the coordinator signed does not follow the contract.
    """
    key = ledger.history.keys.get("server")
    if key is None:
        return None
    if not key.verifies(request.signature, request_statement(kind, request), domain=REQUEST_DOMAIN):
        raise LedgerFault(
            FaultCode.SIGNATURE,
            f"the request is not signed by the coordinator's key {key.key_id}",
            remedy="Refuse it; if the coordinator has a new key, rotate to it in the ledger first",
        )
    if kind is Kind.DESCRIBE:
        nonce, seen, receipt = _known(ledger, request)
    else:
        nonce, seen, receipt = _addressed(ledger, request)
    place = (request.run_id, request.round)
    answered = (RecordType.COUNTERSIGN, nonce) in ledger.history.once
    if answered or ledger.history.nonces.get(nonce, place) != place:
        raise LedgerFault(
            FaultCode.NONCE, "the request's nonce was answered before", remedy="Refuse the message: it is a replay"
        )
    require_prefix(seen, len(ledger.records), ledger.history.tree.root, whose="the coordinator's last head")
    known = receipt is None or (RecordType.COUNTERSIGN, receipt.nonce) in ledger.history.once
    if receipt is not None and not known and (kind is not Kind.RECEIPT or _covers_more(ledger, receipt.head)):
        ledger.countersigned(receipt)
    return Challenge(nonce, seen.size)


def show(ledger: Ledger, challenge: Challenge | None) -> Shown:
    """The head after everything that the answer cost."""
    if challenge is None:
        return Shown(ledger.head.hash)
    head = ledger.signed_head(challenge.nonce)
    growth = ledger.signed_growth(head, challenge.size)
    rotations: list[JsonValue] = [rotation.to_json() for rotation in ledger.rotations(challenge.size)]
    return Shown(head.hash, _text(head.to_json()), _text(growth.to_json()), _text(rotations) if rotations else "")


def _known(ledger: Ledger, request: Request) -> _Claim:
    named = _object(request.known)
    own = next((key_id for key_id in _own_keys(ledger.records) if key_id in named), None)
    if own is None:
        raise LedgerFault(
            FaultCode.NONCE,
            f"the coordinator has no challenge for the key {ledger.history.keys['partner'].key_id}",
            remedy="Have the public key enrolled; after a fork was shown, have it explained",
        )
    match named[own]:
        case [str(nonce), int(size), str(root)] if size >= 0:
            return nonce, Head(size, NO_HEAD.hash, root), None
    raise _malformed("known")


def _covers_more(ledger: Ledger, head: Head) -> bool:
    """Whether `head` covers a record that no countersignature in the ledger covers, other than countersignatures."""
    signed = [record.whole("size") for record in ledger.records if record.type == RecordType.COUNTERSIGN]
    since = ledger.records[max(signed, default=0) : head.size]
    return any(record.type != RecordType.COUNTERSIGN for record in since)


def _own_keys(records: Sequence[Record]) -> list[str]:
    """Ids of all keys of this partner, the one in force first: a coordinator may not know of the last rotations yet."""
    rotated = [record for record in records if record.type == RecordType.KEY_ROTATE]
    own = [record.text("new_key_id") for record in rotated if record.text("role") == "partner"]
    return [*reversed(own), records[0].text("key_id")]


def _addressed(ledger: Ledger, request: Request) -> _Claim:
    if request.partner != ledger.history.partner or not request.nonce:
        raise LedgerFault(
            FaultCode.NONCE,
            f"the request is for '{request.partner[:80]}', this is '{ledger.history.partner}'",
            remedy="Refuse the message: it was led astray",
        )
    if not request.receipt:
        return request.nonce, NO_HEAD, None
    receipt = statement_from_json(Countersignature, dict(_object(request.receipt)))
    return request.nonce, receipt.head, receipt


def _object(text: str) -> Mapping[str, JsonValue]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _malformed("known or receipt")
    return value


def _text(value: JsonValue) -> str:
    return canonical_json(value).decode()


def _malformed(name: str) -> ProtocolError:
    return ProtocolError(f"the request's {name} is not as the contract says", remedy="Upgrade the older side")
