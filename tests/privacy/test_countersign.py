from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmrec_model.privacy.countersign import Challenge, ForkProof, HeadBook
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.heads import (
    NO_HEAD,
    Countersignature,
    Head,
    SignedHead,
    countersign_head,
    sign_head,
    statement_from_json,
)
from mmrec_model.privacy.keys import SigningKey
from mmrec_model.privacy.ledger import Ledger

BODIES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "ledger" / "bodies.json").read_text()
)
KEY, SERVER, NEXT = (SigningKey.from_seed(bytes([number]) * 32) for number in range(3))
STEP = {"type": "sampled_gaussian", "sample_rate": 0.05, "noise_multiplier": 1.1, "steps": 20}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = {**BODIES["open"], "server_key": SERVER.public.hexadecimal}
    with Ledger.create(tmp_path / "a" / "ledger.jsonl", KEY, opened) as made:
        made.append("plan", BODIES["plan"])
        yield made


@pytest.fixture
def book(tmp_path: Path) -> HeadBook:
    made = HeadBook(tmp_path / "heads.json", SERVER)
    made.enrol("clinic-a", KEY.public)
    return made


def spend(ledger: Ledger, round_number: int = 1) -> None:
    ledger.reserve(run_id="run-1", round_number=round_number, kind="train", mechanism=STEP, sensitivity=1.0)


def show(book: HeadBook, ledger: Ledger, challenge: Challenge | None = None) -> Countersignature:
    asked = challenge or book.challenge("clinic-a")
    return book.countersign(ledger.signed_head(asked.nonce), ledger.consistency_proof(asked.size))


def copied(ledger: Ledger, folder: Path) -> Ledger:
    """The same ledger on another machine."""
    folder.mkdir()
    (folder / "ledger.jsonl").write_bytes(b"".join(record.line for record in ledger.records))
    return Ledger.open(folder / "ledger.jsonl", KEY, accept_missing_head=True)


def refusal(call: Callable[..., object], *arguments: Any) -> FaultCode:
    with pytest.raises(LedgerFault) as caught:
        call(*arguments)
    return caught.value.code


def test_a_ledger_that_grows_is_countersigned_round_after_round(book: HeadBook, ledger: Ledger) -> None:
    assert book.head("clinic-a") == NO_HEAD
    for round_number in range(1, 6):
        spend(ledger, round_number)
        head = ledger.head
        receipt = show(book, ledger)
        assert receipt.is_signed_by(SERVER.public)
        assert receipt.head == head == book.head("clinic-a")
        ledger.countersigned(receipt)
    assert ledger.countersignatures == (book.receipt("clinic-a"),)


def test_the_book_remembers_after_a_restart(book: HeadBook, ledger: Ledger) -> None:
    receipt = show(book, ledger)
    challenge = book.challenge("clinic-a")
    again = HeadBook(book.path, SERVER)
    assert (again.partners, again.head("clinic-a"), again.receipt("clinic-a")) == (("clinic-a",), ledger.head, receipt)
    spend(ledger)
    assert show(again, ledger, challenge).size == 3


def test_an_answer_that_got_lost_is_given_again_and_changes_nothing(book: HeadBook, ledger: Ledger) -> None:
    challenge = book.challenge("clinic-a")
    receipt = show(book, ledger, challenge)
    before = book.path.read_bytes()
    assert show(book, ledger, challenge) == receipt
    assert book.path.read_bytes() == before


def test_a_nonce_is_answered_once_and_only_the_last_one(book: HeadBook, ledger: Ledger) -> None:
    old = book.challenge("clinic-a")
    new = book.challenge("clinic-a")
    assert refusal(lambda: show(book, ledger, old)) is FaultCode.NONCE
    show(book, ledger, new)
    spend(ledger)
    replay = Challenge("clinic-a", new.nonce, ledger.head.size - 1)
    assert refusal(lambda: show(book, ledger, replay)) is FaultCode.NONCE
    assert refusal(lambda: show(book, ledger, replace(replay, nonce="invented-nonce"))) is FaultCode.NONCE


def test_an_older_ledger_is_a_rollback(book: HeadBook, ledger: Ledger, tmp_path: Path) -> None:
    with copied(ledger, tmp_path / "backup") as backup:
        spend(ledger)
        show(book, ledger)
        shown = backup.signed_head(book.challenge("clinic-a").nonce)
        assert refusal(lambda: book.countersign(shown)) is FaultCode.ROLLBACK
    spend(ledger, 2)
    show(book, ledger)


