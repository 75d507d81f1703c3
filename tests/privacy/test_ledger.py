from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from mmrec_model.errors import BudgetExhausted, LedgerError
from mmrec_model.privacy.chain import read_chain
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.heads import NO_HEAD, Head, countersign_head
from mmrec_model.privacy.history import BUDGET_DOMAIN, History
from mmrec_model.privacy.keys import SigningKey
from mmrec_model.privacy.ledger import Ledger, read_ledger
from mmrec_model.privacy.merkle import verify_consistency
from mmrec_model.privacy.records import NO_RECORD, Record, sign_record
from mmrec_model.privacy.rules import check

BODIES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "ledger" / "bodies.json").read_text()
)
KEY, SERVER, GOVERNANCE, NEXT = (SigningKey.from_seed(bytes([number]) * 32) for number in range(4))
OPEN = BODIES["open"] | {
    "server_key": SERVER.public.hexadecimal,
    "governance_key": GOVERNANCE.public.hexadecimal,
}
STEP = {"type": "sampled_gaussian", "sample_rate": 0.05, "noise_multiplier": 1.1, "steps": 20}
METRIC = {"type": "gaussian", "noise_multiplier": 20.0, "count": 1}
NOTHING = {"type": "non_private"}
DIGEST = "6" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "site" / "ledger.jsonl"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger.create(path, KEY, OPEN) as made:
        made.append("plan", BODIES["plan"])
        yield made


def reserve(ledger: Ledger, round_number: int = 1, **fields: Any) -> Record:
    given = {"run_id": "run-1", "kind": "train", "mechanism": STEP, "sensitivity": 1.0, **fields}
    return ledger.reserve(round_number=round_number, **given)


def commit(ledger: Ledger, record: Record, **fields: Any) -> Record:
    given = {"mechanism": STEP, "sensitivity": 1.0, "steps_done": 20, "rng": "chacha20/os.urandom", **fields}
    return ledger.commit(record, update_digest=DIGEST, **given)


def refusal(call: Callable[..., object], *arguments: Any) -> FaultCode:
    with pytest.raises(LedgerFault) as caught:
        call(*arguments)
    return caught.value.code


# The state machine ---------------------------------------------------------------------------------------------------


def test_what_was_appended_is_there_after_opening_again(ledger: Ledger, path: Path) -> None:
    commit(ledger, reserve(ledger))
    before, head = ledger.records, ledger.head
    ledger.close()
    with Ledger.open(path, KEY, pinned=head) as again:
        assert again.records == before == read_ledger(path, KEY.public)
        assert again.head == head


def test_the_arithmetic_of_a_round_is_reserve_then_commit(ledger: Ledger) -> None:
    first = reserve(ledger)
    assert ledger.dangling() == [first]
    commit(ledger, first)
    assert ledger.dangling() == []
    assert ledger.spent() == [STEP]


def test_a_dangling_reserve_is_spent_and_a_new_attempt_is_charged_again(ledger: Ledger, path: Path) -> None:
    reserve(ledger)
    ledger.close()
    with Ledger.open(path, KEY) as again:
        second = reserve(again)
        assert second.whole("attempt") == 1
        commit(again, second)
        assert again.spent() == [STEP, STEP]
        assert len(again.dangling()) == 1


def test_spent_holds_every_reserve_and_priced_release_in_order_and_no_public_release(ledger: Ledger) -> None:
    ledger.release(name="recall_at_k", mechanism=METRIC, sensitivity=1.0, payload_digest=DIGEST)
    reserve(ledger)
    ledger.release(name="model_card", mechanism=None, payload_digest=DIGEST)
    reserve(ledger, 0, kind="popularity", mechanism=NOTHING, sensitivity=None)
    assert ledger.spent() == [METRIC, STEP, NOTHING]


def test_a_reserve_needs_a_plan(ledger: Ledger) -> None:
    assert refusal(lambda: reserve(ledger, run_id="run-2")) is FaultCode.STATE


@pytest.mark.parametrize("attempt", [0, 2, 7])
def test_an_attempt_is_reserved_once_and_in_order(ledger: Ledger, attempt: int) -> None:
    reserve(ledger, attempt=0)
    assert refusal(lambda: reserve(ledger, attempt=attempt)) is FaultCode.STATE
    assert refusal(lambda: reserve(ledger, attempt=attempt, kind="metric")) is FaultCode.STATE


