"""What a reader of a run must know beside its figures: which snapshots of the coordinator could not be read.

A damaged snapshot does not end a run: it goes on from the one before, averages the others, and the curve has a gap.
None of that may go unsaid. The notes name rounds alone; the reasons, which may name places, are in `run.jsonl`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from server.journal import read_journal
from simulations.run_record import RunRecord


def notes(coordinator: Path, record: RunRecord, *, rounds: int) -> tuple[str, ...]:
    """The notes on a finished run.

    Args:
        coordinator: the coordinator's folder.
        record: what was assessed.
        rounds: rounds of the plan.
    """
    passed_over: set[int] = set()
    left_out: set[int] = set()
    for event in read_journal(coordinator / "run.jsonl"):
        passed_over |= {int(str(text).partition(":")[0]) for text in event.get("damaged", [])}
        left: Mapping[str, str] = event.get("left_out", {})
        left_out |= {int(round_) for round_ in left}
    missing = set(range(rounds + 1)) - {row.round for row in record.rounds}
    found = [
        ("The run was resumed from an earlier snapshot than the last: {} could not be read.", passed_over),
        ("The exported average does without {}, which could not be read.", left_out),
        ("The curve does without {}, which cannot be read.", missing),
    ]
    return tuple(text.format(_snapshots(which)) for text, which in found if which)


def _snapshots(rounds: set[int]) -> str:
    word = "the snapshot of round" if len(rounds) == 1 else "the snapshots of rounds"
    return f"{word} {', '.join(str(round_) for round_ in sorted(rounds))}"
