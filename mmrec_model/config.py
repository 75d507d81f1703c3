"""The configuration that a coordinator writes and every partner compares with its own policy.

All parts are frozen and strict: an unknown key or a value outside its range is a `ConfigError` that names the
key and the limit. `RunConfig` is public: it holds no statistic of any partner's users.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mmrec_model.canonical import canonical_json, sha256_hex
from mmrec_model.config_ladder import CollaborationConfig, EvaluationConfig, GateConfig
from mmrec_model.config_rules import (
    refuse_broken_ladder,
    refuse_incomplete_heads,
    refuse_stray_encoder,
    refuse_unplanned_activity,
    refuse_unplanned_clip,
    refuse_unread,
    refuse_unread_transform,
)
from mmrec_model.config_types import (
    Count,
    Digest,
    Fraction,
    NonNegative,
    Pooling,
    Positive,
    Precision,
    Rate,
    Strict,
    Width,
)

Modality = Literal["text", "image", "audio", "video"]
Scope = Literal["head", "fusion", "lora", "top", "full"]
"""Which part of the model a run trains; see `mmrec_model.model.scope`."""
Tower = Literal["attention", "sequence"]
UserMedium = Literal["text", "image"]
ENCODER_SCOPES: tuple[Scope, ...] = ("lora", "top", "full")
"""The scopes in which a text encoder is part of the model."""
MODALITIES: tuple[Modality, ...] = ("text", "image", "audio", "video")
"""All modalities, in the order of every modality axis of the system."""

FusionName = Literal[
    "attention", "concat", "weighted_sum", "additive", "gated", "cross_attention", "transformer", "decision"
]
"""How the modalities of an item become one vector or one score; see docs/fusion.md."""
HeadName = Literal["ctr", "cvr", "rating", "category"]
HEADS: tuple[HeadName, ...] = ("ctr", "cvr", "rating", "category")
"""All heads beside the ranking, in the order in which they are built, trained and reported."""
RankingLoss = Literal["sampled_softmax", "bpr", "bce"]
RANKING_LOSSES: tuple[RankingLoss, ...] = ("sampled_softmax", "bpr", "bce")
HOUR_BUCKETS, WEEKDAYS = 8, 7
"""Public buckets of a moment: three hours of the day (UTC) each, and the days of the week from Monday."""


class EncoderConfig(Strict):
    """One frozen encoder.

    Attributes:
        modality: the medium it reads.
        source: `embedded` (the published MiniLM of the optional package for text, else a small network made by
            configuration), a hub id, a local folder, or one of the names in docs/features.md.
        batch_size: inputs per forward pass.
        max_tokens: tokens kept of a text by a transformer.
        image_size: side of the square picture, in pixels, for networks made by configuration.
        frames: frames taken from a film.
        stride: distance between two frames of a film, from its beginning; 0 spreads them evenly over the whole film.
        workers: processes that decode media; 0 decodes in the caller. No vector depends on it.
        device: torch device.
        pooling: token states that make a text's vector: their mean, the first, or the last; `auto` is the mean, for a
            decoder the last, and for a text-picture model its own.
        dtype: what networks compute in; vectors are kept as float32. Refused by log-mel statistics and word vectors,
            which have none.
    """

    modality: Modality
    source: str = "embedded"
    batch_size: Count = 32
    max_tokens: Annotated[int, Field(ge=8, le=8192)] = 256
    image_size: Annotated[int, Field(ge=32, le=1024)] = 96
    frames: Annotated[int, Field(ge=1, le=256)] = 8
    stride: Annotated[int, Field(ge=0, le=10_000)] = 0
    workers: Annotated[int, Field(ge=0, le=64)] = 0
    device: str = "cpu"
    pooling: Pooling = "auto"
    dtype: Precision = "float32"


class TransformConfig(Strict):
    """Catalogue statistics, fitted on the items alone: centre, PCA to `dims`, optional whitening, unit rows.

    `impute` estimates missing vectors from the modalities that an item has: `vector` for the content score alone, the
    modality still counting as missing everywhere else, `present` as if the item had the modality.

    Attributes:
        select: raw dimensions that PCA sees: all, those of most variance, or those that tell the catalogue's public
            categories apart by trees (`importance`) or sparse regressions (`l1`).
        select_dims: how many of them at most.
        quality: whether duplicates and disagreeing media are looked for and reported in the manifest.
        near_duplicate: cosine between centred vectors from which on two items count as near duplicates.
        quarantine: largest share of a medium's vectors that may be made missing because they disagree with the rest
            of their item, and so a bound on how many good ones are lost; 0 reports alone.
    """

    dims: Width = 128
    whiten: bool = True
    impute: Literal["off", "vector", "present"] = "off"
    select: Literal["none", "variance", "importance", "l1"] = "none"
    select_dims: Width = 256
    quality: bool = False
    near_duplicate: Fraction = 0.98
    quarantine: Annotated[float, Field(ge=0.0, le=0.2)] = 0.0

    @model_validator(mode="after")
    def _every_setting_is_read(self) -> Self:
        refuse_unread_transform(self)
        return self


class FeatureSpec(Strict):
    """Which feature bundle a run uses: its digest, its number of items and the width of each modality."""

    digest: Digest
    items: Count
    dims: dict[Modality, Count]


class TunedTextConfig(Strict):
    """The text encoder that is part of the model, in the scopes that train it.

    Attributes:
        source: where the coordinator has it, as in `EncoderConfig`; a site loads from its own place.
        digest: of the encoder, as in the manifest of the feature bundle; every side must have this one.
        max_tokens: tokens kept of a text, as in `EncoderConfig`.
        rank: of the adapters of scope `lora`.
        layers: how many of the last layers scope `top` trains.
    """

    source: str = "embedded"
    digest: Digest
    max_tokens: Annotated[int, Field(ge=8, le=8192)] = 256
    rank: Annotated[int, Field(ge=1, le=256)] = 4
    layers: Count = 1


class ModelConfig(Strict):
    """The recommender.

    Attributes:
        hidden: width of the fused space.
        trained_dims: leading PCA dimensions per modality that the trained part reads.
        modality_weights: public decision-level weights of the free part; an absent modality weighs 0.
        popularity_weight: weight of the standardised log popularity prior, once released.
        collaboration_weight: weight of the standardised score from released pairs of items (`RunConfig.collaboration`);
            0 in a model without it.
        metric_weight: likewise of the standardised score from released pairs of features, which is added to it.
        fused_scale: size of the fused part beside the diagonal one; a smaller part collects less noise.
        temperature: multiplies all scores inside the loss; rankings do not depend on it.
        modalities: those of the bundle that the model reads; null for all of them.
        fusion: the family that fuses modalities. A field below that the chosen family does not read is refused.
        fusion_layers: depth of `concat` and `transformer`.
        fusion_heads: attention heads of `cross_attention` and `transformer`; they divide `hidden`.
        decision_rule: how `decision` ranks a list: sum of the scores, votes, or ranks. Training uses the sum.
        decision_weights: of the scorers of `decision`: `modality_weights` as they are, as a start of learned ones, or
            as a start of weights that are computed from a user's own history and never leave it.
        decision_temperature: how far weights `local` to a user stay near the public ones.
        decision_votes: items that each scorer votes for under the rule `vote`.
        tower: how a history becomes a user vector: pooled by `attention`, where order does not count, or read as a
            `sequence` by causal self-attention.
        positions: places of a history that the sequence tower tells apart.
        user_media: media of the users themselves (`users.*`) that enter the user tower; encoded where the user is,
            they never leave. A user without them is one without a profile.
        scope: which weights are trained, travel and are paid for (`mmrec_model.model.scope`).
        text_encoder: the encoder that scopes `lora`, `top` and `full` train; null in the other scopes.
        heads: what else is learned beside the ranking, and the weight of its loss in a user's loss; empty for none.
        cvr_loss: `conditional` learns conversions on clicked rows alone; `esmm` learns pCTR * pCVR on all shown rows,
            which needs the head `ctr`.
        ctr_scorer: what scores a row for the head `ctr`.
        base_rates: public guesses of the click and the conversion rate, from which these heads start.
        rating_scale: public lowest and highest rating; ratings outside count as the nearer end.
        categories: public names of the catalogue's categories; an item of another category has none.
    """

    hidden: Width = 16
    trained_dims: Width = 64
    modality_weights: dict[Modality, NonNegative] = Field(
        default={"text": 1.0, "image": 0.5, "audio": 0.5, "video": 0.5}
    )
    popularity_weight: NonNegative = 0.1
    collaboration_weight: NonNegative = 0.0
    metric_weight: NonNegative = 0.0
    fused_scale: Positive = 0.5
    temperature: Positive = 10.0
    modalities: Annotated[tuple[Modality, ...], Field(min_length=1)] | None = None
    fusion: FusionName = "attention"
    fusion_layers: Annotated[int, Field(ge=1, le=8)] = 1
    fusion_heads: Annotated[int, Field(ge=1, le=64)] = 2
    decision_rule: Literal["weighted", "vote", "rank"] = "weighted"
    decision_weights: Literal["public", "learned", "local"] = "learned"
    decision_temperature: Positive = 0.1
    decision_votes: Count = 20
    tower: Tower = "attention"
    positions: Count = 32
    user_media: tuple[UserMedium, ...] = ()
    scope: Scope = "fusion"
    text_encoder: TunedTextConfig | None = None
    heads: dict[HeadName, Positive] = Field(default={})
    cvr_loss: Literal["conditional", "esmm"] = "conditional"
    ctr_scorer: Literal["bilinear", "deepfm"] = "bilinear"
    base_rates: dict[Literal["ctr", "cvr"], Rate] = Field(default={"ctr": 0.1, "cvr": 0.1})
    rating_scale: tuple[float, float] = (1.0, 5.0)
    categories: Annotated[tuple[str, ...], Field(max_length=4096)] = ()

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        refuse_unread(self)
        refuse_stray_encoder(self, ENCODER_SCOPES)
        refuse_incomplete_heads(self)
        return self


class TrainingConfig(Strict):
    """Local training of one round; every number is public and the same at all partners.

    Attributes:
        rounds: federated rounds.
        local_steps: private steps per round and partner.
        sample_rate: probability with which each user joins a step (Poisson).
        learning_rate: of the local step on the noised mean gradient.
        server_learning_rate: of the averaged update (post-processing, free of charge).
        server_momentum: of the averaged update (post-processing, free of charge).
        averaged_share: part of the rounds, counted from the last, whose states are averaged into the exported model
            (post-processing; 0 exports the last state alone).
        max_history: interactions of a user that a step may see; the bound of the unit of privacy.
        negatives: catalogue items drawn per user and step.
        modality_dropout: probability with which each modality of each item is hidden from a user in a step.
        loss: how an item of the history is held against the negatives; each is a mean inside one user.
        max_feedback: outcomes of a user (shown, clicked, converted, rated) that a step with heads may see.
        micro_batch: users whose activations are held in memory at once.
        witness_coordinates: numbers of pure noise beside every update, which show that the noise is there and fresh
            (`mmrec_model.privacy.witness`); 0 for none.
    """

    rounds: Annotated[int, Field(ge=0, le=100_000)] = 60
    local_steps: Count = 1
    sample_rate: Fraction = 0.2
    learning_rate: Positive = 1.0
    server_learning_rate: Positive = 1.0
    server_momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    averaged_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    max_history: Count = 32
    negatives: Count = 64
    modality_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    loss: RankingLoss = "sampled_softmax"
    max_feedback: Count = 32
    micro_batch: Count = 64
    witness_coordinates: Annotated[int, Field(ge=0, le=65_536)] = 1024


class PrivacyConfig(Strict):
    """What each user's whole data costs at one partner.

    Attributes:
        mechanism: `gaussian`, or `none` for a run without privacy, which a partner's policy must allow.
        epsilon: the whole plan's price at one partner, at `delta`, under `relation`; null without privacy.
        delta: failure probability of the guarantee.
        relation: neighbouring data sets: one user's data replaced by nothing, the number of users being public.
        noise_multiplier: noise of a training step, in units of its clip; with adaptive clipping, of gradients and
            count together (`mmrec_model.privacy.clipping`).
        max_grad_norm: L2 bound of one user's gradient; with adaptive clipping, that of the first round.
        clipping: `flat`, or `adaptive`: the clip follows a quantile of the users' gradient norms. The fields below
            belong to `adaptive` and keep their defaults with `flat`.
        clip_quantile: share of the users whose gradients should be within the clip.
        clip_learning_rate: change of the clip's logarithm per round and unit of error in that share.
        clip_count_noise: deviation of the noise on the number of users within the clip, in users; above
            `noise_multiplier` / 2 and null with `flat`.
        clip_range: no round's clip is more than this many times larger or smaller than `max_grad_norm`.
        popularity_noise_multiplier: noise of the popularity release, in units of sqrt(`popularity_cap`).
        popularity_cap: distinct items of a user that the popularity release counts.
        activity_quantile: share of the users whose whole history the popularity release should count; the cap is then
            chosen by one more release (`mmrec_model.activity`), `popularity_cap` at most. 0 for that cap as it is.
        activity_noise_multiplier: noise of that release, in units of one user's bound, which is 1.
    """

    mechanism: Literal["gaussian", "none"] = "gaussian"
    epsilon: Positive | None
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-5
    relation: Literal["zero_out"] = "zero_out"
    noise_multiplier: NonNegative
    max_grad_norm: Positive = 1.0
    clipping: Literal["flat", "adaptive"] = "flat"
    clip_quantile: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    clip_learning_rate: Annotated[float, Field(gt=0.0, le=10.0)] = 0.2
    clip_count_noise: Positive | None = None
    clip_range: Annotated[float, Field(ge=1.1, le=1000.0)] = 10.0
    popularity_noise_multiplier: NonNegative
    popularity_cap: Count = 20
    activity_quantile: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    activity_noise_multiplier: NonNegative = 0.0

    @model_validator(mode="after")
    def _noise_matches_mechanism(self) -> Self:
        noises = (self.noise_multiplier, self.popularity_noise_multiplier)
        if self.mechanism == "gaussian" and (min(noises) <= 0.0 or self.epsilon is None):
            raise ValueError("mechanism 'gaussian' needs an epsilon and both noise multipliers above 0")
        if self.mechanism == "none" and (max(noises) > 0.0 or self.epsilon is not None):
            raise ValueError("mechanism 'none' needs epsilon null and noise multipliers of 0")
        return self

    @model_validator(mode="after")
    def _clip_is_planned(self) -> Self:
        refuse_unplanned_clip(self)
        refuse_unplanned_activity(self)
        return self


class RunConfig(Strict):
    """One federated run, as the coordinator proposes it and every partner approves or refuses it."""

    run_id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    features: FeatureSpec
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    privacy: PrivacyConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    collaboration: CollaborationConfig = CollaborationConfig()
    gate: GateConfig = GateConfig()
    minimum_cohort: Count = 1
    round_timeout: Positive = 600.0

    @model_validator(mode="after")
    def _modalities_are_of_the_bundle(self) -> Self:
        unknown = sorted(set(self.model.modalities or ()) - set(self.features.dims))
        if unknown:
            raise ValueError(f"model.modalities name {unknown}, the bundle has {sorted(self.features.dims)}")
        return self

    @model_validator(mode="after")
    def _releases_have_noise(self) -> Self:
        noise, private = self.evaluation.noise_multiplier, self.privacy.mechanism != "none"
        if private and self.evaluated_rounds and noise <= 0.0:
            raise ValueError("metrics are released with mechanism 'gaussian': evaluation.noise_multiplier is above 0")
        if not private and noise > 0.0:
            raise ValueError("mechanism 'none' needs evaluation.noise_multiplier 0")
        return self

    @model_validator(mode="after")
    def _ladder_stands(self) -> Self:
        refuse_broken_ladder(self)
        return self

    @property
    def model_dims(self) -> dict[Modality, int]:
        """Width of each modality that the model reads, in the order of every modality axis."""
        chosen = self.model.modalities or MODALITIES
        return {name: self.features.dims[name] for name in MODALITIES if name in chosen and name in self.features.dims}

    @property
    def evaluated_rounds(self) -> tuple[int, ...]:
        """The rounds after which metrics are released; one more than the last is the exported state."""
        return self.evaluation.releases(self.training.rounds)

    @model_validator(mode="after")
    def _user_media_have_features(self) -> Self:
        absent = sorted(set(self.model.user_media) - set(self.model_dims))
        if absent:
            raise ValueError(
                f"user_media {absent} are not among the media that the model reads, {sorted(self.model_dims)}"
            )
        return self

    @model_validator(mode="after")
    def _histories_fit(self) -> Self:
        if self.model.tower == "sequence" and self.training.max_history > self.model.positions:
            raise ValueError(
                f"max_history is {self.training.max_history}, the sequence tower has {self.model.positions} positions"
            )
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form: the same configuration has the same digest on every machine."""
        return sha256_hex(canonical_json(self.model_dump(mode="json")))
