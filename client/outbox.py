"""Finished replies, kept until their run is over: a lost message is sent again, byte for byte, never drawn again.

A second answer to the same request would be a second release. The stored one costs nothing, because what it says has
been charged and is the same.
"""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mmrec_model.errors import LedgerError
from mmrec_model.privacy.events import PrivacyEvent, from_record, to_record
from mmrec_model.protocol import Arrays, arrays_digest
from mmrec_model.storage import write_atomically


@dataclass(frozen=True)
class Finished:
    """A computed reply.

    Attributes:
        arrays: what is sent.
        event: the mechanism, read back from what ran.
        steps: private steps taken.
        rng: source of the noise.
        sensitivity: L2 bound of one user's contribution, read back likewise; None without noise.
        origin: digest of the code and the data that made it; empty before it is kept.
    """

    arrays: Arrays
    event: PrivacyEvent
    steps: int
    rng: str
    sensitivity: float | None
    origin: str = ""


def keep(folder: Path, reserve: str, finished: Finished) -> None:
    """Store what was made under a reserve.

    Args:
        folder: the site's outbox.
        reserve: hash of the ledger's reserve record.
        finished: the computed reply.
    """
    facts = {
        "event": to_record(finished.event),
        "steps": finished.steps,
        "rng": finished.rng,
        "sensitivity": finished.sensitivity,
        "origin": finished.origin,
        "digest": arrays_digest(finished.arrays),
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in finished.arrays.items()}
    write_atomically(_path(folder, reserve), save(arrays, metadata={"facts": json.dumps(facts)}))


def find(folder: Path, reserve: str) -> Finished | None:
    """What was stored for a reserve, or None.

    Raises:
        LedgerError: the file is damaged; the reserve stays spent.
    """
    path = _path(folder, reserve)
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as stored:
            facts = json.loads(stored.metadata()["facts"])
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
        if arrays_digest(arrays) != facts["digest"]:
            raise ValueError("the arrays are not those that were stored")
        bound = None if facts["sensitivity"] is None else float(facts["sensitivity"])
        made = from_record(facts["event"]), int(facts["steps"]), str(facts["rng"]), bound, str(facts["origin"])
        return Finished(arrays, *made)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise LedgerError(
            f"the stored reply {path.name} is damaged", remedy="Delete it; its cost stays spent"
        ) from error


def clear(folder: Path, *, but: Container[str]) -> None:
    """Forget stored replies; called when another run begins.

    Args:
        folder: the site's outbox.
        but: hashes of the reserves whose replies never left, and are kept.
    """
    for pattern in ("*.safetensors", ".*.safetensors.*"):  # the second: what a kill during a write leaves behind
        for path in folder.glob(pattern):
            if path.stem not in but:
                path.unlink(missing_ok=True)


def _path(folder: Path, reserve: str) -> Path:
    return folder / f"{reserve}.safetensors"
