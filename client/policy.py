"""The partner's own limits, in a file the coordinator can neither see nor change.

A run is compared with the policy and refused or accepted whole; nothing is clamped. Every refusal has a code that both
sides log, the value the run asked for, the limit, and a remedy; none carries a private number.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mmrec_model.config import RunConfig
from mmrec_model.config_reader import parse_config
from mmrec_model.config_types import Count, Fraction, MetricName, NonNegative, Positive, Strict
from mmrec_model.errors import ConfigError, PolicyRefusal
from mmrec_model.privacy.clipping import clip_bounds

Release = Literal["activity", "popularity", "pairs", "train", "compare"]


class Policy(Strict):
    """What a partner lets out.

    Attributes:
        max_epsilon: over the whole life of this data set, all runs together, at `max_delta`.
        max_delta: largest delta a plan may use; it must also stay below 1 / users.
        relation: neighbouring relation a plan must use.
        minimum_users: a partner with fewer users does not take part.
        max_history: interactions of one user that a step may see; also the outcomes that heads may see.
        max_rounds: rounds of one run.
        max_steps: private steps of one run, over all rounds.
        max_grad_norm: largest clipping bound; with adaptive clipping, of the top of its range.
        allowed_clipping: ways to choose the clip of a round: the plan's own, or by a priced count of users within it.
        max_clip_range: how many times larger or smaller than its start an adaptive clip may become.
        max_sample_rate: largest share of users in one step.
        max_trained_weights: largest number of weights that a run may train.
        minimum_cohort: partners the coordinator must wait for before it opens an aggregate.
        max_pair_items: items whose pairs a run may ask for; sets the bytes of that one release.
        max_pair_dims: dimensions of features whose pairs a run may ask for; likewise.
        allowed_releases: what may leave at all, beside metrics.
        allowed_metrics: names of the metrics that may leave, as noised sums; none for a new site.
        min_metric_noise_multiplier: least noise of a release of metrics, the gate's comparison included.
        max_metric_releases: releases of metrics in one run.
        allowed_features: digests of feature bundles, or ["*"] for the bundle installed at this site.
        allowed_code: digests of the installed package (`Site.code_digest`), or ["*"] for whatever is installed.
        allowed_bundles: SHA-256 of the Flower bundles whose runs a deployed node answers (`client.launcher`), or ["*"];
            none for a new site. No code of a bundle ever runs.
        allow_without_privacy: whether a run without noise may touch the data.
        require_approval: whether every run needs the operator's signed approval (`client.approval`).
    """

    max_epsilon: Positive = 8.0
    max_delta: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-5
    relation: Literal["zero_out"] = "zero_out"
    minimum_users: Count = 20
    max_history: Count = 64
    max_rounds: Count = 500
    max_steps: Count = 2000
    max_grad_norm: Positive = 10.0
    allowed_clipping: tuple[Literal["flat", "adaptive"], ...] = ("flat", "adaptive")
    max_clip_range: Annotated[float, Field(ge=1.1, le=1000.0)] = 1000.0
    max_sample_rate: Fraction = 0.5
    max_trained_weights: Count = 2_000_000
    minimum_cohort: Count = 1
    max_pair_items: Annotated[int, Field(ge=0)] = 4096
    max_pair_dims: Annotated[int, Field(ge=0)] = 512
    allowed_releases: tuple[Release, ...] = ("activity", "popularity", "pairs", "train", "compare")
    allowed_metrics: tuple[MetricName, ...] = ()
    min_metric_noise_multiplier: NonNegative = 1.0
    max_metric_releases: Count = 10
    allowed_features: tuple[str, ...] = ("*",)
    allowed_code: tuple[str, ...] = ("*",)
    allowed_bundles: tuple[str, ...] = ()
    allow_without_privacy: bool = False
    require_approval: bool = True


def read_policy(path: Path) -> Policy:
    """Read `policy.toml`.

    Raises:
        ConfigError: not readable, not TOML, an unknown key or a value out of range.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"{path.name} cannot be read: {error}", remedy="Write a policy as in docs/policy.md"
        ) from error
    return parse_config(Policy, values, source=path.name)


