"""From the partners' pairs to the collaborative scorer: asked for once, made once, kept in the coordinator's folder.

`scorer.safetensors` holds `scorer` and `selected`; `scorer.json` beside it what was found on the way, for the operator.
Everything here is post-processing of releases that were paid for. A coordinator that was killed in between asks again:
a partner answers the same request with the same bytes, at no further price.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mmrec_model.collaboration.estimate import Vectors, estimate_weights, select_items
from mmrec_model.collaboration.tail import tail_weights
from mmrec_model.config import RunConfig
from mmrec_model.errors import FeatureError, ModelError
from mmrec_model.features.folder import open_bundle
from mmrec_model.protocol import SCORER, SELECTED, TAIL, Arrays, arrays_digest
from mmrec_model.storage import write_atomically
from server.checkpoint import Snapshot

_FILE, _FACTS = "scorer.safetensors", "scorer.json"


def selection(config: RunConfig, snapshot: Snapshot) -> Arrays:
    """What a PAIRS request carries, of the released prior.

    `selected`: places of the most popular items, as many as the plan asks for; `tail`: their weights, if it has any.
    """
    places = select_items(snapshot.prior, config.collaboration.items)
    weight = config.collaboration.tail_weight
    tail = {TAIL: tail_weights(snapshot.prior[places], weight)} if weight else {}
    return {SELECTED: places.astype(np.float32), **tail}


def make_scorer(
    config: RunConfig, features: Path, selected: Arrays, triangle: np.ndarray[Any, Any], noise: float
) -> tuple[Arrays, Mapping[str, Any]]:
    """The scorer and what was found on the way.

    Args:
        config: the plan.
        features: the coordinator's copy of the feature bundle, which pairs are shrunk towards.
        selected: as `selection` gives it.
        triangle: sum of the partners' triangles.
        noise: standard deviation of the noise in each number of it.

    Raises:
        FeatureError: the bundle is damaged, or not the one that the plan names.
    """
    places = selected[SELECTED].astype(np.int64)
    found = estimate_weights(
        triangle,
        _vectors(config, features, places),
        items=config.collaboration.items,
        noise=noise,
        noise_penalty=config.collaboration.noise_penalty,
        weight_M=selected.get(TAIL),
    )
    facts = {"modalities": found.modalities, "penalty": found.penalty, "kept": found.kept, "noise": noise}
    return {SCORER: found.weights_MM, SELECTED: selected[SELECTED]}, facts


def keep(folder: Path, config: RunConfig, scorer: Arrays, facts: Mapping[str, Any]) -> None:
    """Write both files, the scorer last: it is what makes the other count."""
    known = {**facts, "plan_digest": config.digest, "scorer": arrays_digest(scorer)}
    write_atomically(folder / _FACTS, json.dumps(known, indent=1, sort_keys=True).encode())
    write_atomically(folder / _FILE, save(scorer))


def find(folder: Path, config: RunConfig, snapshot: Snapshot) -> Arrays:
    """The scorer that was made before; nothing if there is none yet.

    A scorer of another plan, or a damaged one that no round was trained with, is none: it is made again.

    Raises:
        ModelError: the snapshot belongs to another scorer, or to one that is gone.
    """
    try:
        scorer: Arrays = load((folder / _FILE).read_bytes())
    except (OSError, SafetensorError):
        scorer = {}
    if snapshot.scorer and arrays_digest(scorer) != snapshot.scorer:
        raise ModelError(
            f"{folder / _FILE} is not the scorer {snapshot.scorer[:12]} that round {snapshot.round} was made with",
            remedy="Restore the file, or begin a new run",
        )
    facts = found_facts(folder)
    own = (facts.get("plan_digest"), facts.get("scorer")) == (config.digest, arrays_digest(scorer))
    return scorer if own else {}


def found_facts(folder: Path) -> Mapping[str, Any]:
    """What was found when the scorer was made; nothing without one, or where the file is damaged."""
    try:
        return dict(json.loads((folder / _FACTS).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _vectors(config: RunConfig, features: Path, places: np.ndarray[Any, np.dtype[np.int64]]) -> Vectors:
    bundle = open_bundle(features)
    if bundle.digest != config.features.digest:
        raise FeatureError(
            f"{features} holds bundle {bundle.digest[:12]}, the plan names {config.features.digest[:12]}",
            remedy="Put the run's own feature bundle into the coordinator's workspace",
        )
    return {name: np.asarray(bundle.vectors[name])[places] for name in config.model_dims}