def test_a_server_nonce_serves_one_round(ledger: Ledger) -> None:
    reserve(ledger, 1, server_nonce="nonce-0001")
    reserve(ledger, 1, server_nonce="nonce-0001")
    assert refusal(lambda: reserve(ledger, 2, server_nonce="nonce-0001")) is FaultCode.NONCE


def test_a_reserve_is_committed_once(ledger: Ledger) -> None:
    record = reserve(ledger)
    commit(ledger, record)
    assert refusal(lambda: commit(ledger, record)) is FaultCode.STATE


def test_only_a_reserve_is_committed(ledger: Ledger) -> None:
    assert refusal(lambda: commit(ledger, ledger.records[0])) is FaultCode.STATE


@pytest.mark.parametrize(
    "ran", [{"mechanism": STEP | {"noise_multiplier": 1.09}}, {"sensitivity": 1.01}, {"steps_done": 21}], ids=str
)
def test_what_ran_must_be_what_was_reserved(ledger: Ledger, ran: dict[str, Any]) -> None:
    record = reserve(ledger)
    assert refusal(lambda: commit(ledger, record, **ran)) is FaultCode.STATE
    assert ledger.dangling() == [record]


def test_a_private_release_without_noise_is_refused(ledger: Ledger) -> None:
    with pytest.raises(LedgerFault, match="no noise"):
        ledger.release(name="recall_at_k", mechanism=NOTHING, payload_digest=DIGEST)


def test_nothing_of_a_run_follows_its_close_and_other_runs_go_on(ledger: Ledger) -> None:
    record = reserve(ledger)
    ledger.append("plan", {**BODIES["plan"], "run_id": "run-2"})
    ledger.append("close", BODIES["close"])
    release: dict[str, Any] = {"name": "recall_at_k", "payload_digest": DIGEST, "mechanism": METRIC, "sensitivity": 1.0}
    assert refusal(lambda: reserve(ledger, 2)) is FaultCode.CLOSED
    assert refusal(lambda: commit(ledger, record)) is FaultCode.CLOSED
    assert refusal(lambda: ledger.release(run_id="run-1", **release)) is FaultCode.CLOSED
    assert refusal(lambda: ledger.append("plan", {**BODIES["plan"], "reason": "again"})) is FaultCode.CLOSED
    reserve(ledger, run_id="run-2")


def test_nothing_follows_the_close_of_the_ledger(ledger: Ledger, path: Path) -> None:
    ledger.append("close", {"run_id": None, "reason": "withdrawn"})
    assert refusal(lambda: ledger.append("code", BODIES["code"])) is FaultCode.CLOSED
    ledger.close()
    with Ledger.open(path, KEY) as again:
        assert refusal(lambda: reserve(again)) is FaultCode.CLOSED


def test_a_changed_plan_states_its_reason(ledger: Ledger) -> None:
    assert refusal(lambda: ledger.append("plan", BODIES["plan"])) is FaultCode.STATE
    ledger.append("plan", {**BODIES["plan"], "reason": "fewer rounds"})


def test_a_statistic_under_dp_points_to_its_charge(ledger: Ledger) -> None:
    plain = ledger.records[-1].hash
    charged = ledger.release(name="mean", mechanism=METRIC, sensitivity=1.0, payload_digest=DIGEST).hash
    for row in (("dp", None), ("dp", plain), ("dp", DIGEST), ("public", charged)):
        body = {"statistics": {"popularity": {"origin": row[0], "charge": row[1]}}}
        assert refusal(ledger.append, "data_prep", body) is FaultCode.STATE
    ledger.append("data_prep", {"statistics": {"popularity": {"origin": "dp", "charge": charged}}})


def test_an_audit_has_one_result(ledger: Ledger) -> None:
    plan = ledger.append("audit_plan", BODIES["audit_plan"]).hash
    body = {**BODIES["audit_result"], "audit_plan": plan}
    assert refusal(lambda: ledger.append("audit_result", {**body, "correct": 201})) is FaultCode.STATE
    ledger.append("audit_result", body)
    assert refusal(lambda: ledger.append("audit_result", body)) is FaultCode.STATE


def test_a_refused_record_leaves_no_trace(ledger: Ledger, path: Path) -> None:
    before, head = path.read_bytes(), ledger.head
    for record_type, body in (("close", BODIES["open"]), ("refund", {}), ("commit", BODIES["commit"])):
        with pytest.raises(LedgerError):
            ledger.append(record_type, body)
    assert (path.read_bytes(), ledger.head) == (before, head)
    reserve(ledger)


