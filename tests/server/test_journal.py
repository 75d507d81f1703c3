"""The journal survives a crash in the middle of a line and counts what was refused."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from server.journal import Journal, Rejection, WaveFacts, read_journal


@given(cut=st.integers(1, 60))
def test_a_line_cut_short_is_lost_alone(tmp_path_factory: object, cut: int) -> None:
    path = tmp_path_factory.mktemp("journal") / "run.jsonl"  # type: ignore[attr-defined]
    journal = Journal(path)
    journal.write("described", users={"fr": 3})
    whole = path.stat().st_size
    journal.write("round", round=1)
    with path.open("r+b") as stream:
        stream.truncate(max(whole, path.stat().st_size - cut))
    Journal(path).write("resumed", round=0)
    kinds = [event["event"] for event in read_journal(path)]
    assert kinds[0] == "described"
    assert kinds[-1] == "resumed"
    assert set(kinds) <= {"described", "round", "resumed"}


def test_no_journal_has_no_events(tmp_path: Path) -> None:
    assert list(read_journal(tmp_path / "run.jsonl")) == []


def test_reasons_are_counted_by_name() -> None:
    rejected = tuple(Rejection(name, reason, "text") for name, reason in [("a", "norm"), ("b", "norm"), ("c", "error")])
    facts = WaveFacts(1, ("d",), rejected, {"d": 5}, {"d": 6}, {"d": ""})
    assert facts.reasons == {"error": 1, "norm": 2}
    assert facts.to_json()["rejected"] == facts.reasons
