"""What a run asks of a site, for its operator's eyes: releases with their noise, price, what is left, near limits.

Computed from the plan, the policy and the ledger; no user's data is read, but for the digest of its files. The price is
that of the whole plan, as it is charged if every round takes place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from client.approval import Bound, bind, budget_limit, cost_beside_others, spent_by_others
from client.charge import RELEASES, over_budget
from client.plan_checks import check_kind, check_plan, priced_kinds
from client.policy import amounts_of
from client.pricing import price
from client.site import Site
from mmrec_model.config import RunConfig
from mmrec_model.errors import PolicyRefusal
from mmrec_model.planning import plan_events
from mmrec_model.privacy.clipping import clip_bounds
from mmrec_model.privacy.events import PrivacyEvent
from mmrec_model.protocol import Kind

NEAR: Final = 0.8
"""Share of a limit from which on it counts as near."""


@dataclass(frozen=True)
class AskedRelease:
    """One kind of release of the plan.

    Attributes:
        kind: as ledger and policy call it.
        event: the mechanism, over the whole run.
        refusal: why the policy will not let it out, though the rest of the run goes on; empty if it will.
    """

    kind: str
    event: PrivacyEvent
    refusal: str


@dataclass(frozen=True)
class NearLimit:
    """A limit that the plan uses to at least the share `NEAR`, under its refusal code."""

    code: str
    asked: float
    limit: float


@dataclass(frozen=True)
class Proposal:
    """A plan that the policy does not refuse.

    Attributes:
        config: the plan.
        bound: what an approval would be bound to.
        releases: in the order of a run.
        clip: lowest and highest L2 bound of a user's gradient.
        delta: of all the prices.
        zero_out: epsilon of the plan alone, under the relation of the guarantee.
        replace_one: the same if a user's data is replaced by other data.
        others: epsilon of what the ledger holds of other runs.
        total: epsilon of these and the plan together.
        limit: of the total.
        near: limits that are near.
    """

    config: RunConfig
    bound: Bound
    releases: tuple[AskedRelease, ...]
    clip: tuple[float, float]
    delta: float
    zero_out: float
    replace_one: float
    others: float
    total: float
    limit: float
    near: tuple[NearLimit, ...]

    @property
    def remaining(self) -> float:
        """What the budget would have left once the run is over."""
        return self.limit - self.total


def propose(site: Site, config: RunConfig) -> Proposal:
    """Work out what a plan asks.

    Args:
        site: this partner.
        config: the plan, as the coordinator sends it.

    Raises:
        PolicyRefusal: what the policy refuses; `budget` if the plan does not fit into what is left.
        MmrecError: site or ledger cannot be used.
    """
    history = site.inspect_ledger().history
    check_plan(site, history, config)
    delta, limit = site.policy.max_delta, budget_limit(site, history)
    total = cost_beside_others(history, config, delta)
    if not total <= limit:
        raise over_budget(total, delta, limit)
    events, kinds = plan_events(config), priced_kinds(config)
    weights = site.parts_of(config).trained_weights
    amounts = [*(NearLimit(a.code, a.asked, a.limit) for a in amounts_of(site.policy, config, weights))]
    amounts.append(NearLimit("budget", total, limit))
    return Proposal(
        config=config,
        bound=bind(site, history, config),
        releases=tuple(
            AskedRelease(RELEASES[kind], event, _refusal(site, config, kind))
            for kind, event in zip(kinds, events, strict=True)
        ),
        clip=clip_bounds(config.privacy),
        delta=delta,
        zero_out=price(events, delta),
        replace_one=price(events, delta, "replace_one"),
        others=price(spent_by_others(history, config.run_id), delta),
        total=total,
        limit=limit,
        near=tuple(amount for amount in amounts if amount.asked >= NEAR * amount.limit),
    )


def _refusal(site: Site, config: RunConfig, kind: Kind) -> str:
    """Metrics may be refused by a partner that trains all the same; any other release ends the run here."""
    try:
        check_kind(site, config, kind)
    except PolicyRefusal as refusal:
        if kind is not Kind.EVALUATE:
            raise
        return str(refusal)
    return ""
