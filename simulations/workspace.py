"""From a partner-format folder to a workspace: real site folders, keys, policies, features and the plan of a run.

    OUT/plan.json          the coordinator's proposal (`RunConfig`)
    OUT/features/          the feature bundle that every site pins by digest
    OUT/sites/NAME/        one real site per partner (`client.site`)
    OUT/coordinator/       its key, and the public keys of the partners (`server.sites`)
    OUT/data/              the embedded set, when no data is given

Raw vectors are kept outside, in a content-addressed store shared by all runs of this user, so that a second run encodes
nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from client.policy import Policy
from client.site import Site, SiteConfig, enrol
from mmrec_model.budgeting import Budget, PublicFacts, Wish, plan_budget
from mmrec_model.config import (
    ENCODER_SCOPES,
    EncoderConfig,
    FusionName,
    Modality,
    ModelConfig,
    RunConfig,
    Scope,
    Tower,
    TrainingConfig,
    TransformConfig,
    TunedTextConfig,
)
from mmrec_model.config_ladder import GATE_METRIC, CollaborationConfig, EvaluationConfig
from mmrec_model.config_reader import parse_config
from mmrec_model.config_types import MetricName
from mmrec_model.data.catalogue import open_catalogue
from mmrec_model.data.categories import category_vocabulary
from mmrec_model.data.dataset import open_partner
from mmrec_model.data.split_rules import SplitRule
from mmrec_model.data.users import read_user_columns
from mmrec_model.encoders.registry import default_encoders
from mmrec_model.errors import UsageError
from mmrec_model.features.bundle import FeatureBundle, Progress, build_bundle
from mmrec_model.features.signature import sign_bundle
from mmrec_model.features.store import vector_store
from mmrec_model.model.recommender import initial_state
from mmrec_model.planning import adaptive_clipping, planned_learning_rate, planned_momentum
from mmrec_model.storage import write_atomically
from server.sites import coordinator_key, write_partners
from simulations.hiding import hide_media
from simulations.partition import (
    MINIMUM_USERS,
    Groups,
    partition_by_column,
    partition_evenly,
    read_users,
    write_sites,
)

MARKER = "plan.json"
REASONS = "plan-reasons.txt"
"""Why the budget was split as it was, one sentence a line."""
RUN_ID = "simulation"
COLLABORATION_WEIGHT = 0.3
"""Public weight of the scorer of pairs, whose scores deviate by about 1; those of content deviate by about 0.1."""
METRIC_WEIGHT = 0.05
"""Likewise of pairs of features: between .025 and .1 little changes, above it they crowd out popularity and content."""


@dataclass(frozen=True)
class Recipe:
    """What to simulate.

    Attributes:
        data: partner-format folder.
        out: the workspace.
        epsilon: target of the whole plan at each partner; infinity for a run without privacy.
        delta: of the guarantee.
        seed: of model, partition and (simulated) noise.
        training: rounds and steps.
        silo: column that names a user's partner; None for the first `silo_*` column, if there is one.
        partners: number of equal partners instead of a column; None for a column.
        minimum_users: smaller partners are merged into one.
        clipping: of the plan: a fixed clip, or one that follows the users' gradient norms.
        model: the recommender with its heads; its public weights are multiplied by each modality's share of the
            catalogue.
        encoders: at most one per medium.
        evaluation: metrics that the partners release; its noise is planned.
        hidden: share of the media that are hidden from the encoders (`simulations.hiding`).
        features: folder of the feature bundle; None for `features` of the workspace.
        scope: which weights are trained; those of `model` but for the encoder that it may need.
        pairs: whether pairs of items may be released, where the federation is large enough for them.
        gate: metric by which the exported rung is chosen; None exports what was trained.
        activity_quantile: share of the users by whose activity the cap of the popularity release is chosen; 0 for none.
        split: how interactions are held out; None for what the data pins, else leave-last-out.
        transform: from raw vectors to those of the bundle.
    """

    data: Path
    out: Path
    epsilon: float
    delta: float
    seed: int
    training: TrainingConfig
    silo: str | None = None
    partners: int | None = None
    minimum_users: int = MINIMUM_USERS
    clipping: Literal["flat", "adaptive"] = "flat"
    model: ModelConfig = field(default_factory=ModelConfig)
    encoders: tuple[EncoderConfig, ...] = field(default_factory=default_encoders)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    hidden: float = 0.0
    features: Path | None = None
    scope: Scope = "fusion"
    pairs: bool = True
    gate: MetricName | None = GATE_METRIC
    activity_quantile: float = 0.0
    split: SplitRule | None = None
    transform: TransformConfig = field(default_factory=TransformConfig)

    @property
    def bundle_folder(self) -> Path:
        """Where the feature bundle lies."""
        return self.features or self.out / "features"


def claim(out: Path, *, overwrite: bool) -> None:
    """Make an empty workspace.

    Raises:
        UsageError: the folder holds a run and `overwrite` is not set, or something that is no run.
    """
    if out.exists() and any(out.iterdir()):
        if not (out / MARKER).is_file() and not (out / "data" / "known_answer.json").is_file():
            raise UsageError(f"{out} is not empty and holds no simulation", remedy="Name a new folder with --out")
        if not overwrite:
            raise UsageError(f"{out} already holds a simulation", remedy="Name a new folder, or add --overwrite")
        for part in ("sites", "features", "coordinator", "model"):
            shutil.rmtree(out / part, ignore_errors=True)
        for name in (MARKER, REASONS, "run.json", "report.html", "quality.json", "quality.html", "catalogue.json"):
            (out / name).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)


def model_with_heads(
    data: Path,
    heads: Mapping[str, float],
    fusion: FusionName = "attention",
    tower: Tower = "attention",
    *,
    cvr_loss: Literal["conditional", "esmm"] = "conditional",
    ctr_scorer: Literal["bilinear", "deepfm"] = "bilinear",
    user_media: Sequence[str] = (),
) -> ModelConfig:
    """The default model with this fusion and tower, these heads and their loss weights.

    Args:
        data: partner-format folder, whose catalogue names the categories; read only for the head `category`.
        heads: loss weights by name.
        fusion: how the modalities of an item are fused.
        tower: how a history becomes a user vector.
        cvr_loss: how the head `cvr` learns.
        ctr_scorer: what scores a row for the head `ctr`.
        user_media: the users' own media that the tower reads.

    Raises:
        ConfigError: no such head, a weight that is not above 0, fewer than two categories for that head, or a setting
            that heads, fusion and tower would not read.
        UsageError: no user has one of the media.
        DataError: the catalogue or the users cannot be read.
    """
    values: dict[str, object] = {"fusion": fusion, "tower": tower, "heads": dict(heads)}
    values |= {"cvr_loss": cvr_loss, "ctr_scorer": ctr_scorer, "user_media": list(user_media)}
    if "category" in heads:
        values["categories"] = list(category_vocabulary(open_catalogue(data).categories))
    model = parse_config(ModelConfig, values, source="the model")
    _require_user_media(data, model.user_media)
    return model


def transform_with(impute: Literal["off", "vector", "present"], quarantine: float) -> TransformConfig:
    """The default transform with this way of estimating missing vectors, and media judged where any may be taken out.

    Args:
        impute: as in `TransformConfig`.
        quarantine: largest share of a medium's vectors made missing, 0 to 0.2.
    """
    values = {"impute": impute, "quality": quarantine > 0.0, "quarantine": quarantine}
    return parse_config(TransformConfig, values, source="the transform")


def _require_user_media(data: Path, user_media: Sequence[str]) -> None:
    columns = read_user_columns(data) if user_media else {}
    for medium in user_media:
        if not any(values.get(medium) for values in columns.values()):
            raise UsageError(
                f"no user has a medium of the column {medium!r} in users.*",
                remedy=f"Leave --user-media {medium} out, or give data in which users have one",
            )


def divide(recipe: Recipe) -> Groups:
    """Users to partners, by a `silo_*` column or evenly.

    Raises:
        UsageError: neither a column nor a number is given or found.
    """
    users = read_users(recipe.data)
    if recipe.partners is not None:
        return partition_evenly(users, recipe.partners, recipe.seed)
    columns = sorted({name for values in users.values() for name in values})
    column = recipe.silo or (columns[0] if columns else None)
    if column is None:
        raise UsageError("the data has no silo_* column", remedy="Say how many partners to make: --partners 5")
    return partition_by_column(users, column, minimum_users=recipe.minimum_users)


def encode(recipe: Recipe, progress: Progress | None = None) -> FeatureBundle:
    """The workspace's feature bundle; encoders that learn from a catalogue learn from this one.

    Raises:
        UsageError: the transform estimates or judges media, and the catalogue gives it nothing to do.
    """
    bundle = build_bundle(
        hide_media(open_catalogue(recipe.data), recipe.hidden, recipe.seed),
        recipe.bundle_folder,
        encoders=recipe.encoders,
        transform=recipe.transform,
        store=vector_store(),
        tokens=recipe.scope in ENCODER_SCOPES,
        progress=progress,
    )
    _refuse_idle(recipe.transform, bundle)
    return bundle


def _refuse_idle(transform: TransformConfig, bundle: FeatureBundle) -> None:
    """Refuse a transform that found nothing to estimate or nothing to judge."""
    manifest = bundle.manifest
    if transform.impute != "off" and not any(manifest["imputation"]["estimated"].values()):
        raise UsageError(
            f"impute is {transform.impute!r}, and no missing medium can be estimated from another one",
            remedy="Leave --impute out: no item lacks a medium, or the catalogue has one medium alone",
        )
    judged = manifest.get("quality", {}).get("modalities", {}).values()
    if transform.quarantine and not any("quarantined" in entry for entry in judged):
        raise UsageError(
            f"quarantine is {transform.quarantine}, and no medium can be judged by the others",
            remedy="Leave --quarantine out: it needs items that have several media",
        )


def plan(recipe: Recipe, bundle: FeatureBundle, groups: Groups) -> RunConfig:
    """The run that the coordinator proposes, from public facts; written to `plan.json`.

    Args:
        recipe: target price, rounds and rates.
        bundle: the features.
        groups: partners and their users; only their numbers are used.
    """
    users = sum(map(len, groups.values()))
    wish = Wish(recipe.evaluation, recipe.pairs, recipe.gate, activity_quantile=recipe.activity_quantile)
    facts = PublicFacts(users, len(groups), len(bundle.item_ids), _width(recipe, bundle))
    budget = _budget(recipe.epsilon, recipe.delta, recipe.training, facts, wish)
    privacy = budget.privacy
    if recipe.clipping == "adaptive":
        privacy = adaptive_clipping(privacy, expected_users=recipe.training.sample_rate * users / len(groups))
    config = RunConfig(
        run_id=RUN_ID,
        seed=recipe.seed,
        features=bundle.spec,
        model=_model(recipe, bundle, budget.collaboration),
        training=recipe.training,
        privacy=privacy,
        evaluation=budget.evaluation,
        collaboration=budget.collaboration,
        gate=budget.gate,
        minimum_cohort=len(groups),
    )
    rate = planned_learning_rate(
        config.training,
        privacy,
        users=users,
        partners=len(groups),
        weights=sum(array.size for array in initial_state(config).values()),
    )
    planned = {"learning_rate": rate, "server_momentum": planned_momentum(config.training)}
    config = config.model_copy(update={"training": config.training.model_copy(update=planned)})
    write_atomically(recipe.out / REASONS, "".join(f"{reason}\n" for reason in budget.reasons).encode())
    write_atomically(recipe.out / MARKER, (config.model_dump_json(indent=2) + "\n").encode())
    return config


@lru_cache(maxsize=8)
def _budget(epsilon: float, delta: float, training: TrainingConfig, facts: PublicFacts, wish: Wish) -> Budget:
    """The split of a target price; plans that differ in the model alone share it."""
    return plan_budget(epsilon, delta, training, facts, wish)


def _width(recipe: Recipe, bundle: FeatureBundle) -> int:
    """Of the features that the model reads, all modalities together."""
    chosen = recipe.model.modalities or bundle.modalities
    return sum(width for name, width in bundle.spec.dims.items() if name in chosen)


def _model(recipe: Recipe, bundle: FeatureBundle, released: CollaborationConfig) -> ModelConfig:
    """The recipe's model with public weights, its scope, and the text encoder that the scope trains."""
    changes: dict[str, object] = {
        "modality_weights": _public_weights(recipe.model, bundle),
        "collaboration_weight": COLLABORATION_WEIGHT if released.items else 0.0,
        "metric_weight": METRIC_WEIGHT if released.dims else 0.0,
        "scope": recipe.scope,
    }
    text, digest = _encoder(recipe, "text"), bundle.tunable_encoder
    if text is not None and digest is not None:
        changes["text_encoder"] = TunedTextConfig(source=text.source, digest=digest, max_tokens=text.max_tokens)
    return ModelConfig.model_validate(dict(recipe.model) | changes)


