from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmrec_model.privacy.countersign import Challenge, HeadBook
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.fork import ForkProof
from mmrec_model.privacy.heads import (
    NO_HEAD,
    Countersignature,
    Head,
    SignedGrowth,
    SignedHead,
    countersign_head,
    growth_from_json,
    sign_growth,
    sign_head,
    statement_from_json,
)
from mmrec_model.privacy.keys import SigningKey
from mmrec_model.privacy.ledger import Ledger
from mmrec_model.privacy.merkle import Proof
from mmrec_model.privacy.records import sign_record
from mmrec_model.privacy.rotation import Rotation, follow, rotations_from_json

BODIES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "ledger" / "bodies.json").read_text()
)
KEY, SERVER, NEXT, THIRD = (SigningKey.from_seed(bytes([number]) * 32) for number in range(4))
STEP = {"type": "sampled_gaussian", "sample_rate": 0.05, "noise_multiplier": 1.1, "steps": 20}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = {**BODIES["open"], "server_key": SERVER.public.hexadecimal}
    with Ledger.create(tmp_path / "a" / "ledger.jsonl", KEY, opened) as made:
        made.append("plan", BODIES["plan"])
        yield made


@pytest.fixture
def book(tmp_path: Path) -> Iterator[HeadBook]:
    with HeadBook(tmp_path / "heads.json", SERVER) as made:
        made.enrol("clinic-a", KEY.public)
        yield made


def spend(ledger: Ledger, round_number: int = 1) -> None:
    ledger.reserve(run_id="run-1", round_number=round_number, kind="train", mechanism=STEP, sensitivity=1.0)


def show(book: HeadBook, ledger: Ledger, challenge: Challenge | None = None) -> Countersignature:
    asked = challenge or book.challenge("clinic-a")
    head = ledger.signed_head(asked.nonce)
    return book.countersign(head, ledger.signed_growth(head, asked.size), ledger.rotations(asked.size))


def grown(head: SignedHead, since: int = 0, nodes: Proof = (), key: SigningKey = KEY) -> SignedGrowth:
    return sign_growth(head, since, nodes, key)


def reopened(book: HeadBook, key: SigningKey = SERVER) -> HeadBook:
    """The book after a restart of its server."""
    book.close()
    return HeadBook(book.path, key)


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
    again = reopened(book)
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
        assert refusal(book.countersign, shown, grown(shown)) is FaultCode.ROLLBACK
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
    proof = reopened(book).fork("clinic-a")
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
    shown = sign_head("clinic-a", forged, nonce, KEY)
    assert refusal(book.countersign, shown, grown(shown)) is FaultCode.FORK
    spend(ledger)
    assert refusal(lambda: show(book, ledger, Challenge("clinic-a", nonce, 2))) is FaultCode.FORK
    assert refusal(lambda: book.challenge("clinic-a")) is FaultCode.FORK


@pytest.mark.parametrize("keep", ["first", "second"])
def test_an_operator_ends_the_block_by_naming_the_history_that_goes_on(
    keep: Any, book: HeadBook, ledger: Ledger, tmp_path: Path
) -> None:
    assert refusal(book.explain_fork, "clinic-a", "first") is FaultCode.FORK
    challenge = book.challenge("clinic-a")
    with copied(ledger, tmp_path / "clone") as clone:
        histories = {"first": ledger, "second": clone}
        for number, history in enumerate(histories.values()):
            spend(history, number)
        show(book, ledger, challenge)
        assert refusal(lambda: show(book, clone, challenge)) is FaultCode.FORK
        assert book.explain_fork("clinic-a", keep).verifies(KEY.public)
        kept = histories.pop(keep)
        (other,) = histories.values()
        receipt = book.receipt("clinic-a")
        assert receipt is not None
        assert receipt.head == book.head("clinic-a") == kept.head
        spend(kept, 9)
        show(book, kept)
        spend(other, 9)
        spend(other, 10)
        assert refusal(lambda: show(book, other)) is FaultCode.FORK


def test_a_longer_ledger_with_another_beginning_is_refused(book: HeadBook, ledger: Ledger, tmp_path: Path) -> None:
    with copied(ledger, tmp_path / "clone") as clone:
        spend(ledger)
        show(book, ledger)
        for round_number in (2, 3, 4):
            spend(clone, round_number)
        assert refusal(lambda: show(book, clone)) is FaultCode.FORK
    assert book.head("clinic-a") == ledger.head
    assert refusal(lambda: book.challenge("clinic-a")) is FaultCode.FORK
    proof = reopened(book).fork("clinic-a")
    assert proof is not None
    assert proof.growth is not None
    assert (proof.first.size, proof.second.size) == (3, 5)
    assert proof.verifies(KEY.public)
    assert ForkProof.from_json(json.loads(json.dumps(proof.to_json()))) == proof


