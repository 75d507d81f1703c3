"""From a request to what it costs: the mechanism to reserve, the plan to approve, the reserve made before.

The plan is written once per run, whole, before anything is spent; its price is that of every round it may ever ask for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from client import outbox
from client.attestation import attest_code
from client.popularity import sensitivity
from client.pricing import price, renyi_price
from client.site import Site
from mmrec_model.config import RunConfig
from mmrec_model.errors import PolicyRefusal
from mmrec_model.planning import plan_events, popularity_event, training_event
from mmrec_model.privacy.bodies import RecordType
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
from mmrec_model.protocol import Kind, Request


@dataclass(frozen=True)
class Charge:
    """One priced answer, before it is computed.

    Attributes:
        run_id: the run.
        round: 0 for the popularity release, then 1, 2, ...
        kind: the message type.
        event: what it will cost.
        sensitivity: L2 bound of one user's contribution; None without noise.
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


def charge_of(config: RunConfig, kind: Kind, request: Request) -> Charge:
    """What answering `request` will cost."""
    if kind is Kind.POPULARITY:
        event, bound = popularity_event(config.privacy), sensitivity(config.privacy)
    else:
        event, bound = training_event(config.privacy, config.training, rounds=1), config.privacy.max_grad_norm
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


def approve_plan(ledger: Ledger, site: Site, config: RunConfig) -> None:
    """Write the run's plan if it is new and its whole price fits into what is left of the budget.

    The code that runs is checked first, also in the middle of a run: it may have been replaced since the last round.

    Raises:
        PolicyRefusal: `self-test` if the installed package fails its own test; `budget` if the plan does not fit;
            `plan-changed` if the run was approved with another plan.
    """
    attest_code(ledger, site)
    known = [record for record in ledger.records if _is_plan_of(record, config.run_id)]
    if known:
        if known[-1].text("config_digest") != config.digest:
            raise PolicyRefusal("plan-changed", "the run was approved with another plan", remedy="Start a new run")
        return
    events, delta = plan_events(config), site.policy.max_delta
    spent = tuple(from_record(mechanism) for mechanism in ledger.spent())
    total = price(spent + events, delta)
    if total > site.policy.max_epsilon and not site.policy.allow_without_privacy:
        raise PolicyRefusal(
            "budget",
            f"with this run the data set would have spent epsilon {total:.4f} at delta {delta:g}, "
            f"the budget is {site.policy.max_epsilon:g}",
            remedy="Plan fewer rounds or more noise",
        )
    outbox.clear(site.outbox)
    ledger.append(RecordType.PLAN, _plan_body(config, events, site.config.users))


def find_reserve(ledger: Ledger, charge: Charge) -> Record | None:
    """The last reserve of the same round of the same run, or None.

    Raises:
        PolicyRefusal: `round-changed` if that round was reserved for another global state.
    """
    for record in reversed(ledger.records):
        same = record.type == RecordType.RESERVE and record.text("run_id") == charge.run_id
        if same and record.whole("round") == charge.round:
            if record.maybe_text("model_digest") != charge.model_digest:
                raise PolicyRefusal(
                    "round-changed", f"round {charge.round} was answered for another global state",
                    remedy="Resume the run from the coordinator's own snapshot",
                )  # fmt: skip
            return record
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
        "clipping": "flat",
        "rounds": training.rounds,
        "steps": training.rounds * training.local_steps,
        "divisor": training.sample_rate * users,
        "optimizer": "sgd",
        "hyper_parameters": {
            "learning_rate": training.learning_rate,
            "local_steps": training.local_steps,
            "max_history": training.max_history,
            "negatives": training.negatives,
            "scope": config.model.scope,
        },
        "adaptivity": "fixed",
        **{name: value if math.isfinite(value) else None for name, value in costs.items()},
        "reason": None,
    }
