"""The configuration that a coordinator writes and every partner compares with its own policy.

All parts are frozen and strict: an unknown key or a value outside its range is a `ConfigError` that names the
key and the limit. `RunConfig` is public: it holds no statistic of any partner's users.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmrec_model.canonical import canonical_json, sha256_hex
from mmrec_model.errors import ConfigError

Modality = Literal["text", "image", "audio", "video"]
Scope = Literal["head", "fusion", "lora", "top", "full"]
"""Which part of the model a run trains; see `mmrec_model.model.scope`."""
Tower = Literal["attention", "sequence"]
UserMedium = Literal["text", "image"]
ENCODER_SCOPES: tuple[Scope, ...] = ("lora", "top", "full")
"""The scopes in which a text encoder is part of the model."""
MODALITIES: tuple[Modality, ...] = ("text", "image", "audio", "video")
"""All modalities, in the order of every modality axis of the system."""

Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=2, le=4096)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Strict(BaseModel):
    """Frozen, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class EncoderConfig(Strict):
    """One frozen encoder.

    Attributes:
        modality: the medium it reads.
        source: `embedded` (the published MiniLM of the optional package for text, else a small network made by
            configuration), a hub id, or a local folder.
        batch_size: inputs per forward pass.
        max_tokens: tokens kept of a text.
        image_size: side of the square picture, in pixels, for networks made by configuration.
        frames: frames taken from a film, spread evenly.
        device: torch device.
    """

    modality: Modality
    source: str = "embedded"
    batch_size: Count = 32
    max_tokens: Annotated[int, Field(ge=8, le=8192)] = 256
    image_size: Annotated[int, Field(ge=32, le=1024)] = 96
    frames: Annotated[int, Field(ge=1, le=256)] = 8
    device: str = "cpu"


class TransformConfig(Strict):
    """Catalogue statistics, fitted on the items alone: centre, PCA to `dims`, optional whitening, unit rows."""

    dims: Width = 128
    whiten: bool = True


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
        fused_scale: size of the fused part beside the diagonal one; a smaller part collects less noise.
        temperature: multiplies all scores inside the loss; rankings do not depend on it.
        tower: how a history becomes a user vector: pooled by `attention`, where order does not count, or read as a
            `sequence` by causal self-attention.
        positions: places of a history that the sequence tower tells apart.
        user_media: media of the users themselves (`users.*`) that enter the user tower; encoded where the user is,
            they never leave. A user without them is one without a profile.
        scope: which weights are trained, travel and are paid for (`mmrec_model.model.scope`).
        text_encoder: the encoder that scopes `lora`, `top` and `full` train; null in the other scopes.
    """

    hidden: Width = 16
    trained_dims: Width = 64
    modality_weights: dict[Modality, NonNegative] = {"text": 1.0, "image": 0.5, "audio": 0.5, "video": 0.5}
    popularity_weight: NonNegative = 0.1
    fused_scale: Positive = 0.5
    temperature: Positive = 10.0
    tower: Tower = "attention"
    positions: Count = 32
    user_media: tuple[UserMedium, ...] = ()
    scope: Scope = "fusion"
    text_encoder: TunedTextConfig | None = None

    @property
    def text_tokens(self) -> int:
        """Tokens kept of a text, an item's as well as a user's."""
        return EncoderConfig(modality="text").max_tokens if self.text_encoder is None else self.text_encoder.max_tokens

    @model_validator(mode="after")
    def _encoder_matches_scope(self) -> Self:
        if (self.scope in ENCODER_SCOPES) != (self.text_encoder is not None):
            raise ValueError(
                f"scope {self.scope!r} {'needs a' if self.text_encoder is None else 'has no'} text_encoder"
            )
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
    micro_batch: Count = 64
    witness_coordinates: Annotated[int, Field(ge=0, le=65_536)] = 1024


class PrivacyConfig(Strict):
    """What each user's whole data costs at one partner.

    Attributes:
        mechanism: `gaussian`, or `none` for a run without privacy, which a partner's policy must allow.
        epsilon: the whole plan's price at one partner, at `delta`, under `relation`; null without privacy.
        delta: failure probability of the guarantee.
        relation: neighbouring data sets: one user's data replaced by nothing, the number of users being public.
        noise_multiplier: noise of a training step, in units of `max_grad_norm`.
        max_grad_norm: L2 bound of one user's gradient.
        popularity_noise_multiplier: noise of the popularity release, in units of sqrt(`popularity_cap`).
        popularity_cap: distinct items of a user that the popularity release counts.
    """

    mechanism: Literal["gaussian", "none"] = "gaussian"
    epsilon: Positive | None
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-5
    relation: Literal["zero_out"] = "zero_out"
    noise_multiplier: NonNegative
    max_grad_norm: Positive = 1.0
    popularity_noise_multiplier: NonNegative
    popularity_cap: Count = 20

    @model_validator(mode="after")
    def _noise_matches_mechanism(self) -> Self:
        noises = (self.noise_multiplier, self.popularity_noise_multiplier)
        if self.mechanism == "gaussian" and (min(noises) <= 0.0 or self.epsilon is None):
            raise ValueError("mechanism 'gaussian' needs an epsilon and both noise multipliers above 0")
        if self.mechanism == "none" and (max(noises) > 0.0 or self.epsilon is not None):
            raise ValueError("mechanism 'none' needs epsilon null and noise multipliers of 0")
        return self


class RunConfig(Strict):
    """One federated run, as the coordinator proposes it and every partner approves or refuses it."""

    run_id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    features: FeatureSpec
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    privacy: PrivacyConfig
    minimum_cohort: Count = 1
    round_timeout: Positive = 600.0

    @model_validator(mode="after")
    def _user_media_have_features(self) -> Self:
        absent = sorted(set(self.model.user_media) - set(self.features.dims))
        if absent:
            raise ValueError(
                f"user_media {absent} are not among the media of the features {sorted(self.features.dims)}"
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


ConfigT = TypeVar("ConfigT", bound=Strict)


def parse_config(kind: type[ConfigT], value: object, *, source: str) -> ConfigT:
    """Check `value` (JSON text, or what a TOML or JSON reader returned) against `kind`.

    Args:
        kind: the configuration class.
        value: text of a JSON document, or a dictionary.
        source: what to call it in an error: a file name or "the coordinator's plan".

    Raises:
        ConfigError: not JSON, an unknown key, or a value outside its range.
    """
    try:
        text = value if isinstance(value, str) else json.dumps(value)
        return kind.model_validate_json(text)
    except (ValidationError, TypeError) as error:
        problems = _first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise ConfigError(
            f"{source}: {problems}",
            remedy=f"Correct it; the fields of {kind.__name__} are in docs/configuration.md",
        ) from error


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "document"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}: {first['msg']}, got {str(first['input'])[:80]!r}{more}"
