"""From a trained workspace to its `RunRecord`: read the coordinator's journal, the sites' ledgers, and assess."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import cast

from pydantic import JsonValue
from safetensors.numpy import load

from client.pricing import price
from client.site import Site
from mmrec_model.config import RunConfig
from mmrec_model.errors import ModelError
from mmrec_model.evaluation.ranking import Ranks, chance_level, paired_difference
from mmrec_model.features.bundle import FeatureBundle
from mmrec_model.model.recommender import RecommenderNetwork
from mmrec_model.model.scope import trained_share
from mmrec_model.model.scoring import encode_catalogue
from mmrec_model.model.state import model_of_state, state_of_rung
from mmrec_model.planning import (
    activity_event,
    evaluation_event,
    pairs_event,
    plan_events,
    popularity_event,
    training_event,
)
from mmrec_model.privacy.accounting import epsilon
from mmrec_model.privacy.events import PrivacyEvent, Relation, from_record, merge, to_record
from mmrec_model.privacy.gaussian_dp import gaussian_mu
from mmrec_model.privacy.keys import SigningKey
from mmrec_model.privacy.ledger import read_ledger
from mmrec_model.protocol import COLLABORATIVE, PRIOR, Arrays
from server.checkpoint import CheckpointStore
from server.journal import read_journal
from simulations.assessment import (
    FLOORS,
    Panel,
    all_errors,
    all_metrics,
    errors,
    metrics,
    model_ranks,
    of_partner,
    own_media,
    upper_rung_ranks,
)
from simulations.head_assessment import assess_heads
from simulations.joining_record import alone_record, home_record, joining_record
from simulations.ladder_record import ladder_record
from simulations.progress import Progress
from simulations.released_metrics import evaluation_records
from simulations.run_record import (
    DataFacts,
    FeatureFacts,
    LadderRecord,
    Metrics,
    ModalityFacts,
    ModelFacts,
    PartnerRecord,
    PrivacyRecord,
    RoundRecord,
    RunRecord,
    Verdict,
    Versions,
)
from simulations.standing import Standing
from simulations.synthetic.answer import FILE_NAME as KNOWN_ANSWER
from simulations.synthetic.answer import KnownAnswer
from simulations.workspace import Recipe

CURVE_USERS = 2000
"""Validation users of the curve over rounds; the final figures use every test user."""


@dataclass(frozen=True)
class Outcome:
    """A trained workspace and how it came about."""

    config: RunConfig
    bundle: FeatureBundle
    sites: Sequence[Site]
    recipe: Recipe
    command: str
    name: str

    @property
    def coordinator(self) -> Path:
        """The coordinator's folder."""
        return self.recipe.out / "coordinator"

    @property
    def private(self) -> bool:
        """Whether the run added noise."""
        return self.config.privacy.mechanism != "none"


def final_state(out: Path) -> Arrays:
    """The trained arrays and what travels beside them, as the coordinator exported them."""
    return load((out / "coordinator" / "final.safetensors").read_bytes())


def scorer_of(state: Arrays) -> Arrays:
    """The collaborative scorer of a state, which snapshots only name; nothing in a run without one."""
    return {name: state[name] for name in COLLABORATIVE if name in state}


def build_record(outcome: Outcome, validation: Panel, test: Panel, standing: Standing, progress: Progress) -> RunRecord:
    """Assess a finished run.

    Args:
        outcome: the trained workspace.
        validation: for the curve over rounds.
        test: for the final figures.
        standing: what was ranked on it.
        progress: told about rounds assessed.
    """
    state = final_state(outcome.recipe.out)
    items = outcome.sites[0].items
    found, floors, baselines = standing.exported.ranks, standing.floors, standing.baselines
    trained = model_of_state(outcome.config, state)
    return RunRecord(
        command=outcome.command,
        version=software(),
        config=outcome.config.model_dump(mode="json"),
        data=_data(outcome),
        features=_features(outcome.bundle),
        model=_trained_part(outcome.config, trained),
        partners=_partners(outcome, test, standing),
        metrics=metrics(found),
        standard_errors=errors(found),
        users_evaluated=len(test.histories),
        floors={"chance": Metrics(**chance_level(found)), **all_metrics(floors)},
        baselines=all_metrics(baselines),
        floor_standard_errors=all_errors(floors),
        baseline_standard_errors=all_errors(baselines),
        verdict=_verdict(found, floors, outcome.config.seed),
        alone=joining_record(found, standing.alone, test, outcome.config.seed),
        joined=None
        if standing.joined is None
        else joining_record(standing.joined.test, standing.alone, test, outcome.config.seed),
        heads=assess_heads(
            [site.dataset for site in outcome.sites],
            test,
            trained,
            encode_catalogue(trained, items.with_prior(state[PRIOR])),
            own_media(outcome.sites, outcome.config),
        ),
        rounds=_rounds(outcome, validation.sample(CURVE_USERS, outcome.config.seed), progress),
        evaluations=evaluation_records(
            outcome.config,
            outcome.coordinator,
            state,
            lambda arrays: model_ranks(outcome.config, items, validation, arrays | scorer_of(state)),
        ),
        ladder=_ladder(outcome, validation, test, state, floors),
        seconds={},
        privacy=_privacy(outcome),
        wall_seconds=0.0,
    )


