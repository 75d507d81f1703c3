"""What each priced message is answered with: computed from the site's data, and read back into what it really was.

`client.release` calls these after the charge is on the ledger, and sends nothing that they did not make.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from client import witness
from client.activity import Cut, cut_items
from client.charge import committed_event
from client.comparison import compare
from client.comparison import sensitivity as comparison_sensitivity
from client.lengths import count_users
from client.measurement import measure
from client.measurement import sensitivity as metrics_sensitivity
from client.outbox import Finished
from client.pairs import count_pairs
from client.popularity import count_items, sensitivity
from client.site import Site
from client.training import train_round
from mmrec_model.activity import BOUND as ACTIVITY_BOUND
from mmrec_model.activity import cap_of
from mmrec_model.collaboration.pairs import BOUND
from mmrec_model.config import RunConfig
from mmrec_model.privacy.events import NonPrivate, PrivacyEvent
from mmrec_model.privacy.records import Record
from mmrec_model.protocol import ACTIVITY, CLIP_SHARE, COMPARED, METRICS, PAIRS, SELECTED, WITNESS, Arrays, Kind

Maker: TypeAlias = Callable[[Site, Record, RunConfig, Arrays], Finished]
"""From a site, the reserve on its ledger, the plan and the global state to the finished reply."""


def _make_activity(site: Site, reserve: Record, config: RunConfig, _state: Arrays) -> Finished:
    noise = site.noise(f"activity/{reserve.text('run_id')}/{reserve.whole('attempt')}")
    counts = count_users(site.dataset.train, config.privacy, noise)
    event = committed_event(config, noise_multiplier=config.privacy.activity_noise_multiplier, steps=None)
    return Finished({ACTIVITY: counts}, event, 1, _rng(config, noise.source), _bound(event, ACTIVITY_BOUND))


def _make_popularity(site: Site, reserve: Record, config: RunConfig, state: Arrays) -> Finished:
    noise = site.noise(f"popularity/{reserve.text('run_id')}/{reserve.whole('attempt')}")
    cap = cap_of(config.privacy, state)
    _note(site, reserve, cut_items(site.dataset.train, cap))
    counts = count_items(site.dataset.train, config.features.items, config.privacy, noise, cap=cap)
    event = committed_event(config, noise_multiplier=config.privacy.popularity_noise_multiplier, steps=None)
    bound = _bound(event, sensitivity(cap))
    return Finished({"counts": counts}, event, 1, _rng(config, noise.source), bound)


def _make_update(site: Site, reserve: Record, config: RunConfig, state: Arrays) -> Finished:
    noise = site.noise(f"train/{_place(reserve)}")
    trained = train_round(
        config,
        site.items,
        site.dataset.train,
        state,
        users=site.config.users,
        noise=noise,
        encoder_source=site.config.text_encoder,
        own=site.parts_of(config).own_media(),
        labels=site.dataset.labels(config.model.categories),
    )
    _note(site, reserve, trained.cut)
    event = committed_event(config, noise_multiplier=trained.noise_multiplier, steps=trained.steps)
    arrays = dict(trained.update)
    if trained.witness.size:
        arrays[WITNESS] = trained.witness
    if trained.clip_share is not None:
        arrays[CLIP_SHARE] = np.array([trained.clip_share], np.float32)
    bound = _bound(event, trained.max_grad_norm)
    # Noise that is not right is not even kept: the next request is a new attempt.
    witness.check(site.witness, config, arrays, users=site.config.users, clip=bound)
    return Finished(arrays, event, trained.steps, _rng(config, noise.source), bound)


def _make_metrics(site: Site, reserve: Record, config: RunConfig, state: Arrays) -> Finished:
    asked = config.evaluation
    made = _Measured(METRICS, measure, asked.noise_multiplier, metrics_sensitivity(asked))
    return _measured(site, reserve, config, state, made)


def _make_pairs(site: Site, reserve: Record, config: RunConfig, state: Arrays) -> Finished:
    noise = site.noise(f"pairs/{reserve.text('run_id')}/{reserve.whole('attempt')}")
    pairs = count_pairs(config, site.dataset.train, state, noise, site.bundle.vectors)
    if config.collaboration.items:
        _note(site, reserve, cut_items(site.dataset.train, config.collaboration.history, state[SELECTED]))
    event = committed_event(config, noise_multiplier=config.collaboration.noise_multiplier, steps=None)
    return Finished({PAIRS: pairs}, event, 1, _rng(config, noise.source), _bound(event, BOUND))


def _make_comparison(site: Site, reserve: Record, config: RunConfig, state: Arrays) -> Finished:
    made = _Measured(COMPARED, compare, config.gate.noise_multiplier, comparison_sensitivity(config))
    return _measured(site, reserve, config, state, made)


@dataclass(frozen=True)
class _Measured:
    """A release of noised sums over the users' validation items: its array, how it is computed, noise and bound."""

    name: str
    compute: Callable[..., npt.NDArray[np.float32]]
    noise_multiplier: float
    bound: float


def _measured(site: Site, reserve: Record, config: RunConfig, state: Arrays, made: _Measured) -> Finished:
    noise = site.noise(f"{reserve.text('kind')}/{_place(reserve)}")
    sums = made.compute(
        config,
        site.items,
        site.dataset,
        state,
        noise,
        encoder_source=site.config.text_encoder,
        own=site.parts_of(config).own_media(),
    )
    event = committed_event(config, noise_multiplier=made.noise_multiplier, steps=None)
    return Finished({made.name: sums}, event, 1, _rng(config, noise.source), _bound(event, made.bound))


def _note(site: Site, reserve: Record, cut: Cut) -> None:
    """Whom the bound cut, into the diary: nothing of it is part of what the maker returns."""
    site.note(reserve.text("run_id"), reserve.whole("round"), reserve.text("kind"), cut.to_json())


def _place(reserve: Record) -> str:
    """What makes the noise of a round and an attempt its own."""
    return f"{reserve.text('run_id')}/{reserve.whole('round')}/{reserve.whole('attempt')}"


def _bound(event: PrivacyEvent, value: float) -> float | None:
    return None if isinstance(event, NonPrivate) else value


MAKERS: Final[Mapping[Kind, Maker]] = {
    Kind.ACTIVITY: _make_activity,
    Kind.POPULARITY: _make_popularity,
    Kind.PAIRS: _make_pairs,
    Kind.TRAIN: _make_update,
    Kind.EVALUATE: _make_metrics,
    Kind.COMPARE: _make_comparison,
}
"""One per priced message."""


def _rng(config: RunConfig, source: str) -> str:
    if config.privacy.mechanism == "none":
        return "none"
    return "simulated" if source.endswith("simulation") else source
