"""The operator's decisions about runs: signed by the site's key, kept at the site, checked before anything is spent.

    approved    this run, with this plan, by this code, on this data, under this policy, with this budget
    withdrawn   this run no longer
    left        no run at all, until another one is approved

An approval binds four digests. It holds as long as all of the following do, and otherwise the run is refused:
1. it is the last decision about the run, signed by the key in force;
2. the plan is the approved one;
3. the code, the data snapshot and the policy file are those of the approval;
4. the ledger is the one it was given for (its head then is one of its heads now), and the budget still covers the whole
   plan beside what every other run has spent since.
A policy with `require_approval = false` does without one; a run that was withdrawn is refused even so.

Decisions are lines of `approvals.jsonl`, read at every message, so each takes effect with the next one. None of it
leaves the site: the coordinator is told that there is no approval, not why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from client.pricing import price
from client.site import Site
from mmrec_model.canonical import JsonValue, canonical_json, sha256_hex
from mmrec_model.config import RunConfig
from mmrec_model.config_reader import parse_config
from mmrec_model.config_types import Count, Digest, Strict
from mmrec_model.errors import ConfigError, PolicyRefusal
from mmrec_model.planning import plan_events
from mmrec_model.privacy.events import PrivacyEvent, from_record
from mmrec_model.privacy.files import FileLock
from mmrec_model.privacy.history import History
from mmrec_model.privacy.keys import PublicKey
from mmrec_model.privacy.records import stored_form
from mmrec_model.storage import write_atomically

APPROVAL_DOMAIN: Final = b"mmrec-approval/v1\0"
_MODE: Final = 0o600


class NotApproved(PolicyRefusal):
    """The operator did not approve the run, or not as it would run now; the reason is for the site's own log."""

    def __init__(self, problem: str, *, remedy: str) -> None:
        super().__init__("approval", problem, remedy=remedy)


class Bound(Strict):
    """What an approval was given for.

    Attributes:
        plan: digest of the run's configuration.
        code: of the installed package.
        data: of the tables, the catalogue and the feature bundle.
        policy: of the policy file.
        budget: of the ledger's head, of what it had spent and of the limits.
        size: records of the ledger then.
        head: hash of the last of them.
    """

    plan: Digest
    code: Digest
    data: Digest
    policy: Digest
    budget: Digest
    size: Count
    head: Digest


class Decision(Strict):
    """One line of the file.

    Attributes:
        decision: what was decided.
        run_id: about which run; empty in `left`, which is about all.
        bound: of an approval, what it is bound to; else None.
        at: UTC moment.
        key_id: of the site's key.
        signature: by it, over all other fields.
    """

    decision: Literal["approved", "withdrawn", "left"]
    run_id: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9-]{0,63})?$")]
    bound: Bound | None
    at: str
    key_id: str
    signature: str

    @property
    def statement(self) -> bytes:
        """What is signed."""
        return canonical_json(self.model_dump(exclude={"signature"}))


def bind(site: Site, history: History, config: RunConfig) -> Bound:
    """What an approval of a run would be bound to now.

    Args:
        site: where the run would be.
        history: of the site's ledger.
        config: the plan.
    """
    budget = history.budget
    limits: dict[str, JsonValue] = {"epsilon": budget.epsilon, "delta": budget.delta, "policy": site.policy.max_epsilon}
    state = stored_form({"head": history.last_hash, "size": len(history.records), "spent": history.spent()})
    return Bound(
        plan=config.digest,
        code=site.code_digest,
        data=site.data_digest,
        policy=site.policy_digest,
        budget=sha256_hex(canonical_json({**state, **limits})),
        size=len(history.records),
        head=history.last_hash,
    )


def approve(site: Site, config: RunConfig, bound: Bound, *, now: datetime | None = None) -> Decision:
    """Write an approval; it counts from the next message on.

    Args:
        site: the site.
        config: the plan.
        bound: what the operator was shown.
        now: the moment, by default this one.

    Raises:
        LedgerFault: another command is writing a decision, or the key cannot be used.
    """
    return _decide(site, "approved", config.run_id, bound, now)


def withdraw(site: Site, run_id: str, *, now: datetime | None = None) -> Decision:
    """Refuse a run from the next message on, whatever was approved before.

    Raises:
        LedgerFault: see `approve`.
        ConfigError: `run_id` is no name of a run.
    """
    return _decide(site, "withdrawn", run_id, None, now)


def withdraw_all(site: Site, *, now: datetime | None = None) -> Decision:
    """Refuse every run until another one is approved.

    Raises:
        LedgerFault: see `approve`.
    """
    return _decide(site, "left", "", None, now)