def software() -> Versions:
    """What computes this run."""
    names = ("mmrec", "torch", "flwr", "opacus")
    return Versions(python=platform.python_version(), **{name: version(name) for name in names})


def _data(outcome: Outcome) -> DataFacts:
    quarantined: Counter[str] = Counter()
    interactions = 0
    for site in outcome.sites:
        data = site.dataset
        quarantined.update(data.report.quarantined)
        interactions += len(data.train.items) + len(data.val_items.items) + len(data.test_items.items)
    quarantined.update(outcome.sites[0].dataset.catalogue.report.quarantined)
    known = (outcome.recipe.data / KNOWN_ANSWER).is_file()
    return DataFacts(
        name=outcome.name,
        users=sum(site.config.users for site in outcome.sites),
        items=len(outcome.bundle.item_ids),
        interactions=interactions,
        partners=len(outcome.sites),
        quarantined=dict(sorted(quarantined.items())),
        known_answer=asdict(KnownAnswer.load(outcome.recipe.data)) if known else None,
    )


def _features(bundle: FeatureBundle) -> FeatureFacts:
    facts = {}
    for name, entry in bundle.manifest["modalities"].items():
        encoder = entry["encoder"]
        facts[name] = ModalityFacts(
            encoder=encoder["name"],
            note=encoder["note"],
            dim=encoder["dim"],
            dims=entry["dims"],
            present=entry["encoded"],
            missing=entry["missing"] + entry["corrupt"],
        )
    return FeatureFacts(digest=bundle.digest, modalities=facts, encoded_now=bundle.encoded)


def _trained_part(config: RunConfig, model: RecommenderNetwork) -> ModelFacts:
    share = trained_share(model)
    return ModelFacts(scope=config.model.scope, trained_weights=share.trained, weights=share.weights)


def _partners(outcome: Outcome, test: Panel, standing: Standing) -> list[PartnerRecord]:
    up, down = Counter[str](), Counter[str]()
    for event in read_journal(outcome.coordinator / "run.jsonl"):
        up.update(event.get("bytes_up", {}))
        down.update(event.get("bytes_down", {}))
    records = []
    for number, site in enumerate(outcome.sites):
        spent = _spent(site)
        of_floor = {name: of_partner(ranks, test, number) for name, ranks in standing.floors.items()}
        records.append(
            PartnerRecord(
                name=site.config.name,
                users=site.config.users,
                epsilon=_exact(spent, outcome.config.privacy.delta, "zero_out") if outcome.private else None,
                delta=outcome.config.privacy.delta if outcome.private else None,
                epsilon_replace_one=_exact(spent, outcome.config.privacy.delta, "replace_one")
                if outcome.private
                else None,
                bytes_up=up[site.config.name],
                bytes_down=down[site.config.name],
                seconds=_worked(site),
                metrics=of_partner(standing.exported.ranks, test, number),
                floor_metrics={name: value for name, value in of_floor.items() if value is not None},
                alone=alone_record(standing.alone, test, number),
                home=home_record(standing.joined, test, number),
            )
        )
    return records


def _worked(site: Site) -> float:
    """Wall seconds of the site's own work, from its diary."""
    return float(sum(entry.get("seconds", 0.0) for entry in site.noted()))


def _spent(site: Site) -> tuple[PrivacyEvent, ...]:
    """What the partner's own verified ledger says was charged."""
    key = SigningKey.load(site.root / "key.pem").public
    records = read_ledger(site.root / "ledger.jsonl", key)
    return merge(from_record(record.charge) for record in records if record.charge is not None)


