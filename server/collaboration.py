"""From the partners' pairs to the collaborative scorer: asked for once, made once, kept in the coordinator's folder.

`scorer.safetensors` holds `scorer` and `selected`, `metric` and `feature_map`, as far as the plan has them;
`scorer.json` beside it what was found on the way, for the operator; `map-PLAN.safetensors` the map of features that
partners are asked with.
Everything here is post-processing of releases that were paid for. A coordinator that was killed in between asks again:
a partner answers the same request with the same bytes, at no further price. The map is kept because another machine
would make another one, to the last bits, and that would be another request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mmrec_model.collaboration.estimate import Vectors, estimate_weights, select_items
from mmrec_model.collaboration.feature_map import features_of, make_map
from mmrec_model.collaboration.layout import Part, part
from mmrec_model.collaboration.metric import estimate_metric
from mmrec_model.collaboration.tail import tail_weights
from mmrec_model.config import RunConfig
from mmrec_model.errors import FeatureError, ModelError
from mmrec_model.features.folder import open_bundle
from mmrec_model.protocol import FEATURE_MAP, METRIC, SCORER, SELECTED, TAIL, Arrays, arrays_digest
from mmrec_model.storage import write_atomically
from server.checkpoint import Snapshot

_FILE, _FACTS = "scorer.safetensors", "scorer.json"


def selection(folder: Path, config: RunConfig, snapshot: Snapshot, features: Path) -> Arrays:
    """What the partners are asked with.

    `selected`: places of the most popular items, as many as the plan asks for, of the released prior; `tail`: their
    weights, if it has any; `feature_map`: from the vectors of the catalogue to the plan's dimensions, made once and
    kept.

    Args:
        folder: the coordinator's.
        config: the plan.
        snapshot: holds the released prior.
        features: the coordinator's copy of the feature bundle.

    Raises:
        FeatureError: the bundle is damaged, or not the one that the plan names.
    """
    asked: Arrays = {}
    if config.collaboration.items:
        places, weight = select_items(snapshot.prior, config.collaboration.items), config.collaboration.tail_weight
        asked[SELECTED] = places.astype(np.float32)
        if weight:
            asked[TAIL] = tail_weights(snapshot.prior[places], weight)
    if config.collaboration.dims:
        asked[FEATURE_MAP] = _map(folder / f"map-{config.digest}.safetensors", config, features)
    return asked


def _map(path: Path, config: RunConfig, features: Path) -> npt.NDArray[np.float32]:
    kept = _load(path)
    if FEATURE_MAP not in kept:
        kept = {FEATURE_MAP: make_map(_vectors(config, features), config.collaboration.dims)}
        write_atomically(path, save(kept))
    return kept[FEATURE_MAP]


def make_scorer(  # noqa: PLR0917 - the parts of one round
    config: RunConfig,
    features: Path,
    selected: Arrays,
    released: np.ndarray[Any, Any],
    noise: float,
    prior: npt.NDArray[np.float32],
) -> tuple[Arrays, Mapping[str, Any]]:
    """The scorer, the metric, and what was found on the way.

    Args:
        config: the plan.
        features: the coordinator's copy of the feature bundle, which pairs are shrunk towards.
        selected: as `selection` gives it.
        released: sum of the partners' releases.
        noise: standard deviation of the noise in each number of it.
        prior: the released popularity.

    Raises:
        FeatureError: the bundle is damaged, or not the one that the plan names.
    """
    vectors, (of_items, of_features) = _vectors(config, features), part(config.collaboration, released, noise)
    made = {name: array for name, array in selected.items() if name != TAIL}
    facts = dict[str, Any](noise=noise)
    if config.collaboration.items:
        made[SCORER], found = _scorer(config, vectors, selected, of_items)
        facts |= found
    if config.collaboration.dims:
        space = features_of(vectors, selected[FEATURE_MAP])
        metric = estimate_metric(of_features.triangle, space, prior, noise=of_features.noise)
        made[METRIC] = metric.weights_DD
        facts |= {"metric_kept": metric.kept, "metric_similarity": metric.similarity}
    return made, facts


def _scorer(
    config: RunConfig, vectors: Vectors, selected: Arrays, of_items: Part
) -> tuple[npt.NDArray[np.float32], Mapping[str, Any]]:
    places = selected[SELECTED].astype(np.int64)
    found = estimate_weights(
        of_items.triangle,
        {name: rows[places] for name, rows in vectors.items()},
        items=config.collaboration.items,
        noise=of_items.noise,
        noise_penalty=config.collaboration.noise_penalty,
        weight_M=selected.get(TAIL),
    )
    return found.weights_MM, {"modalities": found.modalities, "penalty": found.penalty, "kept": found.kept}


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
    scorer = _load(folder / _FILE)
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


def _load(path: Path) -> Arrays:
    """The arrays of a file; nothing where it is absent or damaged."""
    try:
        found: Arrays = load(path.read_bytes())
    except (OSError, SafetensorError):
        return {}
    return found


def _vectors(config: RunConfig, features: Path) -> Vectors:
    bundle = open_bundle(features)
    if bundle.digest != config.features.digest:
        raise FeatureError(
            f"{features} holds bundle {bundle.digest[:12]}, the plan names {config.features.digest[:12]}",
            remedy="Put the run's own feature bundle into the coordinator's workspace",
        )
    return {name: np.asarray(bundle.vectors[name]) for name in config.model_dims}