# Budget --------------------------------------------------------------------------------------------------------------


def count_price(mechanisms: Sequence[Mapping[str, object]], delta: float) -> float:
    """One unit of epsilon per charge: what the price is does not matter here."""
    assert delta == 1e-5
    return float("inf") if NOTHING in mechanisms else float(len(mechanisms))


def test_the_charge_that_would_exceed_the_budget_is_refused_and_not_written(path: Path) -> None:
    with Ledger.create(path, KEY, OPEN, price=count_price) as ledger:
        ledger.append("plan", BODIES["plan"])
        for _ in range(3):
            reserve(ledger)
        ledger.release(name="recall_at_k", mechanism=METRIC, sensitivity=1.0, payload_digest=DIGEST)
        with pytest.raises(BudgetExhausted, match=r"5.*4"):
            reserve(ledger)
        with pytest.raises(BudgetExhausted):
            ledger.release(name="recall_at_k", mechanism=METRIC, sensitivity=1.0, payload_digest=DIGEST)
        assert len(ledger.spent()) == 4
        signature = GOVERNANCE.sign(ledger.history.budget_statement(5.0, None), domain=BUDGET_DOMAIN)
        ledger.append("budget_change", {**BODIES["budget_change"], "governance_signature": signature})
        reserve(ledger)
        with pytest.raises(BudgetExhausted):
            reserve(ledger)


@pytest.mark.parametrize("limit", [4.0, None])
def test_work_without_noise_fits_no_budget_but_no_limit(path: Path, limit: float | None) -> None:
    with Ledger.create(path, KEY, {**OPEN, "epsilon_budget": limit}, price=count_price) as ledger:
        ledger.append("plan", BODIES["plan"])
        if limit is None:
            reserve(ledger, mechanism=NOTHING, sensitivity=None)
        else:
            with pytest.raises(BudgetExhausted):
                reserve(ledger, mechanism=NOTHING, sensitivity=None)


def test_a_budget_changes_by_the_governance_signature_over_this_change_of_this_ledger(ledger: Ledger) -> None:
    def change(statement: bytes, key: SigningKey = GOVERNANCE, number: int = 1, epsilon: float = 5.0) -> Record:
        signature = key.sign(statement, domain=BUDGET_DOMAIN)
        fields = {"change": number, "epsilon_budget": epsilon, "governance_signature": signature}
        return ledger.append("budget_change", {**BODIES["budget_change"], **fields})

    statement = ledger.history.budget_statement(5.0, None)
    assert refusal(lambda: change(statement, KEY)) is FaultCode.SIGNATURE
    assert refusal(lambda: change(statement, epsilon=50.0)) is FaultCode.SIGNATURE
    assert refusal(lambda: change(statement, number=2)) is FaultCode.SIGNATURE
    reserve(ledger)
    change(statement)
    assert ledger.budget.epsilon == 5.0
    assert refusal(lambda: change(statement)) is FaultCode.SIGNATURE
    assert refusal(lambda: change(statement, number=2)) is FaultCode.SIGNATURE


# Keys ----------------------------------------------------------------------------------------------------------------


def test_after_a_rotation_the_new_key_alone_opens_the_ledger(ledger: Ledger, path: Path) -> None:
    ledger.rotate_key(NEXT, reason="compromised")
    reserve(ledger)
    ledger.close()
    assert refusal(lambda: Ledger.open(path, KEY)) is FaultCode.KEY
    with Ledger.open(path, NEXT) as again:
        assert again.spent() == [STEP]
    assert len(read_ledger(path, KEY.public)) == len(read_ledger(path, NEXT.public)) == 4


def rotated(ledger: Ledger, role: str, old: SigningKey | None, new: SigningKey, **fields: Any) -> Record:
    place = ledger.history.rotation_place(role, new.public)
    signatures = place.signed_by(old) if old else None, place.signed_by(new)
    body = place.body(old.public if old else None, *signatures, "scheduled")
    return ledger.append("key_rotate", body | fields)


