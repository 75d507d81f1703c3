"""What the commands of `client.operation_cli` show a person."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from client.dry_run import Rehearsal
    from client.preflight import Result
    from client.proposal import Proposal
    from client.standing import BudgetStanding, Cost, Standing


def show_checks(results: Iterable[Result]) -> None:
    """The numbered list."""
    table = Table("", "check", "", "found", "limit", "what to do")
    for result in results:
        finding = result.finding
        words = (finding.level, finding.value, finding.limit, finding.remedy)
        table.add_row(str(result.number), result.name, *map(escape, words))
    _console().print(table)


def show_proposal(proposal: Proposal) -> None:
    """What is asked, on one screen."""
    console, config = _console(), proposal.config
    training = config.training
    console.print(
        f"Run {config.run_id}: {training.rounds} rounds of {training.local_steps} steps, "
        f"rate {training.sample_rate:g}, at least {config.minimum_cohort} partners"
    )
    table = Table("release", "mechanism", "")
    for release in proposal.releases:
        table.add_row(
            release.kind, escape(str(release.event)), escape(release.refusal and f"refused: {release.refusal}")
        )
    console.print(table)
    low, high = proposal.clip
    console.print(f"clip: {low:g}" if low == high else f"clip: {low:g} to {high:g}")
    console.print(
        f"price at delta {proposal.delta:g}: epsilon {proposal.zero_out:.4f} (data replaced by nothing), "
        f"{proposal.replace_one:.4f} (by other data)"
    )
    console.print(
        f"budget: {proposal.others:.4f} spent by other runs, {proposal.total:.4f} with this one, "
        f"limit {proposal.limit:g}, {proposal.remaining:.4f} left"
    )
    for limit in proposal.near:
        console.print(f"near a limit: {limit.code} {limit.asked:g} of {limit.limit:g}")
    bound = proposal.bound
    for name in ("plan", "code", "data", "policy", "budget"):
        console.print(f"{name:7}{getattr(bound, name)}")


def show_rehearsal(rehearsal: Rehearsal) -> None:
    """What would be sent."""
    console = _console()
    console.print(f"{rehearsal.release} of round {rehearsal.round} of run {rehearsal.run_id}, {rehearsal.event}")
    table = Table("array", "shape", "bytes")
    for array in rehearsal.arrays:
        table.add_row(array.name, escape(str(list(array.shape))), str(array.size))
    console.print(table)
    console.print(f"digest {rehearsal.digest}")
    if rehearsal.state:
        console.print(f"state  {rehearsal.state}")
    console.print(f"epsilon {rehearsal.spent:.4f} before, {rehearsal.total:.4f} with it")
    console.print(
        "Kept: the coordinator's request for it gets these bytes, at no further price."
        if rehearsal.kept
        else "Thrown away: nothing was charged, and the digest is of no later message."
    )


def show_standing(standing: Standing) -> None:
    """Work, approvals, outbox, receipts."""
    console = _console()
    console.print(f"{standing.name}: {standing.records} records on the ledger")
    works = Table("run", "round", "work", "seconds", title="last work")
    for work in standing.works:
        words = (work.run_id, str(work.round), work.kind, f"{work.seconds:.1f}")
        works.add_row(*map(escape, words))
    decisions = Table("run", "decision", "at", "", title="approvals")
    for approval in standing.approvals:
        words = (approval.run_id, approval.decision, approval.at, approval.objection)
        decisions.add_row(*map(escape, words))
    waiting = Table("run", "round", "release", "bytes", "", title="outbox")
    for reply in standing.waiting:
        sent = "committed" if reply.committed else "never sent"
        waiting.add_row(reply.run_id, str(reply.round), reply.release, str(reply.size), sent)
    for table in (works, decisions, waiting):
        if table.rows:
            console.print(table)
    shown = ", ".join(str(size) for size in standing.receipts) or "none"
    console.print(f"countersigned heads, in records, the last first: {shown}")


def show_budget(standing: BudgetStanding) -> None:
    """Spent and left."""
    console = _console()
    table = Table("run", "releases", "epsilon, data replaced by nothing", "by other data")
    for run, cost in standing.runs.items():
        table.add_row(run or "(none)", *_figures(cost))
    table.add_row("all", *_figures(standing.total))
    console.print(table)
    left = "no limit" if standing.remaining is None else f"{standing.remaining:.4f} left of {standing.limit:g}"
    console.print(f"at delta {standing.delta:g}: {left}; {standing.without_commit} charges without a commit")


def _figures(cost: Cost) -> tuple[str, str, str]:
    releases = ", ".join(f"{count} {kind}" for kind, count in cost.releases.items())
    return releases, f"{cost.zero_out:.4f}", f"{cost.replace_one:.4f}"


def _console() -> Console:
    return Console(soft_wrap=True, highlight=False)
