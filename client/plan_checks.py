"""What a partner asks of a plan, and of one kind of message under it, before anything of it is charged.

The same for a request of the coordinator, an approval by the operator and a dry run; nothing here reads a user.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from client.charge import RELEASES
from client.policy import check_encoder, check_metric_noise, check_metrics, check_release, check_run
from client.site import Site
from mmrec_model.config import RunConfig
from mmrec_model.privacy.history import History
from mmrec_model.protocol import Kind

SCORED: Final = frozenset({Kind.TRAIN, Kind.EVALUATE, Kind.COMPARE})
"""What is computed with a model, so with the scorer of a plan that has one."""


def check_plan(site: Site, history: History, config: RunConfig) -> None:
    """Whether this site may take part in a run at all.

    Args:
        site: the site.
        history: of its ledger, which names the coordinator.
        config: the plan.

    Raises:
        PolicyRefusal: the first rule that the plan breaks.
        BundleSignatureError: the installed bundle is not signed by the coordinator.
        EncoderError, FeatureError, ModelError: what the plan needs is not installed here.
    """
    check_encoder(config, site.bundle.tunable_encoder)
    parts = site.parts_of(config)
    parts.require_encoders()
    check_run(
        site.policy,
        config,
        users=site.config.users,
        installed_features=site.bundle.digest,
        installed_code=site.code_digest,
        trained_weights=parts.trained_weights,
    )
    site.check_features(history.keys.get("server"))


def check_kind(site: Site, config: RunConfig, kind: Kind) -> None:
    """Whether a priced kind of message may leave.

    Raises:
        PolicyRefusal: `release`, `metrics`, `metric-noise` or `metric-releases`.
    """
    if kind is Kind.EVALUATE:
        check_metrics(site.policy, config)
    else:
        check_release(site.policy, RELEASES[kind])
    if kind is Kind.COMPARE:
        check_metric_noise(site.policy, config.gate.noise_multiplier)


def rounds_of(config: RunConfig, kind: Kind) -> Container[int]:
    """The rounds in which the plan has messages of this kind."""
    match kind:
        case Kind.TRAIN:
            return range(1, config.training.rounds + 1)
        case Kind.EVALUATE:
            return config.evaluated_rounds
        case Kind.COMPARE:
            return (config.training.rounds + 1,) if config.gate.metric is not None else ()
        case Kind.PAIRS | Kind.SCORER:
            return (0,) if config.collaboration.released else ()
        case Kind.ACTIVITY:
            return (0,) if config.privacy.activity_quantile else ()
    return (0,)


def priced_kinds(config: RunConfig) -> tuple[Kind, ...]:
    """The kinds of releases that a plan asks for, in the order of a run."""
    asked = {
        Kind.ACTIVITY: bool(config.privacy.activity_quantile),
        Kind.POPULARITY: True,
        Kind.PAIRS: config.collaboration.released,
        Kind.TRAIN: config.training.rounds > 0,
        Kind.EVALUATE: bool(config.evaluated_rounds),
        Kind.COMPARE: config.gate.metric is not None,
    }
    return tuple(kind for kind, wanted in asked.items() if wanted)