def test_the_servers_key_changes_by_the_signatures_of_the_old_and_the_new_key(ledger: Ledger) -> None:
    forged = ledger.history.rotation_place("server", NEXT.public).signed_by(NEXT)
    for broken in ({"old_signature": forged}, {"old_signature": None}, {"new_signature": "0" * 128}):
        with pytest.raises(LedgerFault, match="both signatures"):
            rotated(ledger, "server", SERVER, NEXT, **broken)
    with pytest.raises(LedgerFault, match="both signatures"):
        rotated(ledger, "server", None, NEXT)
    rotated(ledger, "server", SERVER, NEXT)
    ledger.countersigned(countersign_head("clinic-a", ledger.head, "nonce-0001", NEXT))
    late = countersign_head("clinic-a", ledger.head, "nonce-0002", SERVER)
    assert refusal(ledger.countersigned, late) is FaultCode.SIGNATURE


def test_a_ledger_without_a_server_key_takes_a_first_one_and_no_countersignature_before(path: Path) -> None:
    with Ledger.create(path, KEY, {**OPEN, "server_key": None}) as ledger:
        receipt = countersign_head("clinic-a", ledger.head, "nonce-0001", SERVER)
        assert refusal(ledger.countersigned, receipt) is FaultCode.SIGNATURE
        rotated(ledger, "server", None, SERVER)
        ledger.countersigned(receipt)


def test_another_key_does_not_open_the_ledger(ledger: Ledger, path: Path) -> None:
    ledger.close()
    before = path.read_bytes()
    assert refusal(lambda: Ledger.open(path, NEXT)) is FaultCode.KEY
    assert refusal(lambda: read_ledger(path, NEXT.public)) is FaultCode.KEY
    assert path.read_bytes() == before


# Countersignatures ---------------------------------------------------------------------------------------------------


def test_a_countersigned_head_is_kept_and_binds_every_later_opening(ledger: Ledger, path: Path) -> None:
    receipt = countersign_head("clinic-a", ledger.head, "nonce-0001", SERVER)
    ledger.countersigned(receipt)
    ledger.close()
    with Ledger.open(path, KEY) as again:
        assert again.countersignatures == (receipt,)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0])
    path.with_suffix(".head").write_text(
        json.dumps(
            json.loads(path.with_suffix(".head").read_text()) | {"head": vars(NO_HEAD)}  # the own head alone forged
        )
    )
    assert refusal(lambda: Ledger.open(path, KEY)) is FaultCode.ROLLBACK


def test_a_countersignature_of_another_head_partner_key_or_time_is_refused(ledger: Ledger) -> None:
    head = ledger.head
    ledger.countersigned(countersign_head("clinic-a", head, "nonce-0001", SERVER))
    cases = {
        FaultCode.NONCE: countersign_head("clinic-a", head, "nonce-0001", SERVER),
        FaultCode.FORK: countersign_head("clinic-a", Head(head.size, head.hash, DIGEST), "nonce-0002", SERVER),
    }
    for code, receipt in cases.items():
        assert refusal(ledger.countersigned, receipt) is code
    for receipt in (
        countersign_head("clinic-a", head, "nonce-0002", NEXT),
        countersign_head("clinic-b", head, "nonce-0002", SERVER),
    ):
        assert refusal(ledger.countersigned, receipt) is FaultCode.SIGNATURE
    ahead = countersign_head("clinic-a", Head(99, head.hash, head.root), "nonce-0002", SERVER)
    assert refusal(lambda: ledger.countersigned(ahead)) is FaultCode.FORK


def test_the_signed_head_and_its_growth_verify_outside(ledger: Ledger) -> None:
    old = ledger.head
    reserve(ledger)
    shown = ledger.signed_head("nonce-0001")
    assert shown.is_signed_by(KEY.public)
    assert verify_consistency(old.size, shown.size, old.root, shown.root, ledger.consistency_proof(old.size))
    assert refusal(lambda: ledger.consistency_proof(99)) is FaultCode.ROLLBACK


# The file ------------------------------------------------------------------------------------------------------------


def test_a_ledger_is_never_overwritten(ledger: Ledger, path: Path) -> None:
    before = path.read_bytes()
    assert refusal(lambda: Ledger.create(path, KEY, OPEN)) is FaultCode.EXISTS
    assert path.read_bytes() == before


def test_a_deleted_ledger_does_not_start_again_with_a_full_budget(ledger: Ledger, path: Path) -> None:
    ledger.close()
    path.unlink()
    assert refusal(lambda: Ledger.create(path, KEY, OPEN)) is FaultCode.EXISTS
    assert refusal(lambda: Ledger.open(path, KEY)) is FaultCode.MISSING


def test_a_creation_that_was_interrupted_before_the_ledger_existed_can_be_repeated(path: Path) -> None:
    Ledger.create(path, KEY, OPEN).close()
    path.unlink()
    with Ledger.create(path, KEY, OPEN) as ledger:
        assert ledger.head.size == 1


