"""The format is fixed: the recipe below gives these bytes for ever, and every numbered check has a forged ledger."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmrec_model.canonical import canonical_json
from mmrec_model.privacy.bodies import RecordType
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.heads import countersign_head
from mmrec_model.privacy.history import BUDGET_DOMAIN
from mmrec_model.privacy.keys import SigningKey
from mmrec_model.privacy.ledger import Ledger, read_ledger
from mmrec_model.privacy.merkle import MerkleTree
from mmrec_model.privacy.records import DOMAIN, Record, read_line, record_hash

GOLDEN = Path(__file__).parents[1] / "golden" / "ledger"
BODIES: dict[str, dict[str, Any]] = json.loads((GOLDEN / "bodies.json").read_text())
PARTNER, SERVER, GOVERNANCE, NEXT, STRANGER = (
    SigningKey.from_seed(bytes(range(start, start + 32))) for start in (0, 32, 64, 96, 128)
)


def build_good(path: Path) -> None:
    """A ledger with all fourteen record types, a torn line that was recovered, and a new partner key."""
    keys = {"server_key": SERVER.public.hexadecimal, "governance_key": GOVERNANCE.public.hexadecimal}
    with Ledger.create(path, PARTNER, {**BODIES["open"], **keys}) as ledger:
        for name in ("code", "data_prep", "plan"):
            ledger.append(name, BODIES[name])
        ledger.countersigned(countersign_head("clinic-a", ledger.head, "nonce-0001", SERVER))
        reserve = ledger.append("reserve", BODIES["reserve"])
        ledger.append("commit", {**BODIES["commit"], "reserve": reserve.hash})
        ledger.append("release", BODIES["release"])
        ledger.append("reserve", {**BODIES["reserve"], "attempt": 1})
    with path.open("ab") as stream:
        stream.write(b'{"body":{"reserve":"')
    with Ledger.open(path, PARTNER) as ledger:
        ledger.rotate_key(NEXT)
        audit = ledger.append("audit_plan", BODIES["audit_plan"])
        ledger.append("audit_result", {**BODIES["audit_result"], "audit_plan": audit.hash})
        signature = GOVERNANCE.sign(ledger.history.budget_statement(5.0, None), domain=BUDGET_DOMAIN)
        ledger.append("budget_change", {**BODIES["budget_change"], "governance_signature": signature})
        ledger.append("close", BODIES["close"])
        ledger.append("close", {"run_id": None, "reason": "withdrawn"})


def signed_again(records: list[Record], key: SigningKey = PARTNER) -> list[Record]:
    """The records as a chain whose places, hashes and signatures fit again: what the holder of `key` can forge."""
    chain: list[Record] = []
    for seq, old in enumerate(records):
        chain.append(signed(changed(old, seq=seq, prev=chain[-1].hash if chain else "0" * 64), key))
    return chain


def signed(record: Record, key: SigningKey = PARTNER) -> Record:
    """The record with the hash and the signature of what it says."""
    digest = record_hash(record.content)
    return changed(record, hash=digest, sig=key.sign(bytes.fromhex(digest), domain=DOMAIN))


def lines_of(records: list[Record]) -> bytes:
    return b"".join(record.line for record in records)


def changed(record: Record, **fields: Any) -> Record:
    return Record(**{**{name: getattr(record, name) for name in Record.__dataclass_fields__}, **fields})


def with_body(records: list[Record], seq: int, **fields: Any) -> list[Record]:
    return [changed(item, body={**item.body, **fields}) if item.seq == seq else item for item in records]


def first_keys(records: list[Record]) -> list[Record]:
    keys = {"key_id": STRANGER.public.key_id, "public_key": STRANGER.public.hexadecimal}
    return with_body(records, 0, **keys)


FORGERIES: dict[str, tuple[FaultCode, Callable[[list[Record]], bytes]]] = {
    "1-space-in-a-line": (FaultCode.FORM, lambda r: lines_of(r).replace(b'"seq":3,', b'"seq": 3,')),
    "1-number-as-json-float": (FaultCode.FORM, lambda r: lines_of(r).replace(b'"delta":"1e-05"', b'"delta":1e-05', 1)),
    "1-field-twice": (FaultCode.FORM, lambda r: lines_of(r).replace(b'"seq":3,', b'"seq":3,"seq":3,')),
    "1-field-beside-the-seven": (FaultCode.FORM, lambda r: lines_of(r).replace(b',"v":1}', b',"v":1,"w":1}', 1)),
    "2-newer-version": (FaultCode.VERSION, lambda r: lines_of(r).replace(b',"v":1}', b',"v":2}')),
    "3-dropped-middle-record": (FaultCode.PLACE, lambda r: lines_of(r[:3] + r[4:])),
    "3-swapped-records": (FaultCode.PLACE, lambda r: lines_of([r[0], r[2], r[1], *r[3:]])),
    "3-repeated-record": (FaultCode.PLACE, lambda r: lines_of([*r[:4], r[3], *r[4:]])),
    "3-record-of-another-chain": (FaultCode.PLACE, lambda r: lines_of([*r[:3], signed(changed(r[3], prev="f" * 64))])),
    "4-edited-noise": (FaultCode.HASH, lambda r: lines_of(with_body(r, 3, noise_multiplier="2.0"))),
    "5-signed-by-another-key": (FaultCode.SIGNATURE, lambda r: lines_of(r[:5] + signed_again(r[:6], STRANGER)[5:])),
    "5-upper-case-signature": (FaultCode.SIGNATURE, lambda r: lines_of([changed(r[0], sig=r[0].sig.upper()), *r[1:]])),
    "6-unknown-type": (FaultCode.SCHEMA, lambda r: lines_of(signed_again([r[0], changed(r[1], type="refund")]))),
    "6-unknown-field": (FaultCode.SCHEMA, lambda r: lines_of(signed_again(with_body(r[:2], 1, remark="fine")))),
    "6-rate-above-one": (FaultCode.SCHEMA, lambda r: lines_of(signed_again(with_body(r[:4], 3, sample_rate="1.5")))),
    "6-batch-size": (FaultCode.LEAK, lambda r: lines_of(signed_again(with_body(r[:2], 1, batch_size=253)))),
    "7-second-open": (FaultCode.STATE, lambda r: lines_of(signed_again([r[0], r[0]]))),
    "7-no-open": (FaultCode.STATE, lambda r: lines_of(signed_again(r[1:3]))),
    "7-reserve-without-plan": (FaultCode.STATE, lambda r: lines_of(signed_again([r[0], r[5]]))),
    "7-attempt-twice": (FaultCode.STATE, lambda r: lines_of(signed_again([r[0], r[3], r[5], r[5]]))),
    "7-commit-without-reserve": (FaultCode.STATE, lambda r: lines_of(signed_again([r[0], r[3], r[6]]))),
    "7-nonce-of-another-round": (
        FaultCode.NONCE,
        lambda r: lines_of(signed_again(with_body([r[0], r[3], r[5], changed(r[5], seq=99)], 99, round=2))),
    ),
    "7-countersignature-of-another-head": (
        FaultCode.FORK,
        lambda r: lines_of(signed_again(with_body(r[:5], 4, size=3))),
    ),
    "7-countersignature-by-a-stranger": (
        FaultCode.SIGNATURE,
        lambda r: lines_of(signed_again(with_body(r[:5], 4, signature="0" * 128))),
    ),
    "7-rotation-without-the-new-key": (
        FaultCode.SIGNATURE,
        lambda r: lines_of(r[:10] + signed_again(with_body(r[:11], 10, new_signature="0" * 128))[10:]),
    ),
    "7-rotation-moved": (FaultCode.SIGNATURE, lambda r: lines_of(signed_again([*r[:9], r[10]]))),
    "7-budget-change-twice": (FaultCode.SIGNATURE, lambda r: lines_of(signed_again([r[0], r[13], r[13]]))),
    "7-after-close": (FaultCode.CLOSED, lambda r: lines_of([*r, signed_again([*r, r[1]], NEXT)[-1]])),
    "8-empty": (FaultCode.EMPTY, lambda r: b""),
    "8-whole-chain-by-another-key": (FaultCode.KEY, lambda r: lines_of(signed_again(first_keys(r[:4]), STRANGER))),
    "9-torn": (FaultCode.TORN, lambda r: lines_of(r[:5])[:-40]),
    "9-newline-missing": (FaultCode.TORN, lambda r: lines_of(r[:5])[:-1]),
}


def test_the_recipe_gives_the_golden_ledger_byte_for_byte(tmp_path: Path) -> None:
    build_good(tmp_path / "good.jsonl")
    assert (tmp_path / "good.jsonl").read_bytes() == (GOLDEN / "good.jsonl").read_bytes()


@pytest.mark.parametrize("key", [PARTNER.public, NEXT.public], ids=["first key", "key in force"])
def test_the_golden_ledger_verifies_with_the_first_and_with_the_last_key(key: Any) -> None:
    records = read_ledger(GOLDEN / "good.jsonl", key)
    assert {record.type for record in records} == set(RecordType)
    assert lines_of(list(records)) == (GOLDEN / "good.jsonl").read_bytes()


def test_every_forgery_has_a_golden_file() -> None:
    assert {path.stem for path in (GOLDEN / "forged").iterdir()} == set(FORGERIES)


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_ledger_is_refused_with_the_code_of_its_check(name: str) -> None:
    code, forge = FORGERIES[name]
    path = GOLDEN / "forged" / f"{name}.jsonl"
    good = [read_line(line, seq) for seq, line in enumerate((GOLDEN / "good.jsonl").read_bytes().splitlines())]
    assert path.read_bytes() == forge(good)
    with pytest.raises(LedgerFault) as caught:
        read_ledger(path, PARTNER.public)
    assert caught.value.code is code


def test_the_published_vector_of_hash_signature_and_root_holds() -> None:
    vector = json.loads((GOLDEN / "vector.json").read_text())
    key = SigningKey.from_seed(bytes.fromhex(vector["seed"]))
    assert key.public.hexadecimal == vector["public_key"]
    for item in vector["records"]:
        assert canonical_json(item["content"]).decode() == item["canonical"]
        assert record_hash(item["content"]) == item["hash"]
        assert key.sign(bytes.fromhex(item["hash"]), domain=DOMAIN) == item["sig"]
    assert vector["records"][1]["content"]["prev"] == vector["records"][0]["hash"]
    assert MerkleTree([item["hash"] for item in vector["records"]]).root() == vector["root"]
