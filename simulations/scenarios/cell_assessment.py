"""What a finished cell is measured with: its exported model, the floors below it and, where there is a gate, its rungs.

Two conventions of the test stand beside each other for a cell with rungs: the history holds the train and validation
items, as everywhere in this project, or the train items alone, as in most published figures
(`train_items_alone`). The candidates are the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from client.pricing import price
from client.site import Site
from mmrec_model.canonical import canonical_json, sha256_hex
from mmrec_model.config import RunConfig
from mmrec_model.data.dataset import PartnerDataset
from mmrec_model.data.split_rules import cold_items
from mmrec_model.evaluation.ranking import Ints, Ranks, chance_level, chance_of, paired_difference, per_user
from mmrec_model.model.items import Items
from mmrec_model.planning import plan_events
from mmrec_model.protocol import Arrays, trained_arrays
from server.journal import read_journal
from simulations.assessment import (
    Panel,
    Part,
    all_metrics,
    errors,
    floor_ranks,
    metrics,
    model_ranks,
    ranks_with_new_items,
    upper_rung_ranks,
)
from simulations.at_home import join_at_home
from simulations.panels import Bools, panel_of
from simulations.record import final_state, spent_epsilon
from simulations.run_record import Metrics, Verdict
from simulations.scenarios.grid_record import (
    EXPORTED,
    CellLadder,
    CellRecord,
    ColdRecord,
    Estimate,
    Traffic,
)
from simulations.scenarios.interface import Cell
from simulations.workspace import Recipe

CHANCE = "chance"
TRAIN_ITEMS_ALONE = "train_items_alone"
"""The exported model where the validation item is no input."""
NEW_PLACES = "new_places"
"""The exported model with one place in ten of every list kept for new items, where a cell holds some out."""
AT_HOME = "at_home"
"""The exported model with each partner's own terms, where there are several partners."""

Systems = dict[str, Ranks]


@dataclass
class Measures:
    """What cells are measured with, made once: the users of a partition, and the floors of what a model may read."""

    panels: dict[tuple[str, str], Panel] = field(default_factory=dict)
    floors: dict[str, Systems] = field(default_factory=dict)

    def panel(self, data: str, sites: Sequence[Site], part: Part) -> Panel:
        """All users with a held-out item of `part`; the same in every cell with the data of this digest."""
        if (data, part) not in self.panels:
            self.panels[data, part] = panel_of([site.dataset for site in sites], part)
        return self.panels[data, part]

    def floors_of(self, data: str, config: RunConfig, items: Items, test: Panel, state: Arrays) -> Systems:
        """The floors; families that fuse vectors share one untrained model, which reads no trained weight."""
        trained = set() if config.model.fusion == "decision" else {"fusion", "fusion_layers", "fusion_heads"}
        model = canonical_json(config.model_dump(mode="json", exclude={"model": trained}))
        key = sha256_hex(data.encode() + model)
        if key not in self.floors:
            self.floors[key] = floor_ranks(config, items, test, state)
        return self.floors[key]


@dataclass(frozen=True)
class Finished:
    """A cell whose federation has run, and the digest of its data."""

    cell: Cell
    recipe: Recipe
    config: RunConfig
    sites: Sequence[Site]
    data: str

    @property
    def items(self) -> Items:
        """The catalogue as the cell's model reads it."""
        return self.sites[0].items.only(self.config.model_dims)

    @property
    def events(self) -> list[dict[str, Any]]:
        """What the coordinator noted."""
        return list(read_journal(self.recipe.out / "coordinator" / "run.jsonl"))


def assess_cell(done: Finished, measures: Measures) -> tuple[CellRecord, dict[str, list[int]]]:
    """The record of a cell but for its seconds, and the ranks of its systems by user."""
    config, state, items = done.config, final_state(done.recipe.out), done.items
    test, validation = (measures.panel(done.data, done.sites, part) for part in ("test", "val"))
    ranks = model_ranks(config, items, test, state)
    floors = measures.floors_of(done.data, config, items, test, state)
    levels = all_metrics(floors)
    best = max(levels, key=lambda name: levels[name].ndcg_at_10)
    gap = paired_difference(ranks, floors[best], "ndcg_at_10", seed=config.seed)
    chosen = model_ranks(config, items, validation, state)
    systems: Systems = {EXPORTED: ranks}
    ladder = None
    if config.gate.metric is not None:
        systems |= {**floors, **upper_rung_ranks(config, items, test, state)}
        systems[TRAIN_ITEMS_ALONE] = _train_items_alone(done, state)
        if (new_N := _new_items(done)).any():
            systems[NEW_PLACES] = ranks_with_new_items(config, items, test, state, new_N)
        known: Systems = {EXPORTED: chosen}
        if len(done.sites) > 1:
            datasets = [site.dataset for site in done.sites]
            joined = join_at_home(config, items, datasets, validation, test, state=state)
            systems[AT_HOME], known[AT_HOME] = joined.test, joined.rank(validation)
        ladder = _ladder(done, state, systems, known, measures)
    rounds = [event for event in done.events if event.get("event") == "round"]
    rejected: Counter[str] = Counter()
    for event in rounds:
        rejected.update(event["rejected"])
    record = CellRecord(
        name=done.cell.name,
        axes=dict(done.cell.axes),
        plan_digest=config.digest,
        weights=sum(array.size for array in trained_arrays(state).values()),
        epsilon=None if config.privacy.mechanism == "none" else price(plan_events(config), config.privacy.delta),
        replies=sum(len(event["accepted"]) for event in rounds),
        rejected=dict(rejected),
        validation=metrics(chosen),
        test=metrics(ranks),
        standard_errors=errors(ranks),
        floors={CHANCE: Metrics(**chance_level(ranks)), **levels},
        verdict=Verdict(best_floor=best, metric="ndcg_at_10", difference=gap.mean, low=gap.low, high=gap.high),
        ladder=ladder,
        seconds=0.0,
    )
    order = user_order([site.dataset for site in done.sites], test)
    return record, {name: found.rank_U[order].tolist() for name, found in systems.items()}


