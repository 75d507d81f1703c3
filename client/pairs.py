"""The pairs release: what stands together in histories, of items, of features or of both, noised once.

Each user's whole data is one vector of L2 length 1 at most (`mmrec_model.collaboration.layout`), however long the
history, so the noise multiplier of the plan is the standard deviation of the noise on every number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mmrec_model.collaboration.feature_map import features_of
from mmrec_model.collaboration.feature_pairs import sum_feature_pairs
from mmrec_model.collaboration.layout import join, released_numbers
from mmrec_model.collaboration.pairs import sum_pairs
from mmrec_model.collaboration.tail import tail_weights_of
from mmrec_model.config import Modality, RunConfig
from mmrec_model.data.histories import Histories
from mmrec_model.errors import ProtocolError
from mmrec_model.privacy.noise import GaussianNoise
from mmrec_model.protocol import FEATURE_MAP, SELECTED, Arrays

Features: TypeAlias = Mapping[Modality, npt.NDArray[np.float32]]


def count_pairs(
    config: RunConfig, histories: Histories, state: Arrays, noise: GaussianNoise, vectors: Features
) -> npt.NDArray[np.float32]:
    """Noised sum of the users' vectors `[T]`.

    Args:
        config: the approved run.
        histories: the partner's train histories.
        state: holds `selected`, the places of the items whose pairs count, `tail` in a plan that weights them, and
            `feature_map`; as far as the plan asks.
        noise: source of the noise.
        vectors: the installed public features by modality; read only in a plan with pairs of features.

    Raises:
        ProtocolError: `selected` is not ascending places of the catalogue, as many as the plan says, `tail` not their
            weights, or the map not of the plan's features and dimensions.
    """
    asked, items = config.collaboration, config.features.items
    everyone = [histories.of(user) for user in range(len(histories))]
    of_items = of_features = np.zeros(0)
    if asked.items:
        place_N, weight_M = _places(state, items, asked.items), tail_weights_of(asked, state)
        of_items = sum_pairs(everyone, place_N, items=asked.items, last=asked.history, weight_M=weight_M)
    if asked.dims:
        of_features = sum_feature_pairs(everyone, _features(config, state, vectors), last=asked.history)
    total_T = join(asked, of_items, of_features)
    if config.privacy.mechanism == "gaussian":
        total_T += noise.draw(released_numbers(asked), asked.noise_multiplier)
    return total_T.astype(np.float32)


def check_pairs(config: RunConfig, state: Arrays) -> None:
    """Refuse, before anything is charged, a request that `count_pairs` would refuse.

    Raises:
        ProtocolError: as `count_pairs`.
    """
    if config.collaboration.items:
        _places(state, config.features.items, config.collaboration.items)
        tail_weights_of(config.collaboration, state)
    if config.collaboration.dims:
        _map(config, state)


def _features(config: RunConfig, state: Arrays, vectors: Features) -> npt.NDArray[np.float64]:
    """The catalogue in the public feature space `[N, D]`."""
    return features_of({name: vectors[name] for name in config.model_dims}, _map(config, state))


def _map(config: RunConfig, state: Arrays) -> npt.NDArray[np.float32]:
    map_FD, shape = state.get(FEATURE_MAP), (sum(config.model_dims.values()), config.collaboration.dims)
    if map_FD is None or map_FD.shape != shape or not np.isfinite(map_FD).all():
        raise ProtocolError(
            f"the request's map of features is not one of shape {shape} with finite numbers",
            remedy="Send the map that the coordinator made for this plan",
        )
    return map_FD


def _places(state: Arrays, items: int, expected: int) -> npt.NDArray[np.int64]:
    """Place of each catalogue item among the selected ones, -1 where it is none."""
    selected = state.get(SELECTED)
    given = np.zeros(0) if selected is None else selected.astype(np.float64)
    whole = given.shape == (expected,) and bool((given == np.floor(given)).all())
    if not (whole and given[0] >= 0 and given[-1] < items and bool((np.diff(given) > 0).all())):
        raise ProtocolError(
            f"the request selects {given.size} items, the plan says {expected} ascending places below {items}",
            remedy="Send the items that the plan's popularity release selects",
        )
    place_N = np.full(items, -1, dtype=np.int64)
    place_N[given.astype(np.int64)] = np.arange(expected)
    return place_N