@pytest.mark.parametrize("proof", [(), ("0" * 64,), ("x",), ("0" * 64,) * 70])
def test_a_growth_that_was_signed_and_does_not_hold_blocks_and_convicts(
    book: HeadBook, ledger: Ledger, proof: tuple[str, ...]
) -> None:
    show(book, ledger)
    spend(ledger)
    shown = ledger.signed_head(book.challenge("clinic-a").nonce)
    assert refusal(book.countersign, shown, grown(shown, 2, proof)) is FaultCode.FORK
    kept = book.fork("clinic-a")
    assert kept is not None
    assert kept.verifies(KEY.public)


def test_a_growth_that_nobody_signed_or_that_starts_elsewhere_is_refused_and_blocks_nobody(
    book: HeadBook, ledger: Ledger
) -> None:
    show(book, ledger)
    spend(ledger)
    challenge = book.challenge("clinic-a")
    shown, before = ledger.signed_head(challenge.nonce), sign_head("clinic-a", ledger.head, "another-nonce", KEY)
    honest = ledger.signed_growth(shown, challenge.size)
    for forged in (replace(honest, nodes=("0" * 64,)), replace(honest, since=1), grown(shown, 2, (), NEXT)):
        assert refusal(book.countersign, shown, forged) is FaultCode.SIGNATURE
    assert refusal(book.countersign, shown, ledger.signed_growth(before, 2)) is FaultCode.SIGNATURE
    assert refusal(book.countersign, shown, ledger.signed_growth(shown, 1)) is FaultCode.FORK
    assert book.fork("clinic-a") is None
    assert show(book, ledger, challenge).head == ledger.head


def test_no_proof_of_a_fork_can_be_made_from_what_an_honest_ledger_signs(book: HeadBook, ledger: Ledger) -> None:
    heads = []
    for round_number in range(1, 4):
        spend(ledger, round_number)
        nonce = f"nonce-000{round_number}"
        heads.append(ledger.signed_head(nonce))
        for since in range(ledger.head.size + 1):
            growth = ledger.signed_growth(heads[-1], since)
            assert growth_from_json(json.loads(json.dumps(growth.to_json()))) == growth
            for first in heads:
                for proof in (ForkProof(first, heads[-1], growth), ForkProof(first, heads[-1])):
                    assert not proof.verifies(KEY.public)


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
        assert refusal(book.countersign, forged, grown(forged)) is FaultCode.SIGNATURE
    assert book.countersign(shown, grown(shown)).head == ledger.head


def test_only_enrolled_partners_exist_and_a_key_changes_by_rotation_alone(book: HeadBook, ledger: Ledger) -> None:
    assert refusal(lambda: book.challenge("clinic-b")) is FaultCode.KEY
    book.enrol("clinic-a", KEY.public)
    assert refusal(lambda: book.enrol("clinic-a", NEXT.public)) is FaultCode.KEY


def test_the_book_follows_a_rotation_that_is_shown_beside_the_head_and_believes_the_new_key_alone(
    book: HeadBook, ledger: Ledger
) -> None:
    show(book, ledger)
    ledger.rotate_key(NEXT)
    spend(ledger)
    challenge = book.challenge("clinic-a")
    head = ledger.signed_head(challenge.nonce)
    growth = ledger.signed_growth(head, challenge.size)
    assert refusal(book.countersign, head, growth) is FaultCode.SIGNATURE
    assert book.keys("clinic-a") == (KEY.public,)
    assert show(book, ledger, challenge).head == ledger.head
    assert book.keys("clinic-a") == (KEY.public, NEXT.public)
    spend(ledger, 2)
    late = book.challenge("clinic-a")
    old = sign_head("clinic-a", ledger.head, late.nonce, KEY)
    proof = ledger.consistency_proof(late.size)
    assert refusal(book.countersign, old, grown(old, late.size, proof)) is FaultCode.SIGNATURE
    again = reopened(book)
    assert show(again, ledger).size == 5
    assert again.keys("clinic-a") == (KEY.public, NEXT.public)


def test_a_book_that_missed_two_rotations_follows_both_and_enrolment_with_a_former_key_does_nothing(
    book: HeadBook, ledger: Ledger
) -> None:
    ledger.rotate_key(NEXT)
    ledger.rotate_key(THIRD)
    show(book, ledger)
    assert book.keys("clinic-a") == (KEY.public, NEXT.public, THIRD.public)
    for key in (KEY, NEXT, THIRD):
        book.enrol("clinic-a", key.public)
    assert book.keys("clinic-a")[-1] == THIRD.public


def rotated(ledger: Ledger, size: int = 0, **changes: Any) -> tuple[Rotation, ...]:
    (rotation,) = ledger.rotations(size)
    return (replace(rotation, **changes),)


