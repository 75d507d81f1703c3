"""The scenarios by name."""

from __future__ import annotations

from typing import Any

from mmrec_model.errors import UsageError
from simulations.scenarios.interface import Scenario
from simulations.scenarios.modalities import SCENARIO as MODALITIES
from simulations.scenarios.privacy_utility import SCENARIO as PRIVACY_UTILITY

# Findings differ between scenarios, and nothing that takes one by its name reads them.
SCENARIOS: dict[str, Scenario[Any]] = {MODALITIES.name: MODALITIES, PRIVACY_UTILITY.name: PRIVACY_UTILITY}


def scenario_of(name: str) -> Scenario[Any]:
    """The scenario called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in SCENARIOS:
        raise UsageError(f"there is no scenario {name!r}", remedy=f"Use one of {sorted(SCENARIOS)}")
    return SCENARIOS[name]