def user_order(datasets: Sequence[PartnerDataset], panel: Panel) -> Ints:
    """The panel's users in the order of their ids, so that users of two partitions stand side by side."""
    ids_A = np.array([user for data in datasets for user in data.user_ids])
    return np.argsort(ids_A[panel.train_rows_U])


def _ladder(done: Finished, state: Arrays, systems: Systems, chosen: Systems, measures: Measures) -> CellLadder:
    """What the gate saw and chose, what it cost, and what every rung reaches."""
    config, items, panel = done.config, done.items, measures.panel(done.data, done.sites, "val")
    gate = next(event for event in done.events if event.get("event") == "gate")
    released = {} if gate["measured"] is None else gate["measured"]["metrics"]
    rungs = floor_ranks(config, items, panel, state) | upper_rung_ranks(config, items, panel, state)
    return CellLadder(
        rung=gate["rung"],
        metric=gate["metric"],
        released={name: Estimate(**mean) for name, mean in released.items()},
        spent=None
        if config.privacy.mechanism == "none"
        else max(spent_epsilon(site, config.privacy.delta) for site in done.sites),
        pairs=config.collaboration.items,
        traffic=_traffic(done.events),
        validation=all_metrics({**chosen, **rungs}),
        test=all_metrics(systems),
        cold=_cold(done, state, systems, measures),
    )


def _train_items_alone(done: Finished, state: Arrays) -> Ranks:
    """The exported model under the published convention."""
    shown = panel_of([site.dataset for site in done.sites], "test", train_items_alone=True)
    return model_ranks(done.config, done.items, shown, state)


def _traffic(events: Sequence[Mapping[str, Any]]) -> dict[str, Traffic]:
    """The largest message of each kind of wave, in both directions."""
    waves: dict[str, Traffic] = {}
    for event in events:
        if "bytes_up" in event:
            seen = waves.get(event["event"], Traffic(up=0, down=0))
            waves[event["event"]] = Traffic(
                up=max([seen.up, *event["bytes_up"].values()]), down=max([seen.down, *event["bytes_down"].values()])
            )
    return waves


def _cold(done: Finished, state: Arrays, systems: Systems, measures: Measures) -> dict[str, ColdRecord]:
    """Items that nobody trained on: a panel of its own where the cell holds some out, else those that happen to be."""
    config, items = done.config, done.items
    if (new_N := _new_items(done)).any():
        panel = measures.panel(done.data, done.sites, "cold")
        if not panel.histories:
            return {}
        floors = floor_ranks(config, items, panel, state)
        found = {EXPORTED: model_ranks(config, items, panel, state), **floors}
        found |= upper_rung_ranks(config, items, panel, state)
        found[NEW_PLACES] = ranks_with_new_items(config, items, panel, state, new_N)
    else:
        panel = measures.panel(done.data, done.sites, "test")
        untrained_T = panel.counts_N[panel.task.flat_targets] == 0
        found = {name: ranks.only(untrained_T)[0] for name, ranks in systems.items()}
    return {name: _recall(ranks) for name, ranks in found.items() if ranks.rank_U.size}


def _new_items(done: Finished) -> Bools:
    """Items that the split holds out: a public fact of their ids."""
    ids, split = done.sites[0].dataset.catalogue.item_ids, done.recipe.split
    new_N = np.zeros(len(ids), dtype=np.bool_)
    if split is not None:
        new_N[cold_items(ids, split.cold_share, split.cold_seed)] = True
    return new_N


def _recall(found: Ranks) -> ColdRecord:
    values_U = per_user(found, "recall_at_10")
    error = float(values_U.std() / np.sqrt(values_U.size))
    return ColdRecord(
        users=values_U.size,
        recall=Estimate(value=float(values_U.mean()), error=error),
        chance=chance_of(found, "recall_at_10"),
    )
