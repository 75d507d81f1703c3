"""The scenarios by name."""

from __future__ import annotations

from mmrec_model.errors import UsageError
from simulations.scenarios.interface import Scenario
from simulations.scenarios.modalities import SCENARIO as MODALITIES

SCENARIOS: dict[str, Scenario] = {one.name: one for one in (MODALITIES,)}


def scenario_of(name: str) -> Scenario:
    """The scenario called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in SCENARIOS:
        raise UsageError(f"there is no scenario {name!r}", remedy=f"Use one of {sorted(SCENARIOS)}")
    return SCENARIOS[name]
