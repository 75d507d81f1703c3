"""Real, enrolled sites over a small catalogue of random vectors, for trials that need many and cannot wait.

No encoder runs. Noise comes from the operating system, as at a partner.
"""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from client.policy import Policy
from client.pricing import price
from client.site import Site, SiteConfig, enrol
from mmrec_model.canonical import canonical_json
from mmrec_model.config import ModelConfig, PrivacyConfig, RunConfig, TrainingConfig
from mmrec_model.data.writing import write_partner
from mmrec_model.features.folder import open_bundle, write_bundle
from mmrec_model.features.signature import sign_bundle
from mmrec_model.planning import plan_events, training_event
from mmrec_model.storage import write_atomically
from server.sites import KEY, coordinator_key, write_partners

NAME = "north"
_ITEMS, _USERS, _HISTORY, _WIDTH = 40, 30, 6, 10
_DELTA = 1e-3
_AMPLE = 100.0
_SLACK = 1.02


@dataclass(frozen=True)
class SmallSites:
    """Two enrolled templates to copy: one with ample budget, one that can pay for one lost round."""

    folder: Path
    config: RunConfig

    @property
    def plan(self) -> Path:
        """The run as JSON."""
        return self.folder / "plan.json"

    def copy(self, name: str, *, tight: bool = False) -> Path:
        """A new site folder, with its own ledger."""
        target = self.folder / "sites" / name
        shutil.copytree(self.folder / "templates" / ("tight" if tight else "ample"), target)
        return target

    def copy_with_coordinator(self, name: str, *, tight: bool = False) -> tuple[Path, Path]:
        """A new site folder whose ledger names a coordinator, and that coordinator's folder."""
        target = self.folder / "sites" / name
        shutil.copytree(self.folder / "templates" / ("tight-signed" if tight else "ample-signed"), target)
        coordinator = self.folder / "coordinators" / name
        coordinator.mkdir(parents=True)
        shutil.copy(self.folder / "templates" / "coordinator" / KEY, coordinator / KEY)
        write_partners(coordinator, {NAME: Site.open(target).public_key})
        return target, coordinator


def make_small_sites(folder: Path, *, user: str = "u") -> SmallSites:
    """Write catalogue, bundle, plan and templates into `folder`; user ids start with `user`."""
    _write_public(folder)
    config = _plan(folder)
    write_atomically(folder / "plan.json", config.model_dump_json().encode())
    one_round = training_event(config.privacy, config.training, rounds=1)
    tight = _SLACK * price((*plan_events(config), one_round), _DELTA)
    key = coordinator_key(folder / "templates" / "coordinator")
    sign_bundle(folder / "features", key)
    trusted = key.public.hexadecimal
    for name, epsilon, coordinator in (
        ("ample", _AMPLE, None),
        ("tight", tight, None),
        ("ample-signed", _AMPLE, trusted),
        ("tight-signed", tight, trusted),
    ):
        root = folder / "templates" / name
        write_partner(root / "data", interactions=_interactions(user))
        settings = SiteConfig(
            name=NAME,
            catalogue=str((folder / "items").resolve()),
            features=str((folder / "features").resolve()),
            users=_USERS,
            coordinator_key=coordinator,
        )
        enrol(root, settings, Policy(max_epsilon=epsilon, max_delta=_DELTA, require_approval=False))
    return SmallSites(folder, config)


def _plan(folder: Path) -> RunConfig:
    return RunConfig(
        run_id="run-1",
        seed=0,
        features=open_bundle(folder / "features").spec,
        model=ModelConfig(hidden=4, trained_dims=6),
        training=TrainingConfig(rounds=3, local_steps=1, max_history=4, negatives=3, sample_rate=0.3, micro_batch=64),
        privacy=PrivacyConfig(epsilon=4.0, delta=_DELTA, noise_multiplier=1.5, popularity_noise_multiplier=3.0),
    )


def _write_public(folder: Path) -> None:
    ids = [f"i{number}" for number in range(_ITEMS)]
    items = pa.table({"item_id": ids, "title": ids, "text": ids})
    write_partner(folder / "items", interactions=_interactions("u"), items=items)
    vectors = np.random.default_rng(5).normal(size=(_ITEMS, _WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    present = np.ones((_ITEMS, 1), dtype=bool)
    files = {"items.json": canonical_json(list(ids)), "present.npy": _npy(present), "text.npy": _npy(vectors)}
    write_bundle(folder / "features", files, {"items": _ITEMS, "modalities": {}})


def _interactions(prefix: str) -> pa.Table:
    rng = np.random.default_rng(sum(prefix.encode()))
    rows = [
        (f"{prefix}{user}", f"i{item}", 1.6e9 + place)
        for user in range(_USERS)
        for place, item in enumerate(rng.choice(_ITEMS, size=_HISTORY, replace=False))
    ]
    names = ("user_id", "item_id", "timestamp")
    return pa.table({name: [row[column] for row in rows] for column, name in enumerate(names)})


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