def test_a_missing_head_file_is_refused_unless_someone_else_remembers(ledger: Ledger, path: Path) -> None:
    head = ledger.head
    ledger.close()
    known: list[dict[str, Any]] = [{"pinned": head}, {"accept_missing_head": True}]
    for opened in known:
        path.with_suffix(".head").unlink()
        assert refusal(lambda: Ledger.open(path, KEY)) is FaultCode.HEAD
        Ledger.open(path, KEY, **opened).close()
        Ledger.open(path, KEY).close()


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 10**5, b"\xff", b'{"countersigned":[],"head":{},"v":1}'])
def test_a_damaged_head_file_is_a_typed_refusal(ledger: Ledger, path: Path, content: bytes) -> None:
    ledger.close()
    path.with_suffix(".head").write_bytes(content)
    assert refusal(lambda: Ledger.open(path, KEY)) is FaultCode.HEAD


def test_the_head_may_lie_elsewhere(tmp_path: Path) -> None:
    path, head = tmp_path / "ledger.jsonl", tmp_path / "usb" / "head.json"
    Ledger.create(path, KEY, OPEN, head_path=head).close()
    assert refusal(lambda: Ledger.open(path, KEY)) is FaultCode.HEAD
    Ledger.open(path, KEY, head_path=head).close()


def test_a_restored_backup_is_a_rollback_and_a_continued_copy_a_fork(ledger: Ledger, path: Path) -> None:
    backup, old_head = path.read_bytes(), path.with_suffix(".head").read_bytes()
    reserve(ledger)
    head = ledger.head
    ledger.close()
    path.write_bytes(backup)
    assert refusal(lambda: Ledger.open(path, KEY)) is FaultCode.ROLLBACK
    path.with_suffix(".head").write_bytes(old_head)
    assert refusal(lambda: Ledger.open(path, KEY, pinned=head)) is FaultCode.ROLLBACK
    with Ledger.open(path, KEY) as copy:
        reserve(copy, 5)
    assert refusal(lambda: Ledger.open(path, KEY, pinned=head)) is FaultCode.FORK


def test_a_second_opener_in_the_same_process_is_refused(ledger: Ledger, path: Path) -> None:
    assert refusal(lambda: Ledger.open(path, KEY)) is FaultCode.LOCKED
    ledger.close()
    Ledger.open(path, KEY).close()


def test_a_closed_object_appends_nothing(ledger: Ledger, path: Path) -> None:
    ledger.close()
    before = path.read_bytes()
    assert refusal(lambda: reserve(ledger)) is FaultCode.BROKEN
    assert path.read_bytes() == before


@pytest.mark.parametrize("change", ["append", "replace", "delete"])
def test_a_file_that_changed_under_the_writer_stops_it(ledger: Ledger, path: Path, change: str) -> None:
    content = path.read_bytes()
    if change == "append":
        with path.open("ab") as stream:
            stream.write(b"x")
    else:
        path.unlink()
        if change == "replace":
            path.write_bytes(content)
    assert refusal(lambda: reserve(ledger)) is FaultCode.BROKEN
    assert refusal(lambda: reserve(ledger)) is FaultCode.BROKEN


