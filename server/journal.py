"""What the operator reads: `run.jsonl`, one JSON object per event, in the order of the events.

An event is a public fact: names, public user numbers, counts of accepted and refused replies, bytes, seconds, digests.
Events are `described`, `activity`, `popularity`, `resumed`, `round`, `evaluated`, `averaged`, `receipts`, `finished`
and `failed`; their fields are in docs/coordinator.md. A line is written whole and flushed to the disk before the run
goes on.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Rejection:
    """One reply that was not used: who sent it (or should have), the counted reason, and what was found."""

    partner: str
    reason: str
    text: str


@dataclass(frozen=True)
class WaveFacts:
    """One request to all partners and what came back.

    Attributes:
        round: 0 before training.
        accepted: names, sorted.
        rejected: in order of arrival, then the partners that did not answer.
        bytes_down: bytes sent to each partner.
        bytes_up: bytes that each accepted partner's reply took; refused replies are not counted.
        ledger_heads: digest of each accepted partner's last ledger record.
        seconds: from sending the first message to the last admission check.
    """

    round: int
    accepted: tuple[str, ...]
    rejected: tuple[Rejection, ...]
    bytes_down: Mapping[str, int]
    bytes_up: Mapping[str, int]
    ledger_heads: Mapping[str, str]
    seconds: float = 0.0

    @property
    def reasons(self) -> dict[str, int]:
        """How often each reason was given, by name."""
        return dict(sorted(Counter(item.reason for item in self.rejected).items()))

    def to_json(self) -> dict[str, Any]:
        """Plain values for `run.jsonl` and the snapshot's sidecar."""
        return {
            "round": self.round,
            "accepted": list(self.accepted),
            "rejected": self.reasons,
            "rejections": [
                {"partner": item.partner, "reason": item.reason, "text": item.text} for item in self.rejected
            ],
            "bytes_down": dict(self.bytes_down),
            "bytes_up": dict(self.bytes_up),
            "ledger_heads": dict(self.ledger_heads),
            "seconds": round(self.seconds, 6),
        }


class Journal:
    """Appends events to one file; a line that a crash cut short is closed by the next writer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, event: str, **facts: Any) -> None:
        """Append one event with the time at which it was written (UTC)."""
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"event": event, "at": stamp, **facts}, ensure_ascii=False).encode() + b"\n"
        with self.path.open("ab+") as stream:
            if stream.tell() > 0:
                stream.seek(-1, os.SEEK_END)
                line = line if stream.read(1) == b"\n" else b"\n" + line
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a file, oldest first; a line that a crash cut short is left out, a missing file has none."""
    if not path.is_file():
        return
    for line in path.read_bytes().splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event
