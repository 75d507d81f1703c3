"""Central evaluation of a simulated federation, where the data of all partners belongs to whoever runs it.

Protocol: the held-out items of a panel (`simulations.panels`), ranked against the whole catalogue. The rest of the
protocol is `simulations.quality`. Nothing computed here is a release of a partner; none of it reaches the coordinator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from client.site import Site
from mmrec_model.config import RunConfig
from mmrec_model.evaluation.baselines import EASE, MAX_ITEMS, ItemKNN, Popularity, Recommender, scorer
from mmrec_model.evaluation.ranking import Ranks, ranking_metrics
from mmrec_model.evaluation.ranking import standard_errors as standard_errors_of
from mmrec_model.ladder import rungs_of
from mmrec_model.model.items import Items
from mmrec_model.model.state import model_of_state, state_of_rung
from mmrec_model.protocol import PRIOR, Arrays
from simulations.panels import Bools, Panel, Part, model_on_histories, panel_of, with_new_items
from simulations.run_record import Metrics

__all__ = [
    "FLOORS", "Panel", "Part", "all_errors", "all_metrics", "baseline_ranks", "errors", "fit_baselines",
    "floor_ranks", "metrics", "model_ranks", "of_partner", "own_media", "panel_of", "ranks_with_new_items",
    "upper_rung_ranks",
]  # fmt: skip


def own_media(sites: Sequence[Site], config: RunConfig) -> list[Items]:
    """Per partner, its users' own media; empty in a run that reads none."""
    found = [site.parts_of(config).own_media() for site in sites]
    return [media for media in found if media is not None]


def model_ranks(config: RunConfig, items: Items, panel: Panel, state: Arrays) -> Ranks:
    """Ranks of a panel's held-out items under a global state.

    Args:
        config: the run.
        items: the whole catalogue.
        panel: the users.
        state: the trained arrays and what travels beside them.
    """
    return panel.rank(panel.model_scorer(model_of_state(config, state), items.with_prior(state[PRIOR])))


def ranks_with_new_items(config: RunConfig, items: Items, panel: Panel, state: Arrays, new_N: Bools) -> Ranks:
    """As `model_ranks`, with one place in ten kept for new items by the free content profile."""
    catalogue = items.with_prior(state[PRIOR])
    score, content = (
        model_on_histories(model_of_state(config, one), catalogue)
        for one in (state, state_of_rung(config, state, "content"))
    )
    return panel.rank(panel.scorer(with_new_items(score, content, new_N)))


def fit_baselines(panel: Panel) -> dict[str, Recommender]:
    """Non-private recommenders that see everybody's train rows: what centralising the data would reach."""
    found: dict[str, Recommender] = {"popularity": Popularity().fit(panel.train)}
    if panel.task.n_items <= MAX_ITEMS:
        found |= {"item_knn": ItemKNN().fit(panel.train), "ease": EASE().fit(panel.train)}
    return found


def baseline_ranks(panel: Panel) -> dict[str, Ranks]:
    """Their ranks on the panel."""
    return {name: panel.rank(scorer(fitted, panel.rows)) for name, fitted in fit_baselines(panel).items()}


FLOORS = {"popularity": "popularity_dp", "content": "free_content", "free": "free_content_with_prior"}
"""Rungs of the ladder that cost nothing, or one small release, and what a report calls them."""


def floor_ranks(config: RunConfig, items: Items, panel: Panel, state: Arrays) -> dict[str, Ranks]:
    """What costs nothing, or one small release: a trained model has to beat the best of these.

    Args:
        config: the run.
        items: the whole catalogue.
        panel: the users.
        state: any global state of the run.
    """
    return {
        name: model_ranks(config, items, panel, state_of_rung(config, state, rung)) for rung, name in FLOORS.items()
    }


def upper_rung_ranks(config: RunConfig, items: Items, panel: Panel, state: Arrays) -> dict[str, Ranks]:
    """The rungs of the plan above the floors, by name; the last one is what was trained, if anything was."""
    return {
        rung: model_ranks(config, items, panel, state_of_rung(config, state, rung))
        for rung in rungs_of(config)
        if rung not in FLOORS
    }


def metrics(found: Ranks) -> Metrics:
    """Ranking metrics of a panel."""
    return Metrics(**ranking_metrics(found))


def errors(found: Ranks) -> Metrics:
    """Their standard errors over users."""
    return Metrics(**standard_errors_of(found))


def of_partner(found: Ranks, panel: Panel, number: int) -> Metrics | None:
    """Metrics of one partner's users; None where it has none in the panel."""
    mine = panel.partner_U == number
    return metrics(found.take(mine)) if mine.any() else None


def all_metrics(found: Mapping[str, Ranks]) -> dict[str, Metrics]:
    """Metrics by name."""
    return {name: metrics(rank) for name, rank in found.items()}


def all_errors(found: Mapping[str, Ranks]) -> dict[str, Metrics]:
    """Standard errors by name."""
    return {name: errors(rank) for name, rank in found.items()}