def test_a_failed_write_stops_the_writer_and_the_next_opening_recovers(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    reserve(ledger)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        assert refusal(lambda: reserve(ledger, 2)) is FaultCode.BROKEN
    assert refusal(lambda: reserve(ledger, 2)) is FaultCode.BROKEN
    with Ledger.open(path, KEY) as again:
        assert len(again.spent()) >= 1


def test_a_record_whose_head_cannot_be_kept_is_spent_and_nothing_follows_it(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mmrec_model.privacy.heads.write_atomically", full_disk)
        assert refusal(lambda: reserve(ledger)) is FaultCode.FILE
    assert refusal(lambda: reserve(ledger)) is FaultCode.BROKEN
    with Ledger.open(path, KEY) as again:
        assert again.spent() == [STEP]


def test_a_folder_in_place_of_the_ledger_is_a_typed_refusal(tmp_path: Path) -> None:
    assert refusal(lambda: Ledger.open(tmp_path, KEY)) is FaultCode.FILE
    assert refusal(lambda: read_ledger(tmp_path, KEY.public)) is FaultCode.FILE
    assert refusal(lambda: read_ledger(tmp_path / "absent", KEY.public)) is FaultCode.MISSING


def test_threads_of_one_process_append_one_after_the_other(ledger: Ledger, path: Path) -> None:
    def work(round_number: int) -> None:
        for _ in range(5):
            reserve(ledger, round_number)

    threads = [Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ledger.spent()) == 20
    assert read_ledger(path, KEY.public) == ledger.records


@pytest.mark.parametrize("rounds", [100, 800])
def test_verification_hashes_each_record_once_however_long_the_chain_is(
    rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History()
    bodies = [("open", {**OPEN, "key_id": KEY.public.key_id, "public_key": KEY.public.hexadecimal})]
    bodies += [("plan", BODIES["plan"])]
    bodies += [("reserve", {**BODIES["reserve"], "round": number, "server_nonce": None}) for number in range(rounds)]
    for seq, (record_type, body) in enumerate(bodies):
        history.apply(sign_record(seq, history.last_hash, record_type, body, KEY))
    calls = 0
    real = hashlib.sha256

    def counted(content: bytes) -> Any:
        nonlocal calls
        calls += 1
        return real(content)

    monkeypatch.setattr(hashlib, "sha256", counted)
    chain = read_chain(b"".join(record.line for record in history.records), KEY.public)
    assert chain.history.head == history.head
    assert calls < 2.1 * (rounds + 2) + 20


# A model of the state machine ----------------------------------------------------------------------------------------


class Rounds(RuleBasedStateMachine):
    """Any order of plans, reserves, commits and closes: the ledger agrees with a model of a few sets."""

    reserves = Bundle("reserves")

    def __init__(self) -> None:
        super().__init__()
        self.history = History()
        self.write("open", {**OPEN, "key_id": KEY.public.key_id, "public_key": KEY.public.hexadecimal})
        self.planned: set[str] = set()
        self.closed: set[str] = set()
        self.attempts: dict[tuple[str, int], int] = {}
        self.dangling: set[str] = set()
        self.charges = 0

    def write(self, record_type: str, body: Mapping[str, object]) -> Record | None:
        history = self.history
        record = sign_record(len(history.records), history.last_hash, record_type, body, KEY)
        try:
            check(history, record)
        except LedgerFault:
            return None
        history.apply(record)
        return record

    @rule(run=st.sampled_from(["a", "b"]))
    def plan(self, run: str) -> None:
        written = self.write("plan", {**BODIES["plan"], "run_id": run, "reason": "changed"})
        assert (written is not None) == (run not in self.closed)
        if written is not None:
            self.planned.add(run)

    @rule(target=reserves, run=st.sampled_from(["a", "b"]), number=st.integers(0, 1), attempt=st.integers(0, 2))
    def reserve(self, run: str, number: int, attempt: int) -> Any:
        fields = {"run_id": run, "round": number, "attempt": attempt, "server_nonce": None}
        written = self.write("reserve", {**BODIES["reserve"], **fields})
        allowed = run in self.planned - self.closed and attempt == self.attempts.get((run, number), 0)
        assert (written is not None) == allowed
        if written is None:
            return multiple()
        self.attempts[run, number] = attempt + 1
        self.dangling.add(written.hash)
        self.charges += 1
        return written

    @rule(reserve=reserves, steps=st.sampled_from([20, 19]))
    def commit(self, reserve: Record, steps: int) -> None:
        mechanism = {**BODIES["commit"]["mechanism"], "steps": steps}
        written = self.write("commit", {**BODIES["commit"], "reserve": reserve.hash, "mechanism": mechanism})
        open_run = reserve.text("run_id") not in self.closed
        assert (written is not None) == (reserve.hash in self.dangling and open_run and steps == 20)
        if written is not None:
            self.dangling.remove(reserve.hash)

    @rule(run=st.sampled_from(["a", "b"]))
    def close(self, run: str) -> None:
        written = self.write("close", {"run_id": run, "reason": "stopped"})
        assert (written is not None) == (run in self.planned - self.closed)
        if written is not None:
            self.closed.add(run)

    @invariant()
    def nothing_spent_is_ever_given_back(self) -> None:
        assert len(self.history.spent()) == self.charges
        assert set(self.history.dangling) == self.dangling

    @invariant()
    def the_chain_is_linked(self) -> None:
        hashes = [NO_RECORD, *(record.hash for record in self.history.records)]
        assert [record.prev for record in self.history.records] == hashes[:-1]


Rounds.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestRounds = Rounds.TestCase