def _encoder(recipe: Recipe, modality: Modality) -> EncoderConfig | None:
    return next((encoder for encoder in recipe.encoders if encoder.modality == modality), None)


def _public_weights(model: ModelConfig, bundle: FeatureBundle) -> dict[Modality, float]:
    """The model's weight of each modality times the share of the catalogue that has it: both are public."""
    given: Mapping[Modality, float] = model.modality_weights
    shares = bundle.present_NM.mean(axis=0)
    return {name: given.get(name, 0.0) * float(share) for name, share in zip(bundle.modalities, shares, strict=True)}


def found(recipe: Recipe, groups: Groups, config: RunConfig) -> list[Site]:
    """Make one enrolled site per partner; its policy allows this run and nothing dearer.

    Site and coordinator get each other's public key, and the coordinator signs the feature bundle.
    """
    folders = write_sites(recipe.data, recipe.out, groups, recipe.split)
    private = config.privacy.mechanism != "none"
    catalogue = open_catalogue(recipe.data)
    text, image = _encoder(recipe, "text"), _encoder(recipe, "image")
    releases = len(config.evaluated_rounds)
    policy = Policy(
        max_epsilon=config.privacy.epsilon or 1.0,
        max_delta=recipe.delta,
        minimum_users=1,
        max_rounds=max(1, config.training.rounds),
        max_steps=max(1, config.training.rounds * config.training.local_steps),
        max_sample_rate=config.training.sample_rate,
        allowed_metrics=config.evaluation.metrics if releases else (),
        min_metric_noise_multiplier=_least_metric_noise(config),
        max_metric_releases=max(1, releases),
        max_pair_items=config.collaboration.items,
        max_pair_dims=config.collaboration.dims,
        max_trained_weights=sum(array.size for array in initial_state(config).values()),
        allow_without_privacy=not private,
        require_approval=False,
    )
    coordinator = recipe.out / "coordinator"
    key = coordinator_key(coordinator)
    sign_bundle(recipe.bundle_folder, key)
    sites = [
        enrol(
            folder.parent,
            SiteConfig(
                name=folder.parent.name,
                catalogue=str(recipe.data.resolve()),
                features="../../features" if recipe.features is None else str(recipe.features.resolve()),
                users=len(open_partner(folder, catalogue=catalogue)),
                text_encoder="embedded" if text is None else text.source,
                image_encoder="embedded" if image is None else image.source,
                coordinator_key=key.public.hexadecimal,
                simulation_seed=recipe.seed,
            ),
            policy,
        )
        for folder in folders
    ]
    write_partners(coordinator, {site.config.name: site.public_key for site in sites})
    return sites


def _least_metric_noise(config: RunConfig) -> float:
    """Noise of the metrics or of the gate's comparison, whichever is less and released."""
    released = [config.evaluation.noise_multiplier] if config.evaluated_rounds else []
    if config.gate.metric is not None:
        released.append(config.gate.noise_multiplier)
    return min(released, default=0.0)
