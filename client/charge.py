"""From a request to what it costs: the mechanism to reserve, the plan to approve, the reserve made before.

The plan is written once per run, whole, before anything is spent; its price is that of every round it may ever ask for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from client import outbox
from client.attestation import attest_code
from client.comparison import sensitivity as comparison_sensitivity
from client.measurement import sensitivity as metrics_sensitivity
from client.pairs import check_pairs
from client.popularity import sensitivity
from client.pricing import price, renyi_price
from client.site import Site
from mmrec_model.activity import BOUND as ACTIVITY_BOUND
from mmrec_model.activity import cap_of
from mmrec_model.collaboration.pairs import BOUND
from mmrec_model.config import PrivacyConfig, RunConfig
from mmrec_model.errors import PolicyRefusal
from mmrec_model.planning import (
    activity_event,
    compare_event,
    evaluation_event,
    pairs_event,
    plan_events,
    popularity_event,
    training_event,
)
from mmrec_model.privacy.bodies import RecordType
from mmrec_model.privacy.clipping import clip_of
from mmrec_model.privacy.events import (
    GaussianRelease,
    NonPrivate,
    PrivacyEvent,
    SampledGaussian,
    from_record,
    to_record,
)
from mmrec_model.privacy.ledger import Ledger
from mmrec_model.privacy.records import Record
from mmrec_model.protocol import Arrays, Kind, Request

RELEASES: dict[Kind, str] = {
    Kind.ACTIVITY: "activity",
    Kind.POPULARITY: "popularity",
    Kind.PAIRS: "pairs",
    Kind.TRAIN: "train",
    Kind.EVALUATE: "evaluate",
    Kind.COMPARE: "compare",
}
"""What the ledger and the partner's policy call the priced messages."""


@dataclass(frozen=True)
class Charge:
    """One priced answer, before it is computed.

    Attributes:
        run_id: the run.
        round: 0 for activity, popularity and pairs, then 1, 2, ...; metrics have the round after which they are
            released, and the comparison comes one after the last round.
        kind: the message type.
        event: what it will cost.
        sensitivity: L2 bound of one user's contribution (of a training round, to the gradients); None without noise.
        model_digest: the global state it starts from; None before training.
        server_nonce: the coordinator's nonce for this message; None from a coordinator that is not pinned.
    """

    run_id: str
    round: int
    kind: Kind
    event: PrivacyEvent
    sensitivity: float | None
    model_digest: str | None
    server_nonce: str | None

    @property
    def release(self) -> str:
        """The kind of release, as the reserve states it."""
        return RELEASES[self.kind]


def charge_of(config: RunConfig, kind: Kind, request: Request, state: Arrays) -> Charge:
    """What answering `request` will cost.

    Args:
        config: the plan.
        kind: the message type.
        request: its fields.
        state: the global arrays it carries; empty but for training.

    Raises:
        ProtocolError: the state has no clip or cap, or one outside the plan's range, or asks for pairs of other items.
    """
    if kind is Kind.ACTIVITY:
        event, bound = activity_event(config.privacy), ACTIVITY_BOUND
    elif kind is Kind.POPULARITY:
        event, bound = popularity_event(config.privacy), sensitivity(cap_of(config.privacy, state))
    elif kind is Kind.PAIRS:
        check_pairs(config, state)
        event, bound = pairs_event(config.privacy, config.collaboration), BOUND
    elif kind is Kind.COMPARE:
        event, bound = compare_event(config.privacy, config.gate), comparison_sensitivity(config)
    elif kind is Kind.EVALUATE:
        event = evaluation_event(config.privacy, config.evaluation, releases=1)
        bound = metrics_sensitivity(config.evaluation)
    else:
        event, bound = training_event(config.privacy, config.training, rounds=1), clip_of(config.privacy, state)
    private = not isinstance(event, NonPrivate)
    return Charge(
        run_id=config.run_id,
        round=request.round,
        kind=kind,
        event=event,
        sensitivity=bound if private else None,
        model_digest=request.model_digest or None,
        server_nonce=request.nonce or None,
    )


def committed_event(config: RunConfig, *, noise_multiplier: float, steps: int | None) -> PrivacyEvent:
    """The mechanism as it really ran, from values read back from the computation."""
    if config.privacy.mechanism == "none":
        return NonPrivate()
    if steps is None:
        return GaussianRelease(noise_multiplier)
    return SampledGaussian(config.training.sample_rate, noise_multiplier, steps)