def test_a_rotation_that_is_not_what_both_keys_signed_in_this_very_ledger_is_not_followed(
    book: HeadBook, ledger: Ledger, tmp_path: Path
) -> None:
    with copied(ledger, tmp_path / "clone") as clone:
        spend(clone, 7)
        clone.rotate_key(NEXT)
        elsewhere = clone.rotations(0)
    show(book, ledger)
    other = ledger.records[-1]
    record = ledger.rotate_key(NEXT)
    spend(ledger)
    shown = ledger.signed_head("nonce-0001")
    body = {**record.body, "reason": "enrolled"}
    forged = sign_record(record.seq, record.prev, "key_rotate", {**record.body, "new_signature": "0" * 128}, KEY)
    served = {**record.body, "role": "server"}
    for rotations in (
        elsewhere,
        rotated(ledger, record=other),
        rotated(ledger, record=replace(record, sig="0" * 128)),
        rotated(ledger, record=replace(record, body=body)),
        rotated(ledger, record=sign_record(record.seq, record.prev, "key_rotate", served, KEY)),
        rotated(ledger, record=forged),
        rotated(ledger, genesis="0" * 64),
        rotated(ledger, path=()),
        rotated(ledger, path=("0" * 64,)),
    ):
        with pytest.raises(LedgerFault) as caught:
            follow(rotations, KEY.public, shown, since=2)
        assert caught.value.code is FaultCode.SIGNATURE
    with pytest.raises(LedgerFault):
        follow(ledger.rotations(0), KEY.public, shown, since=record.seq + 1)
    assert follow(ledger.rotations(0), KEY.public, shown, since=record.seq) == ledger.rotations(0)


def test_a_key_that_is_called_compromised_is_replaced_by_the_operators_hand_alone(
    book: HeadBook, ledger: Ledger
) -> None:
    show(book, ledger)
    ledger.rotate_key(NEXT, reason="compromised")
    assert refusal(lambda: show(book, ledger)) is FaultCode.KEY
    assert refusal(book.replace_key, "clinic-a", KEY.public) is FaultCode.KEY
    assert refusal(book.replace_key, "clinic-b", NEXT.public) is FaultCode.KEY
    book.replace_key("clinic-a", NEXT.public)
    assert show(book, ledger).head == ledger.head
    ledger.rotate_key(THIRD)
    show(book, ledger)
    assert book.keys("clinic-a") == (KEY.public, NEXT.public, THIRD.public)


def test_a_partner_cannot_rotate_to_a_key_that_another_has_or_had(book: HeadBook, ledger: Ledger) -> None:
    book.enrol("clinic-b", NEXT.public)
    book.replace_key("clinic-b", THIRD.public)
    ledger.rotate_key(NEXT)
    assert refusal(lambda: show(book, ledger)) is FaultCode.KEY
    assert refusal(book.enrol, "clinic-c", NEXT.public) is FaultCode.KEY


def test_rotations_read_back_strictly(ledger: Ledger) -> None:
    ledger.rotate_key(NEXT)
    rotations = ledger.rotations(0)
    stored = json.loads(json.dumps([rotation.to_json() for rotation in rotations]))
    assert rotations_from_json(stored) == rotations
    cases: list[Any] = [None, {}, [1], [{}], [{**stored[0], "more": 1}], [{**stored[0], "record": "{}"}]]
    cases += [[{**stored[0], "record": stored[0]["record"] + " "}], [{**stored[0], "path": ["x"]}]]
    for broken in cases:
        assert refusal(rotations_from_json, broken) in {FaultCode.SCHEMA, FaultCode.FORM}


def test_after_its_own_rotation_the_server_signs_what_it_saw_again_with_the_new_key(
    book: HeadBook, ledger: Ledger
) -> None:
    receipt = show(book, ledger)
    again = reopened(book, THIRD).receipt("clinic-a")
    assert again is not None
    assert (again.head, again.nonce) == (receipt.head, receipt.nonce)
    assert again.is_signed_by(THIRD.public)


def test_two_servers_on_one_book_are_refused_and_a_closed_book_writes_nothing(book: HeadBook) -> None:
    assert refusal(HeadBook, book.path, SERVER) is FaultCode.LOCKED
    book.close()
    with HeadBook(book.path, SERVER) as again:
        again.challenge("clinic-a")
    assert refusal(book.challenge, "clinic-a") is FaultCode.BROKEN


def test_a_book_of_version_1_is_read(book: HeadBook, ledger: Ledger, tmp_path: Path) -> None:
    show(book, ledger)
    document = json.loads(book.path.read_bytes())
    entry = document["partners"]["clinic-a"]
    del entry["former"]
    first = entry["shown"]
    second = sign_head("clinic-a", Head(2, "1" * 64, "2" * 64), "nonce-0001", KEY).to_json()
    old = {"v": 1, "partners": {"clinic-a": {**entry, "fork": {"first": first, "second": second}}}}
    (tmp_path / "old.json").write_text(json.dumps(old))
    with HeadBook(tmp_path / "old.json", SERVER) as again:
        proof = again.fork("clinic-a")
        assert again.head("clinic-a") == ledger.head
        assert proof is not None
        assert proof.verifies(KEY.public)


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
