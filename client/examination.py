"""`mmrec self-test`: what the installed package shows about itself, for a person. No data is read.

1. The attestation that a site makes before it spends anything (`client.attestation`): the random numbers of the
   operating system's source, and the replay of the recommender's own training step.
2. The sensitivity table (`client.sensitivity_cases`): the real step and every known way of breaking its bound.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from client.attestation import SelfTest, run_self_test
from client.sensitivity_cases import Finding, broken_cases, measure, real_cases
from client.site import code_digest
from mmrec_model.canonical import JsonValue
from mmrec_model.privacy.noise import SYSTEM_SOURCE


@dataclass(frozen=True)
class Examination:
    """What one run found.

    Attributes:
        attestation: what a ledger's `code` record would state.
        findings: the sensitivity table, the real step first.
    """

    attestation: SelfTest
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether the package may spend, the real step holds, and every violation was caught."""
        return self.attestation.passed and all(finding.expected for finding in self.findings)

    def to_json(self) -> dict[str, JsonValue]:
        """All of it; a sensitivity that is not a number is null."""
        rows: list[JsonValue] = []
        for finding in self.findings:
            row: dict[str, JsonValue] = asdict(finding)
            rows.append({**row, "measured": finding.measured if math.isfinite(finding.measured) else None})
        return {
            "passed": self.passed,
            "code": self.attestation.code_digest,
            "random_numbers": self.attestation.rng,
            "training_step": self.attestation.neighbour_replay,
            "sensitivity": rows,
        }


def examine_package() -> Examination:
    """Run everything, in some seconds."""
    findings = tuple(measure(case) for case in (*real_cases(), *broken_cases()))
    return Examination(run_self_test(code_digest(), SYSTEM_SOURCE), findings)