def approve_plan(ledger: Ledger, site: Site, config: RunConfig, *, rehearsed: bool = False) -> None:
    """Write the run's plan if it is new and its whole price fits into what is left of the budget.

    A run that begins ends the one before, whose replies are forgotten; a dry run ends none. Replies that never left are
    kept. The code that runs is checked first, also in the middle of a run: it may have been replaced since.

    Raises:
        PolicyRefusal: `self-test` if the installed package fails its own test; `budget` if the plan does not fit;
            `plan-changed` if the run was approved with another plan.
    """
    attest_code(ledger, site, config)
    known = [record for record in ledger.records if _is_plan_of(record, config.run_id)]
    if known:
        if known[-1].text("config_digest") != config.digest:
            raise PolicyRefusal("plan-changed", "the run was approved with another plan", remedy="Start a new run")
        return
    events, delta = plan_events(config), site.policy.max_delta
    spent = tuple(from_record(mechanism) for mechanism in ledger.spent())
    total = price(spent + events, delta)
    if total > site.policy.max_epsilon and not site.policy.allow_without_privacy:
        raise over_budget(total, delta, site.policy.max_epsilon)
    if not rehearsed:
        outbox.clear(site.outbox, but={record.hash for record in ledger.dangling()})
    ledger.append(RecordType.PLAN, _plan_body(config, events, site.config.users))


def over_budget(total: float, delta: float, limit: float) -> PolicyRefusal:
    """The refusal of a plan with which the data set would have spent `total`."""
    return PolicyRefusal(
        "budget",
        f"with this run the data set would have spent epsilon {total:.4f} at delta {delta:g}, the budget is {limit:g}",
        remedy="Plan fewer rounds or more noise",
    )


def find_reserve(ledger: Ledger, charge: Charge) -> Record | None:
    """The last reserve of the same release of the same round of the same run and state, or None.

    One for another state counts only once it was committed: before, nothing was answered under it.

    Raises:
        PolicyRefusal: `round-changed` if that round was answered for another global state.
    """
    for record in reversed(ledger.records):
        same = record.type == RecordType.RESERVE and record.text("run_id") == charge.run_id
        same = same and record.text("kind") == charge.release
        if same and record.whole("round") == charge.round:
            if record.maybe_text("model_digest") == charge.model_digest:
                return record
            if record.hash not in ledger.history.dangling:
                raise PolicyRefusal(
                    "round-changed", f"round {charge.round} was answered for another global state",
                    remedy="Resume the run from the coordinator's own snapshot",
                )  # fmt: skip
    return None


def _is_plan_of(record: Record, run_id: str) -> bool:
    return record.type == RecordType.PLAN and record.text("run_id") == run_id


def _plan_body(config: RunConfig, events: tuple[PrivacyEvent, ...], users: int) -> dict[str, object]:
    training, privacy = config.training, config.privacy
    private = privacy.mechanism != "none"
    costs = {
        "epsilon_zero_out": price(events, privacy.delta),
        "epsilon_replace_one": price(events, privacy.delta, "replace_one"),
        "epsilon_renyi": renyi_price(events, privacy.delta),
    }
    return {
        "run_id": config.run_id,
        "config_digest": config.digest,
        "mechanisms": [to_record(event) for event in events],
        "sampling": "poisson",
        "sample_rate": training.sample_rate,
        "noise_multiplier": privacy.noise_multiplier if private else None,
        "max_grad_norm": privacy.max_grad_norm,
        "clipping": privacy.clipping,
        "rounds": training.rounds,
        "steps": training.rounds * training.local_steps,
        "divisor": training.sample_rate * users,
        "optimizer": "sgd",
        "hyper_parameters": {
            "learning_rate": training.learning_rate,
            "local_steps": training.local_steps,
            "max_history": training.max_history,
            "negatives": training.negatives,
            **_clip_settings(privacy),
            "scope": config.model.scope,
        },
        "adaptivity": "fixed",
        **{name: value if math.isfinite(value) else None for name, value in costs.items()},
        "reason": None,
    }


def _clip_settings(privacy: PrivacyConfig) -> dict[str, object]:
    if privacy.clipping == "flat":
        return {}
    return {
        "clip_quantile": privacy.clip_quantile,
        "clip_learning_rate": privacy.clip_learning_rate,
        "clip_count_noise": privacy.clip_count_noise,
        "clip_range": privacy.clip_range,
    }
