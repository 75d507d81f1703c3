"""What a list of releases costs at this partner; computed once per distinct list in a process.

The ledger asks before it accepts a reserve, and the policy before it approves a plan. Enforcement rounds losses up on
the coarse grid (0.002 dearer at most on a 200-round plan); the report uses the fine one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from mmrec_model.privacy.accounting import ENFORCEMENT_GRID, epsilon
from mmrec_model.privacy.events import PrivacyEvent, Relation, from_record, merge
from mmrec_model.privacy.renyi import renyi_epsilon


def price_of_mechanisms(mechanisms: Sequence[Mapping[str, object]], delta: float) -> float:
    """Epsilon, zero-out, of mechanisms as the ledger records them."""
    return price(tuple(from_record(mechanism) for mechanism in mechanisms), delta)


def price(events: Sequence[PrivacyEvent], delta: float, relation: Relation = "zero_out") -> float:
    """Epsilon of `events` at `delta`; infinite if one of them is without noise."""
    return _priced(merge(events), delta, relation)


def renyi_price(events: Sequence[PrivacyEvent], delta: float) -> float:
    """Epsilon by Renyi accounting at the order that suits these events best: a looser second figure of a fixed plan."""
    return _renyi_priced(merge(events), delta)


@lru_cache(maxsize=4096)
def _priced(events: tuple[PrivacyEvent, ...], delta: float, relation: Relation) -> float:
    return epsilon(events, delta, relation, grid=ENFORCEMENT_GRID)


@lru_cache(maxsize=256)
def _renyi_priced(events: tuple[PrivacyEvent, ...], delta: float) -> float:
    return renyi_epsilon(events, delta)