def test_a_clone_of_the_same_size_is_a_fork_with_a_proof_that_convinces_others(
    book: HeadBook, ledger: Ledger, tmp_path: Path
) -> None:
    challenge = book.challenge("clinic-a")
    with copied(ledger, tmp_path / "clone") as clone:
        spend(ledger, 1)
        spend(clone, 2)
        show(book, ledger, challenge)
        assert refusal(lambda: show(book, clone, challenge)) is FaultCode.FORK
    proof = HeadBook(book.path, SERVER).fork("clinic-a")
    assert proof is not None
    assert proof.verifies(KEY.public)
    assert ForkProof.from_json(json.loads(json.dumps(proof.to_json()))) == proof
    assert not proof.verifies(NEXT.public)
    assert not replace(proof, second=proof.first).verifies(KEY.public)
    assert not replace(proof, second=replace(proof.second, size=9)).verifies(KEY.public)


def test_while_a_fork_is_open_nothing_is_countersigned(book: HeadBook, ledger: Ledger) -> None:
    show(book, ledger)
    forged = Head(ledger.head.size, ledger.head.hash, "0" * 64)
    nonce = book.challenge("clinic-a").nonce
    assert refusal(lambda: book.countersign(sign_head("clinic-a", forged, nonce, KEY))) is FaultCode.FORK
    spend(ledger)
    assert refusal(lambda: book.countersign(ledger.signed_head(nonce), ())) is FaultCode.FORK
    assert refusal(lambda: book.challenge("clinic-a")) is FaultCode.FORK


def test_a_longer_ledger_with_another_beginning_is_refused(book: HeadBook, ledger: Ledger, tmp_path: Path) -> None:
    with copied(ledger, tmp_path / "clone") as clone:
        spend(ledger)
        show(book, ledger)
        for round_number in (2, 3, 4):
            spend(clone, round_number)
        assert refusal(lambda: show(book, clone)) is FaultCode.FORK
    assert book.head("clinic-a") == ledger.head


@pytest.mark.parametrize("proof", [(), ("0" * 64,), ("x",), ("0" * 64,) * 70])
def test_growth_without_a_valid_proof_is_refused(book: HeadBook, ledger: Ledger, proof: tuple[str, ...]) -> None:
    show(book, ledger)
    spend(ledger)
    shown = ledger.signed_head(book.challenge("clinic-a").nonce)
    assert refusal(lambda: book.countersign(shown, proof)) is FaultCode.FORK
    assert book.fork("clinic-a") is None


def test_a_head_by_another_key_or_changed_on_the_way_is_refused(book: HeadBook, ledger: Ledger) -> None:
    nonce = book.challenge("clinic-a").nonce
    shown = ledger.signed_head(nonce)
    for forged in (
        sign_head("clinic-a", ledger.head, nonce, NEXT),
        replace(shown, size=9),
        replace(shown, nonce="another-nonce"),
        replace(shown, key_id=NEXT.public.key_id),
        SignedHead(**vars(countersign_head("clinic-a", ledger.head, nonce, KEY))),
    ):
        assert refusal(book.countersign, forged) is FaultCode.SIGNATURE
    assert book.countersign(shown).head == ledger.head


def test_only_enrolled_partners_exist_and_a_key_changes_by_rotation_alone(book: HeadBook, ledger: Ledger) -> None:
    assert refusal(lambda: book.challenge("clinic-b")) is FaultCode.KEY
    book.enrol("clinic-a", KEY.public)
    assert refusal(lambda: book.enrol("clinic-a", NEXT.public)) is FaultCode.KEY


def test_the_book_follows_a_rotation_that_the_old_key_signed(book: HeadBook, ledger: Ledger) -> None:
    show(book, ledger)
    other = ledger.records[-1]
    rotation = ledger.rotate_key(NEXT)
    assert refusal(lambda: show(book, ledger)) is FaultCode.SIGNATURE
    for forged in (other, replace(rotation, sig="0" * 128), replace(rotation, body={**rotation.body, "reason": "x"})):
        assert refusal(book.rotate, "clinic-a", forged) is FaultCode.SIGNATURE
    book.rotate("clinic-a", rotation)
    assert show(book, ledger).head == ledger.head
    assert refusal(lambda: book.rotate("clinic-a", rotation)) is FaultCode.SIGNATURE


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"[" * 10**5, b'{"partners":{"a":{}},"v":1}', b'{"partners":[],"v":1}', b"\xff"]
)
def test_a_damaged_book_is_refused_not_started_again(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "heads.json"
    path.write_bytes(content)
    assert refusal(lambda: HeadBook(path, SERVER)) is FaultCode.HEAD
    assert path.read_bytes() == content


def test_statements_read_back_strictly() -> None:
    receipt = countersign_head("clinic-a", NO_HEAD, "nonce-0001", SERVER)
    assert statement_from_json(Countersignature, receipt.to_json()) == receipt
    cases: list[Any] = [{}, [], None, receipt.to_json() | {"size": -1}, receipt.to_json() | {"more": 1}]
    for broken in cases:
        assert refusal(statement_from_json, Countersignature, broken) is FaultCode.SCHEMA
