"""Which record may come next in a ledger.

1. The first record, and only the first, is `open`; nothing follows a `close` of the ledger.
2. A `reserve` belongs to a planned run that is not closed; (run, round, attempt) is unique and attempts count up from
   0; a server nonce serves one round only. A reserve is never taken back: no record does that.
3. A `commit` follows its reserve, once, with the mechanism and the sensitivity that were reserved and no more steps.
4. A `release` is public or priced; one without noise is refused.
5. A `countersign` verifies under the server key in force and names a head of this very ledger.
6. A key is replaced by two signatures, the old key's and the new one's; a budget by the partner's and the governance
   key's.

The same rules hold on writing and on reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from mmrec_model.privacy.bodies import RecordType
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.history import BUDGET_DOMAIN, History, countersignature_of
from mmrec_model.privacy.keys import PublicKey
from mmrec_model.privacy.records import Record
from mmrec_model.privacy.rotation import rotates


def check(history: History, record: Record) -> None:
    """Refuse a record that may not follow `history`; nothing is changed.

    Raises:
        LedgerFault: `STATE`, `CLOSED`, `NONCE`, `KEY`, `FORK`, `SIGNATURE`; `SCHEMA` or `LEAK` if the body is not one
            of its type.
    """
    _ = record.values
    if (record.type == RecordType.OPEN) != (record.seq == 0):
        raise _refused(f"record {record.seq} is {record.type!r}", "A ledger starts with its only open record")
    if history.closed:
        raise _closed("the ledger was closed", "Open a new ledger under a new agreement")
    rule = _RULES.get(RecordType(record.type))
    if rule is not None:
        rule(history, record)


def _check_open(history: History, record: Record) -> None:
    if PublicKey(record.text("public_key")).key_id != record.text("key_id"):
        raise LedgerFault(
            FaultCode.KEY, f"record {record.seq}: key_id is not that of public_key", remedy="Take both from one key"
        )
    if history.records:
        raise _refused("the ledger is already open", "Append another type")


def _check_plan(history: History, record: Record) -> None:
    run_id = record.text("run_id")
    if run_id in history.runs:
        _require_run(history, run_id)
        if record.values["reason"] is None:
            raise _refused(f"run {run_id!r} already has a plan", "State the reason of the change")


def _check_reserve(history: History, record: Record) -> None:
    run_id, round_number, attempt = record.text("run_id"), record.whole("round"), record.whole("attempt")
    _require_run(history, run_id)
    expected = history.next_attempt(run_id, round_number)
    if attempt != expected:
        raise _refused(
            f"attempt {attempt} of round {round_number} of run {run_id!r} does not come next",
            f"Each attempt is reserved once and in order; the next is {expected}",
        )
    nonce = record.maybe_text("server_nonce")
    if nonce is not None and history.nonces.get(nonce, (run_id, round_number)) != (run_id, round_number):
        raise LedgerFault(
            FaultCode.NONCE,
            f"the server nonce of round {round_number} of run {run_id!r} served another round",
            remedy="Refuse the message: it is a replay",
        )


def _check_commit(history: History, record: Record) -> None:
    reserve = _find(history, record.text("reserve"), RecordType.RESERVE)
    _require_run(history, reserve.text("run_id"))
    if reserve.hash not in history.dangling:
        raise _refused(f"reserve {reserve.seq} is already committed", "Reserve a new attempt")
    for name in ("mechanism", "sensitivity"):
        if record.values[name] != reserve.values[name]:
            raise _refused(
                f"the {name} that ran, {record.values[name]}, is not the reserved {reserve.values[name]}",
                "Release nothing; correct the training code and reserve a new attempt",
            )
    mechanism = record.table("mechanism")
    limit = mechanism.get("steps", mechanism.get("count"))
    if limit is not None and record.whole("steps_done") > limit:
        raise _refused(
            f"{record.whole('steps_done')} steps ran, {limit} were reserved",
            "Release nothing; correct the training code and reserve a new attempt",
        )


def _check_release(history: History, record: Record) -> None:
    run_id, charge = record.maybe_text("run_id"), record.charge
    if run_id is not None:
        _require_run(history, run_id)
    if charge is None and record.values["sensitivity"] is not None:
        raise _refused("a public release has no sensitivity", "Name its mechanism, or set sensitivity to null")
    if charge is not None and charge["type"] == "non_private":
        raise _refused(f"release {record.text('name')!r} has no noise", "Add noise, or do not release it")


def _check_data_prep(history: History, record: Record) -> None:
    for name, row in record.table("statistics").items():
        charged = row["charge"] is not None
        if charged != (row["origin"] == "dp"):
            raise _refused(f"statistic {name!r} is {row['origin']} with charge {row['charge']}", "Charge dp alone")
        source = history.by_hash.get(row["charge"]) if charged else None
        if charged and (source is None or source.charge is None):
            raise _refused(f"statistic {name!r} points to no charged record", "Charge its release first")


def _check_countersign(history: History, record: Record) -> None:
    size = record.whole("size")
    named = record.text("hash"), record.text("root")
    if size > len(history.records) or named != (history.records[size - 1].hash, history.tree.root(size)):
        raise LedgerFault(
            FaultCode.FORK,
            f"the countersigned head of size {size} is not one of this ledger",
            remedy="Stop; ask the coordinator which copy of the ledger it saw",
        )
    key = history.keys.get("server")
    signature = countersignature_of(record, history.partner)
    if key is None or not signature.is_signed_by(key):
        raise LedgerFault(
            FaultCode.SIGNATURE,
            f"the countersignature in record {record.seq} is not by the server key in force",
            remedy="Refuse the message; if the coordinator has a new key, rotate to it first",
        )
    if (record.type, signature.nonce) in history.once:
        raise LedgerFault(
            FaultCode.NONCE, "the countersignature's nonce was used before", remedy="Refuse the message: it is a replay"
        )


def _check_audit_result(history: History, record: Record) -> None:
    plan = _find(history, record.text("audit_plan"), RecordType.AUDIT_PLAN)
    if (record.type, plan.hash) in history.once:
        raise _refused(f"audit plan {plan.seq} already has a result", "Plan another audit")
    guesses = plan.whole("guesses_in") + plan.whole("guesses_out")
    if record.whole("correct") > guesses:
        raise _refused(f"{record.whole('correct')} of {guesses} guesses are correct", "Count again")


def _check_close(history: History, record: Record) -> None:
    run_id = record.maybe_text("run_id")
    if run_id is not None:
        _require_run(history, run_id)


def _check_recovered(history: History, record: Record) -> None:
    if (record.type, record.text("torn_digest")) in history.once:
        raise _refused("these torn bytes are already accounted for", "Write one recovered record for each")


def _check_key_rotate(history: History, record: Record) -> None:
    role = record.text("role")
    if not rotates(record, history.keys.get(role), genesis=history.genesis.hash):
        raise LedgerFault(
            FaultCode.SIGNATURE,
            f"record {record.seq} rotates the {role} key without both signatures over this place in the ledger",
            remedy="Sign the rotation statement with the old and the new key, and append it next",
        )


def _check_budget_change(history: History, record: Record) -> None:
    key = history.keys.get("governance")
    statement = history.budget_statement(record.maybe_number("epsilon_budget"), record.maybe_number("rho_budget"))
    signature = record.text("governance_signature")
    fresh = record.whole("change") == history.budget_changes + 1
    if key is None or not fresh or not key.verifies(signature, statement, domain=BUDGET_DOMAIN):
        raise LedgerFault(
            FaultCode.SIGNATURE,
            f"record {record.seq} changes the budget without the governance key's signature for this change",
            remedy="Have the budget statement signed by the governance key that the ledger names",
        )


def _find(history: History, digest: str, record_type: RecordType) -> Record:
    record = history.by_hash.get(digest)
    if record is None or record.type != record_type:
        raise _refused(f"no {record_type} record has the hash {digest[:16]}...", f"Write the {record_type} first")
    return record


def _require_run(history: History, run_id: str) -> None:
    if run_id not in history.runs:
        raise _refused(f"run {run_id!r} has no plan", "Write its plan record before anything is spent")
    if not history.runs[run_id]:
        raise _closed(f"run {run_id!r} was closed", "Plan a new run")


def _refused(problem: str, remedy: str) -> LedgerFault:
    return LedgerFault(FaultCode.STATE, problem, remedy=remedy)


def _closed(problem: str, remedy: str) -> LedgerFault:
    return LedgerFault(FaultCode.CLOSED, problem, remedy=remedy)


_RULES: Final[Mapping[RecordType, Callable[[History, Record], None]]] = {
    RecordType.OPEN: _check_open,
    RecordType.PLAN: _check_plan,
    RecordType.RESERVE: _check_reserve,
    RecordType.COMMIT: _check_commit,
    RecordType.RELEASE: _check_release,
    RecordType.DATA_PREP: _check_data_prep,
    RecordType.COUNTERSIGN: _check_countersign,
    RecordType.AUDIT_RESULT: _check_audit_result,
    RecordType.CLOSE: _check_close,
    RecordType.RECOVERED: _check_recovered,
    RecordType.KEY_ROTATE: _check_key_rotate,
    RecordType.BUDGET_CHANGE: _check_budget_change,
}