def check_run(
    policy: Policy,
    config: RunConfig,
    *,
    users: int,
    installed_features: str,
    trained_weights: int,
    installed_code: str,
) -> None:
    """Compare a run with the policy.

    Args:
        policy: the partner's limits.
        config: the run as the coordinator proposes it.
        users: the partner's public number of users.
        installed_features: digest of the bundle at this site.
        trained_weights: weights that the run's model trains.
        installed_code: digest of the package at this site.

    Raises:
        PolicyRefusal: the first rule that the run breaks.
    """
    check_code(policy, installed_code)
    _check_kind(policy, config, installed_features)
    _check_amounts(policy, config, trained_weights)
    _check_crowds(policy, config, users)


def _check_kind(policy: Policy, config: RunConfig, installed_features: str) -> None:
    """Noise, features and clipping: what is allowed or not, whatever the numbers."""
    privacy = config.privacy
    if privacy.mechanism == "none" and not policy.allow_without_privacy:
        raise PolicyRefusal(
            "privacy-off", "the run adds no noise, the policy requires it", remedy="Plan the run with an epsilon"
        )
    if config.features.digest != installed_features or not (
        "*" in policy.allowed_features or installed_features in policy.allowed_features
    ):
        raise PolicyRefusal(
            "features",
            f"the run uses feature bundle {config.features.digest[:12]}, this site has {installed_features[:12]}",
            remedy="Install the coordinator's bundle and list its digest under allowed_features",
        )
    if privacy.clipping not in policy.allowed_clipping:
        raise PolicyRefusal(
            "clipping",
            f"the run asks for '{privacy.clipping}' clipping, allowed is {list(policy.allowed_clipping)}",
            remedy="Plan the run with an allowed clipping, or allow it in policy.toml",
        )


@dataclass(frozen=True)
class Amount:
    """A number that a run asks for, under its refusal code, and the policy's limit of it."""

    code: str
    asked: float
    limit: float


def amounts_of(policy: Policy, config: RunConfig, trained_weights: int) -> tuple[Amount, ...]:
    """Every number of a run that has a largest value in the policy.

    Args:
        policy: the partner's limits.
        config: the run.
        trained_weights: weights that the run's model trains.
    """
    training, privacy = config.training, config.privacy
    asked: tuple[tuple[str, float, float], ...] = (
        ("delta", privacy.delta, policy.max_delta),
        ("rounds", training.rounds, policy.max_rounds),
        ("steps", training.rounds * training.local_steps, policy.max_steps),
        ("clip", clip_bounds(privacy)[1], policy.max_grad_norm),
        ("clip-range", privacy.clip_range if privacy.clipping == "adaptive" else 1.0, policy.max_clip_range),
        ("sample-rate", training.sample_rate, policy.max_sample_rate),
        ("history", training.max_history, policy.max_history),
        ("feedback", training.max_feedback if config.model.heads else 0, policy.max_history),
        ("popularity-cap", privacy.popularity_cap, policy.max_history),
        ("pair-history", config.collaboration.history if config.collaboration.released else 0, policy.max_history),
        ("pair-items", config.collaboration.items, policy.max_pair_items),
        ("pair-dims", config.collaboration.dims, policy.max_pair_dims),
        ("trained-weights", trained_weights, policy.max_trained_weights),
    )
    return tuple(Amount(code, value, limit) for code, value, limit in asked)


def _check_amounts(policy: Policy, config: RunConfig, trained_weights: int) -> None:
    for amount in amounts_of(policy, config, trained_weights):
        if amount.asked > amount.limit:
            raise PolicyRefusal(
                amount.code,
                f"the run asks for {amount.asked:g}, the limit is {amount.limit:g}",
                remedy="Lower it in the plan",
            )


