"""A snapshot after every round, and the resume from the newest one that is whole.

`rounds/00012.safetensors` holds the global state, the popularity prior, the clip of the next round (if it adapts) and
the server optimizer's velocity after round 12; `rounds/00012.json` holds its digest, the plan's digest, the enrolled
partners and the facts of the round. Both are written atomically, the JSON last: it is what makes a snapshot exist. A
snapshot whose bytes do not have the digest, or whose arrays do not fit, is damaged; the one before it is used. Nothing
is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mmrec_model.canonical import sha256_hex
from mmrec_model.errors import ModelError
from mmrec_model.protocol import CLIP, KEPT_TERMS, PRIOR, Arrays, state_digest
from mmrec_model.snapshot_names import STATE, VELOCITY
from mmrec_model.storage import write_atomically


@dataclass(frozen=True)
class Snapshot:
    """Everything the coordinator needs to go on after `round`.

    Attributes:
        round: rounds finished; 0 after the popularity release.
        state: the trained arrays.
        prior: float32 [items], standardised log popularity.
        velocity: of the server optimizer, with the names and shapes of `state`.
        partners: enrolled partners and their public numbers of users.
        clip: float32 [1], the clip of the next round; None with flat clipping, and in an export.
        scorer: `arrays_digest` of the collaborative scorer that belongs to the state; empty in a run without one.
        kept_terms: float32 [S], what the gate left in the score; None before it.
    """

    round: int
    state: Arrays
    prior: npt.NDArray[np.float32]
    velocity: Arrays
    partners: Mapping[str, int]
    clip: npt.NDArray[np.float32] | None = None
    scorer: str = ""
    kept_terms: npt.NDArray[np.float32] | None = None

    @property
    def beside(self) -> Arrays:
        """What travels beside the trained arrays: the prior and, where there are any, the clip and the kept terms."""
        given = {PRIOR: self.prior, CLIP: self.clip, KEPT_TERMS: self.kept_terms}
        return {name: array for name, array in given.items() if array is not None}

    @property
    def travelling(self) -> Arrays:
        """What a TRAIN request carries: the trained arrays, the prior and the clip."""
        return {**self.state, **self.beside}

    @property
    def digest(self) -> str:
        """`state_digest` of `travelling` and the scorer: the identity of the global model."""
        return state_digest(self.travelling, self.scorer)


@dataclass
class CheckpointStore:
    """The snapshots of one run.

    Attributes:
        folder: where they lie.
        plan_digest: digest of the run's configuration; snapshots of another plan are refused.
        damaged: files that `newest` passed over, with the reason.
        left_out: rounds whose snapshots `averaged` left out, with the reason.
    """

    folder: Path
    plan_digest: str
    damaged: list[str] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)

    def save(self, snapshot: Snapshot, facts: Mapping[str, Any]) -> None:
        """Write `snapshot`; `facts` are kept beside it as they are."""
        content = save(
            {
                **{STATE + name: array for name, array in snapshot.state.items()},
                **{VELOCITY + name: array for name, array in snapshot.velocity.items()},
                **snapshot.beside,
            }
        )
        sidecar = {
            "round": snapshot.round,
            "sha256": sha256_hex(content),
            "model_digest": snapshot.digest,
            "plan_digest": self.plan_digest,
            "scorer": snapshot.scorer,
            "partners": dict(snapshot.partners),
            "facts": dict(facts),
        }
        write_atomically(self.path(snapshot.round), content)
        write_atomically(self.path(snapshot.round).with_suffix(".json"), json.dumps(sidecar, indent=1).encode())

    def path(self, round_: int) -> Path:
        """The snapshot of a round."""
        return self.folder / f"{round_:05d}.safetensors"

    def load(self, round_: int) -> tuple[Snapshot, dict[str, Any]]:
        """The snapshot of a round and the facts kept beside it.

        Raises:
            ModelError: it is missing or damaged, or belongs to a run with another configuration.
        """
        sidecar = self.path(round_).with_suffix(".json")
        try:
            snapshot = self._read(sidecar)
            facts = json.loads(sidecar.read_bytes())["facts"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise ModelError(
                f"the snapshot of round {round_} cannot be read: {error}", remedy="Train the run again"
            ) from error
        return snapshot, facts

    def averaged(self, snapshot: Snapshot, share: float) -> Snapshot:
        """`snapshot` with the mean of the last rounds' states and without clip: free post-processing, less noise.

        Polyak and Juditsky (1992). A damaged snapshot on the way is left out, and named in `left_out`.

        Args:
            snapshot: the last one of the run.
            share: part of the rounds, counted from the last; 0 returns `snapshot` unchanged.
        """
        first = snapshot.round - round(share * snapshot.round) + 1
        states = [snapshot.state]
        for round_ in range(first, snapshot.round):
            try:
                states.append(self.load(round_)[0].state)
            except ModelError as error:
                self.left_out[round_] = error.problem
        mean: Arrays = {
            name: np.stack([state[name] for state in states]).mean(axis=0, dtype=np.float64).astype(np.float32)
            for name in snapshot.state
        }
        return replace(snapshot, state=mean, clip=None)

    def newest(self) -> Snapshot | None:
        """The last whole snapshot, or None if there is none.

        Raises:
            ModelError: the folder belongs to a run with another configuration.
        """
        for sidecar in sorted(self.folder.glob("*.json"), reverse=True):
            try:
                return self._read(sidecar)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
                self.damaged.append(f"{sidecar.stem}: {error}")
        return None

    def _read(self, sidecar: Path) -> Snapshot:
        facts = json.loads(sidecar.read_bytes())
        if facts["plan_digest"] != self.plan_digest:
            raise ModelError(
                f"{sidecar} belongs to the plan {facts['plan_digest'][:12]}, this run has {self.plan_digest[:12]}",
                remedy="Use a new workspace for a new plan",
            )
        content = sidecar.with_suffix(".safetensors").read_bytes()
        if sha256_hex(content) != facts["sha256"]:
            raise ValueError("the bytes do not have the recorded digest")
        arrays: Arrays = load(content)
        snapshot = Snapshot(
            int(facts["round"]),
            _named(arrays, STATE),
            arrays[PRIOR],
            _named(arrays, VELOCITY),
            {str(name): int(users) for name, users in facts["partners"].items()},
            arrays.get(CLIP),
            str(facts["scorer"]),
        )
        if snapshot.digest != facts["model_digest"]:
            raise ValueError("the arrays do not have the recorded digest")
        return snapshot


def export_state(path: Path, snapshot: Snapshot, scorer: Arrays, *, run_id: str, plan_digest: str) -> None:
    """Write the trained arrays and what is beside them under their plain names; the metadata `run` says whose they are.

    Args:
        path: the file.
        snapshot: the state.
        scorer: what was made of pairs, in a run that has them, else nothing.
        run_id: of the run.
        plan_digest: of its configuration.
    """
    facts = {
        "run_id": run_id,
        "plan_digest": plan_digest,
        "round": snapshot.round,
        "model_digest": snapshot.digest,
    }
    # One key: safetensors writes several in an order that changes from run to run.
    write_atomically(path, save({**snapshot.travelling, **scorer}, metadata={"run": json.dumps(facts)}))


def _named(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