def spent_epsilon(site: Site, delta: float) -> float:
    """Epsilon, zero-out, of all that a partner's own verified ledger was charged."""
    return _exact(_spent(site), delta, "zero_out")


@lru_cache(maxsize=64)
def _exact(events: tuple[PrivacyEvent, ...], delta: float, relation: Relation) -> float:
    return epsilon(events, delta, relation)


def _verdict(found: Ranks, floors: Mapping[str, Ranks], seed: int) -> Verdict:
    best = max(floors, key=lambda name: metrics(floors[name]).ndcg_at_10)
    difference = paired_difference(found, floors[best], "ndcg_at_10", seed=seed)
    return Verdict(
        best_floor=best, metric="ndcg_at_10", difference=difference.mean, low=difference.low, high=difference.high
    )


def _ladder(
    outcome: Outcome, validation: Panel, test: Panel, state: Arrays, floors: Mapping[str, Ranks]
) -> LadderRecord:
    """Every rung of the state before the gate, which may have exported less than was trained."""
    config, items = outcome.config, outcome.sites[0].items
    store = CheckpointStore(outcome.coordinator / "rounds", config.digest)
    last = store.newest()
    if last is not None:
        state = store.averaged(last, config.training.averaged_share).travelling | scorer_of(state)
    ranked = {rung: floors[name] for rung, name in FLOORS.items()}
    ranked |= upper_rung_ranks(config, items, test, state)
    return ladder_record(
        config,
        outcome.recipe.out,
        lambda rung: ranked[rung],
        lambda rung: model_ranks(config, items, validation, state_of_rung(config, state, rung)),
        metrics,
    )


def _rounds(outcome: Outcome, panel: Panel, progress: Progress) -> list[RoundRecord]:
    """The curve: each snapshot of the coordinator on the same validation users."""
    store = CheckpointStore(outcome.coordinator / "rounds", outcome.config.digest)
    records = []
    last, scorer = outcome.config.training.rounds, scorer_of(final_state(outcome.recipe.out))
    for round_ in range(last + 1):
        try:
            snapshot, facts = store.load(round_)
        except ModelError:
            continue  # `simulations.notes` says so
        records.append(
            RoundRecord(
                round=round_,
                validation=metrics(
                    model_ranks(outcome.config, outcome.sites[0].items, panel, snapshot.travelling | scorer)
                ),
                replies=len(facts["accepted"]),
                rejected=facts["rejected"],
                seconds=facts["seconds"],
                epsilon=_spent_after(outcome.config, round_) if outcome.private else None,
                clip=None if snapshot.clip is None else float(snapshot.clip[0]),
            )
        )
        progress("assessing rounds", round_ + 1, last + 1)
    return records


def _spent_after(config: RunConfig, round_: int) -> float:
    events: tuple[PrivacyEvent, ...] = (popularity_event(config.privacy),)
    if config.privacy.activity_quantile:
        events = (activity_event(config.privacy), *events)
    if config.collaboration.released:
        events = (*events, pairs_event(config.privacy, config.collaboration))
    if round_:
        events = (*events, training_event(config.privacy, config.training, rounds=round_))
    if releases := sum(evaluated <= round_ for evaluated in config.evaluated_rounds):
        events = (*events, evaluation_event(config.privacy, config.evaluation, releases=releases))
    return price(events, config.privacy.delta)


def _privacy(outcome: Outcome) -> PrivacyRecord:
    config = outcome.config
    events = merge(plan_events(config))
    delta = config.privacy.delta
    spent = _exact(events, delta, "zero_out") if outcome.private else None
    return PrivacyRecord(
        relation=config.privacy.relation,
        delta=delta if outcome.private else None,
        epsilon=spent,
        epsilon_replace_one=_exact(events, delta, "replace_one") if outcome.private else None,
        mu_gdp=gaussian_mu(spent, delta) if spent else None,
        plan=[cast("dict[str, JsonValue]", to_record(event)) for event in plan_events(config)],
        noise_source=outcome.sites[0].noise("report").source if outcome.private else "none",
        note=SEEDED if outcome.private else UNPROTECTED,
    )


SEEDED = (
    "Noise and sampling come from a seeded generator so that the simulation can be repeated; who knows the seed can "
    "subtract the noise. A real site draws from the operating system and never stores a seed."
)
UNPROTECTED = "This run added no noise: no epsilon bounds what it reveals about a user."