def _check_crowds(policy: Policy, config: RunConfig, users: int) -> None:
    if users < policy.minimum_users:
        raise PolicyRefusal(
            "users", f"this site has fewer than {policy.minimum_users} users", remedy="Join with a larger data set"
        )
    if config.privacy.delta >= 1.0 / users:
        raise PolicyRefusal(
            "delta-users", f"delta {config.privacy.delta:g} is not below one in the number of users",
            remedy="Plan the run with a smaller delta",
        )  # fmt: skip
    if config.minimum_cohort < policy.minimum_cohort:
        raise PolicyRefusal(
            "cohort",
            f"the run opens an aggregate of {config.minimum_cohort} partners, the least is {policy.minimum_cohort}",
            remedy="Raise minimum_cohort in the plan",
        )


def check_code(policy: Policy, installed_code: str) -> None:
    """Whether the installed package may touch the data.

    Args:
        policy: the partner's limits.
        installed_code: digest of the package at this site.

    Raises:
        PolicyRefusal: it is not in `allowed_code`.
    """
    if not ("*" in policy.allowed_code or installed_code in policy.allowed_code):
        raise PolicyRefusal(
            "code",
            f"the installed package {installed_code[:12]} is not among the {len(policy.allowed_code)} allowed",
            remedy="Install a release that the partner has reviewed, or list its digest under allowed_code",
        )


def check_encoder(config: RunConfig, installed: str | None) -> None:
    """Whether the text encoder that a run tunes is the one whose token ids the installed bundle holds.

    Args:
        config: the run.
        installed: digest of that encoder; None if the bundle holds no token ids.

    Raises:
        PolicyRefusal: it is another one.
    """
    tuned = config.model.text_encoder
    if tuned is not None and tuned.digest != installed:
        raise PolicyRefusal(
            "encoder",
            f"the run tunes text encoder {tuned.digest[:12]}, the bundle has tokens of {(installed or 'none')[:12]}",
            remedy="Install a bundle that was built with this encoder and its tokens",
        )


def check_release(policy: Policy, release: str) -> None:
    """Whether this kind of output may leave at all.

    Raises:
        PolicyRefusal: it is not in `allowed_releases`.
    """
    if release not in policy.allowed_releases:
        raise PolicyRefusal(
            "release",
            f"'{release}' is not among {list(policy.allowed_releases)}",
            remedy="Allow it in policy.toml, or not",
        )


def check_metric_noise(policy: Policy, noise_multiplier: float) -> None:
    """Whether a metric may leave with this noise, also one that is compared for the gate.

    Raises:
        PolicyRefusal: `metric-noise`.
    """
    if noise_multiplier < policy.min_metric_noise_multiplier:
        raise PolicyRefusal(
            "metric-noise",
            f"the run asks for a noise multiplier of {noise_multiplier:g}, "
            f"the least is {policy.min_metric_noise_multiplier:g}",
            remedy="Release metrics less often, or with more noise",
        )


def check_metrics(policy: Policy, config: RunConfig) -> None:
    """Whether the metrics of a run may leave, at its noise and as often as it plans.

    A partner that refuses them still trains: the plan's price includes releases that it then never makes.

    Raises:
        PolicyRefusal: `metrics`, `metric-noise` or `metric-releases`.
    """
    asked, releases = config.evaluation, len(config.evaluated_rounds)
    strange = [name for name in asked.metrics if name not in policy.allowed_metrics]
    if strange:
        raise PolicyRefusal(
            "metrics",
            f"'{strange[0]}' is not among the metrics {list(policy.allowed_metrics)}",
            remedy="Evaluate what the partner allows, or have it listed under allowed_metrics",
        )
    check_metric_noise(policy, asked.noise_multiplier)
    if releases > policy.max_metric_releases:
        raise PolicyRefusal(
            "metric-releases",
            f"the run asks for {releases}, the limit is {policy.max_metric_releases}",
            remedy="Release metrics less often",
        )
