"""Who likes what: the latent story behind the synthetic set, drawn from a seed and nothing else.

The utility of item i for user u is `sum over attributes of liking[u, value of i] + appeal[i]`; a history is a draw
without replacement from the softmax of these utilities (Plackett-Luce, by Gumbel top-n), so the true utilities are
also the best possible ranking. Likings are part regional and part personal, which makes the partners differ (non-IID).

Shapes: U users, I items, A attributes, V values of one attribute, M modalities in the order of `MODALITIES`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmrec_model.config import MODALITIES
from simulations.synthetic.attributes import ATTRIBUTES, REGION_SHARES, REGIONS, SPARSE_ORIGIN, Attribute

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

REGIONAL_SHARE = 0.25
"""Share of the variance of a liking that a user has in common with the region."""
HOME_LIKING = 2.0
"""How many standard deviations a region likes its own items more than others'."""
APPEAL_STRENGTH = 0.5
"""Standard deviation of an item's appeal to everybody, which no medium shows."""
HISTORY_MEDIAN, HISTORY_SPREAD = 12.0, 0.6
SHORTEST_HISTORY = 5
LONGEST_SHARE = 0.25
"""A history holds at most this share of the catalogue."""
MISSING_SHARE = 0.15
"""Share of pictures, sounds and films that are missing at random."""
SPARSE_MISSING_SHARE = 0.75
"""Share of sounds and films that are missing among the items of `SPARSE_ORIGIN`."""
FIRST_SECOND, SPAN_SECONDS = 1_672_531_200, 365 * 86_400
"""Histories begin in the year 2023 (UTC)."""


@dataclass(frozen=True)
class World:
    """One drawn world.

    Attributes:
        values_IA: index of each item's value per attribute, in the order of `ATTRIBUTES`.
        present_IM: whether an item has the medium; text is always there.
        region_U: index into `REGIONS` of each user's home.
        likings: per attribute, the liking of each value by each user, (U, V).
        appeal_I: what everybody adds to the item's utility.
        histories: per user, item indices in order of time.
        times: per user, seconds since 1970, strictly increasing.
    """

    values_IA: Whole
    present_IM: npt.NDArray[np.bool_]
    region_U: Whole
    likings: tuple[Floats, ...]
    appeal_I: Floats
    histories: tuple[Whole, ...]
    times: tuple[Whole, ...]

    def utilities(self, names: Collection[str] | None = None, *, appeal: bool = True) -> Floats:
        """True utilities (U, I), from all attributes or from those named, with or without the common appeal."""
        total_UI = np.zeros((len(self.region_U), len(self.values_IA)))
        for column, attribute in enumerate(ATTRIBUTES):
            if names is None or attribute.name in names:
                total_UI += self.likings[column][:, self.values_IA[:, column]]
        return total_UI + self.appeal_I if appeal else total_UI

    def visible_utilities(self) -> Floats:
        """Utilities (U, I) with the mean liking wherever no medium of the item shows the attribute."""
        total_UI = np.tile(self.appeal_I, (len(self.region_U), 1))
        for column, attribute in enumerate(ATTRIBUTES):
            media = [MODALITIES.index(medium) for medium in attribute.media]
            seen_I = self.present_IM[:, media].any(axis=1)
            liking_UV = self.likings[column]
            total_UI += np.where(seen_I, liking_UV[:, self.values_IA[:, column]], liking_UV.mean(axis=1, keepdims=True))
        return total_UI


def draw_world(users: int, items: int, seed: int) -> World:
    """Draw items, users and histories; equal arguments give equal worlds.

    Args:
        users: at least 1.
        items: at least 20, so that the shortest history stays a small part of the catalogue.
        seed: at least 0.
    """
    rng = np.random.default_rng([seed, 0])
    values_IA = np.stack([rng.integers(len(attribute.values), size=items) for attribute in ATTRIBUTES], axis=1)
    present_IM = _draw_present(rng, values_IA)
    appeal_I = APPEAL_STRENGTH * rng.standard_normal(items)
    region_U = rng.choice(len(REGIONS), size=users, p=REGION_SHARES)
    likings = tuple(_draw_liking(rng, attribute, region_U) for attribute in ATTRIBUTES)
    world = World(values_IA, present_IM, region_U, likings, appeal_I, (), ())
    histories = _draw_histories(rng, world.utilities())
    times = tuple(_draw_times(rng, len(history)) for history in histories)
    return World(values_IA, present_IM, region_U, likings, appeal_I, histories, times)


def _draw_present(rng: np.random.Generator, values_IA: Whole) -> npt.NDArray[np.bool_]:
    missing_IM = np.tile([0.0 if medium == "text" else MISSING_SHARE for medium in MODALITIES], (len(values_IA), 1))
    origin = next(column for column, attribute in enumerate(ATTRIBUTES) if attribute.name == "origin")
    sparse_I = values_IA[:, origin] == REGIONS.index(SPARSE_ORIGIN)
    for medium in ("audio", "video"):
        missing_IM[sparse_I, MODALITIES.index(medium)] = SPARSE_MISSING_SHARE
    return np.asarray(rng.random(missing_IM.shape) >= missing_IM)


def _draw_liking(rng: np.random.Generator, attribute: Attribute, region_U: Whole) -> Floats:
    regional_RV = rng.standard_normal((len(REGIONS), len(attribute.values)))
    if attribute.values == REGIONS:
        regional_RV += HOME_LIKING / np.sqrt(REGIONAL_SHARE) * np.eye(len(REGIONS))
    personal_UV = rng.exponential(size=(len(region_U), len(attribute.values))) - 1.0
    mixed_UV = np.sqrt(REGIONAL_SHARE) * regional_RV[region_U] + np.sqrt(1.0 - REGIONAL_SHARE) * personal_UV
    return np.asarray(attribute.strength * mixed_UV, dtype=np.float64)


def _draw_histories(rng: np.random.Generator, utility_UI: Floats) -> tuple[Whole, ...]:
    users, items = utility_UI.shape
    lengths = np.round(HISTORY_MEDIAN * np.exp(HISTORY_SPREAD * rng.standard_normal(users))).astype(np.int64)
    lengths = np.clip(lengths, SHORTEST_HISTORY, max(SHORTEST_HISTORY, int(LONGEST_SHARE * items)))
    noisy_UI = utility_UI + rng.gumbel(size=utility_UI.shape)
    order_UI = np.argsort(-noisy_UI, axis=1, kind="stable")
    return tuple(rng.permutation(order_UI[user, :length]) for user, length in enumerate(lengths))


def _draw_times(rng: np.random.Generator, length: int) -> Whole:
    start = FIRST_SECOND + int(rng.integers(SPAN_SECONDS))
    gaps = 1 + rng.exponential(3 * 86_400.0, size=length).astype(np.int64)
    return start + np.cumsum(gaps)