def read_decisions(path: Path) -> tuple[Decision, ...]:
    """All decisions, oldest first; none without a file.

    Raises:
        ConfigError: a line is not a decision.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} cannot be read: {error}", remedy="Restore it, or approve again") from error
    named = f"{path.name} line {{}}"
    return tuple(parse_config(Decision, line, source=named.format(number)) for number, line in enumerate(lines, 1))


def last_about(decisions: Sequence[Decision], run_id: str) -> Decision | None:
    """The decision that counts for a run; None if there is none."""
    about = (decision for decision in reversed(decisions) if decision.run_id in {run_id, ""})
    return next(about, None)


def check_approval(site: Site, history: History, config: RunConfig) -> None:
    """Whether a run may go on at this site.

    Args:
        site: the site.
        history: of its ledger.
        config: the plan, as the request has it.

    Raises:
        NotApproved: no decision where the policy requires one, or one that does not hold.
        ConfigError: the decisions cannot be read.
    """
    last = last_about(read_decisions(site.approvals), config.run_id)
    if last is not None:
        reason = objection(site, history, last, config.run_id, config)
    else:
        reason = f"run '{config.run_id}' was never approved here" if site.policy.require_approval else None
    if reason is not None:
        raise NotApproved(reason, remedy="Look at the plan and approve it: mmrec site approve SITE PLAN")


def objection(site: Site, history: History, last: Decision, run_id: str, config: RunConfig | None) -> str | None:
    """Why a decision does not let a run go on, as one sentence for the operator; None if it does.

    Args:
        site: the site.
        history: of its ledger.
        last: the decision that counts.
        run_id: the run.
        config: its plan; None to leave plan and price out.
    """
    run = f"run '{run_id}'"
    if not _is_signed(last, history.keys["partner"]):
        return f"the decision about {run} of {last.at} is not signed by the site's key in force"
    if last.decision == "withdrawn":
        return f"the approval of {run} was withdrawn at {last.at}"
    if last.decision == "left" or last.bound is None:
        return f"the site left the federation at {last.at}"
    return next(_broken(site, history, run, last.bound, config), None)


def _broken(site: Site, history: History, run: str, bound: Bound, config: RunConfig | None) -> Iterator[str]:
    digests = (
        ("plan", config.digest if config else bound.plan, bound.plan),
        ("code", site.code_digest, bound.code),
        ("policy", site.policy_digest, bound.policy),
        ("data", site.data_digest, bound.data),
    )
    for name, now, then in digests:
        if now != then:
            yield f"the {name} digest is {now[:12]}, {run} was approved for {then[:12]}"
    if len(history.records) < bound.size or history.records[bound.size - 1].hash != bound.head:
        yield f"the budget digest is void: the ledger is not the one that {run} was approved with"
    if config is None:
        return
    total, limit = cost_beside_others(history, config, site.policy.max_delta), budget_limit(site, history)
    if not total <= limit:
        yield (
            f"the budget digest is void: with what other runs have spent, {run} would bring epsilon to "
            f"{total:.4f}, the limit is {limit:g}"
        )


def cost_beside_others(history: History, config: RunConfig, delta: float) -> float:
    """Epsilon of the whole plan and of everything on the ledger that is not of its run."""
    return price((*spent_by_others(history, config.run_id), *plan_events(config)), delta)


def spent_by_others(history: History, run_id: str) -> tuple[PrivacyEvent, ...]:
    """What the ledger says was spent, but for one run."""
    return tuple(
        from_record(charge)
        for record in history.records
        if (charge := record.charge) is not None and record.maybe_text("run_id") != run_id
    )


def budget_limit(site: Site, history: History) -> float:
    """The lower of the policy's and the ledger's limit; infinite for a policy that allows runs without noise."""
    limits = [] if site.policy.allow_without_privacy else [site.policy.max_epsilon]
    limits += [] if history.budget.epsilon is None else [history.budget.epsilon]
    return min(limits, default=float("inf"))


def _is_signed(decision: Decision, key: PublicKey) -> bool:
    own = decision.key_id == key.key_id
    return own and key.verifies(decision.signature, decision.statement, domain=APPROVAL_DOMAIN)


def _decide(
    site: Site,
    decision: Literal["approved", "withdrawn", "left"],
    run_id: str,
    bound: Bound | None,
    now: datetime | None,
) -> Decision:
    moment = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    with _writing(site.approvals):
        known = read_decisions(site.approvals)
        values = {"decision": decision, "run_id": run_id, "bound": bound and bound.model_dump(), "at": moment}
        unsigned = {**values, "key_id": site.key_id, "signature": ""}
        plain = parse_config(Decision, unsigned, source="the decision")
        made = plain.model_copy(update={"signature": site.sign(plain.statement, domain=APPROVAL_DOMAIN)})
        content = "".join(f"{line.model_dump_json()}\n" for line in (*known, made))
        write_atomically(site.approvals, content.encode(), mode=_MODE)
    return made


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    lock = FileLock(path.with_suffix(".lock"), remedy="Wait until the other command has ended")
    try:
        yield
    finally:
        lock.close()
