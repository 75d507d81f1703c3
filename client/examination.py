"""`mmrec self-test`: what the installed package shows about itself, for a person. No data is read.

1. The attestation that a site makes before it spends anything (`client.attestation`), here for a default plan: the
   random numbers of the operating system's source, and the replay of the recommender's own training step.
2. That replay for every family of models, losses and scopes that a plan may ask for (`client.plan_replay`).
3. The sensitivity table (`client.sensitivity_cases`): the real step and every known way of breaking its bound.
"""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass

from client.attestation import SelfTest, run_self_test
from client.made_up_plan import PlanShape
from client.plan_replay import FAMILIES, missing_package, replay_plan, shows_bound
from client.sensitivity_cases import Finding, broken_cases, measure, real_cases
from mmrec_model.canonical import JsonValue
from mmrec_model.errors import PrivacyError
from mmrec_model.installed_code import code_digest
from mmrec_model.privacy.noise import SYSTEM_SOURCE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examination:
    """What one run found.

    Attributes:
        attestation: what a ledger's `code` record would state.
        families: the replays of the recommender's step, one per family of plans.
        findings: the sensitivity table, the real step first.
        left_out: families that need an optional package which is not installed, with its name.
    """

    attestation: SelfTest
    families: tuple[Finding, ...]
    findings: tuple[Finding, ...]
    left_out: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether the package may spend, every real step holds, and every violation was caught."""
        return self.attestation.passed and all(finding.expected for finding in (*self.families, *self.findings))

    def to_json(self) -> dict[str, JsonValue]:
        """All of it; a sensitivity that is not a number is null."""
        return {
            "passed": self.passed,
            "code": self.attestation.code_digest,
            "random_numbers": self.attestation.rng,
            "training_step": self.attestation.neighbour_replay,
            "families": [_row(finding) for finding in self.families],
            "left_out": dict[str, JsonValue](self.left_out),
            "sensitivity": [_row(finding) for finding in self.findings],
        }


def examine_package() -> Examination:
    """Run everything, in half a minute at most."""
    missing = {name: missing_package(shape) for name, shape in FAMILIES.items()}
    return Examination(
        attestation=run_self_test(code_digest(), SYSTEM_SOURCE, PlanShape()),
        families=tuple(_family(name, shape) for name, shape in FAMILIES.items() if missing[name] is None),
        findings=tuple(measure(case) for case in (*real_cases(), *broken_cases())),
        left_out={name: package for name, package in missing.items() if package is not None},
    )


def _family(name: str, shape: PlanShape) -> Finding:
    try:
        report = replay_plan(shape)
    except PrivacyError:
        logger.exception("the step of '%s' does not run on made-up users", name)
        return Finding(name, violates=False, measured=math.nan, limit=math.nan, holds=False, expected=False)
    return Finding(name, False, report.measured, report.limit, report.holds, expected=shows_bound(report))


def _row(finding: Finding) -> dict[str, JsonValue]:
    return {**asdict(finding), **{name: _number(getattr(finding, name)) for name in ("measured", "limit")}}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
