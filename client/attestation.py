"""What the installed code shows about itself before a plan may spend anything, and the ledger's record of it.

1. Neighbour replay: the private step that trains, with the plan's own model, loss, gradients and clipping, runs on
   made-up users, of whom none may move the release by more than the plan's noise allows (`client.plan_replay`).
2. Random numbers: two draws of the site's kind of source are independent of each other, with the mean and the
   deviation asked for, each within 6 standard errors (one false alarm in 10^8 starts).

Both are run when a plan is new at this site, and when the code is another one than at the run's last plan or reserve;
code that fails releases nothing. A `code` record of the ledger holds the result: the first one of a code and its
libraries, and a later one where it fails, or passes after a failure. A `data_prep` record behind it holds the
statistics that the code uses; where those change, as by the popularity release of a run, another one follows.
No user's data is read.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Final, Literal

from client.made_up_plan import PlanShape
from client.plan_replay import replay_plan, shows_bound
from client.site import Site
from mmrec_model.canonical import sha256_hex
from mmrec_model.config import RunConfig
from mmrec_model.errors import PolicyRefusal, PrivacyError
from mmrec_model.privacy.bodies import RecordType
from mmrec_model.privacy.ledger import Ledger
from mmrec_model.privacy.noise import SYSTEM_SOURCE, GaussianNoise
from mmrec_model.privacy.records import Record

logger = logging.getLogger(__name__)

Outcome = Literal["passed", "failed"]

LIBRARIES: Final = ("torch", "opacus", "numpy", "dp-accounting")
_SEED: Final = b"self-test"
_DRAWN, _STANDARD_ERRORS = 100_000, 6.0


@dataclass(frozen=True)
class SelfTest:
    """What one run of the test found.

    Attributes:
        code_digest: of the package that ran.
        rng: whether the random numbers are what they should be.
        neighbour_replay: whether no made-up user moved the release by more than the clip.
        replay_digest: SHA-256 of the replay's report; None if the step refused to run.
    """

    code_digest: str
    rng: Outcome
    neighbour_replay: Outcome
    replay_digest: str | None

    @property
    def passed(self) -> bool:
        """Whether the code may spend."""
        return self.rng == self.neighbour_replay == "passed"

    def body(self) -> dict[str, object]:
        """The `code` record of the ledger."""
        return {
            "git_commit": None,
            "wheel_digest": self.code_digest,
            "lock_digest": None,
            "container_digest": None,
            "provenance": None,
            "versions": installed_versions(),
            "rng_self_test": self.rng,
            "neighbour_replay": self.neighbour_replay,
            "neighbour_replay_digest": self.replay_digest,
        }


@lru_cache(maxsize=8)
def run_self_test(code_digest: str, source: str, shape: PlanShape) -> SelfTest:
    """Run both tests, once per process, code digest and shape.

    Args:
        code_digest: of the installed package (`Site.code_digest`).
        source: of the site's noise, as it names itself (`GaussianNoise.source`).
        shape: of the plan.
    """
    rng: Outcome = "passed" if _random_numbers_hold(source) else "failed"
    holds, digest = _replay(shape)
    return SelfTest(code_digest, rng, "passed" if holds else "failed", digest)


def attest_code(ledger: Ledger, site: Site, config: RunConfig) -> None:
    """Make sure that the code that runs passes for this plan, and that the last `data_prep` is true of it.

    A `data_prep` follows every `code`, and every release that training uses from then on: the popularity of this
    partner is listed with its charge before the first training step of the run is reserved.

    Raises:
        PolicyRefusal: `self-test` if the installed code fails; the ledger states the failure.
    """
    last = _last(ledger, RecordType.CODE)
    if last is None or not _is_pass_of(last, site.code_digest) or not _ran_since(ledger, last, config.run_id):
        result = run_self_test(site.code_digest, site.noise("self-test").source, PlanShape.of(config))
        last = _recorded(ledger, last, result)
        _require_pass(result)
    stated, statistics = _last(ledger, RecordType.DATA_PREP), _statistics(ledger)
    if stated is None or stated.seq < last.seq or stated.table("statistics") != statistics:
        ledger.append(RecordType.DATA_PREP, {"statistics": statistics})


def installed_versions() -> dict[str, str]:
    """Versions of the libraries that compute gradients, noise and prices."""
    return {name.replace("-", "_"): version(name) for name in LIBRARIES}


def _ran_since(ledger: Ledger, code: Record, run_id: str) -> bool:
    """Whether the run planned or reserved anything behind a `code` record, and so passed the test with that code."""
    kinds = {RecordType.PLAN, RecordType.RESERVE}
    return any(record.type in kinds and record.text("run_id") == run_id for record in ledger.records[code.seq + 1 :])


def _recorded(ledger: Ledger, last: Record | None, result: SelfTest) -> Record:
    """The `code` record that says whether this code passes; it is written where the last one does not."""
    said = last is not None and _is_pass_of(last, result.code_digest) and result.passed
    if last is not None and (said or dict(last.values) == result.body()):
        return last
    return ledger.append(RecordType.CODE, result.body())


def _require_pass(result: SelfTest) -> None:
    if not result.passed:
        raise PolicyRefusal(
            "self-test",
            f"the installed code fails its own test: random numbers {result.rng}, "
            f"sensitivity of the step {result.neighbour_replay}",
            remedy="Install a release that passes; the partner's own log has the details",
        )


def _is_pass_of(record: Record, code_digest: str) -> bool:
    outcomes = record.text("rng_self_test"), record.text("neighbour_replay")
    same = record.maybe_text("wheel_digest") == code_digest and record.table("versions") == installed_versions()
    return same and outcomes == ("passed", "passed")


def _statistics(ledger: Ledger) -> dict[str, object]:
    """Statistics that training uses: of the shared catalogue, and this partner's own ones once they are paid for."""
    public = {"origin": "public", "charge": None}
    statistics: dict[str, object] = {"item_vocabulary": public, "catalogue_transform": public}
    dangling = {record.hash for record in ledger.dangling()}
    for record in ledger.records:
        paid = record.type == RecordType.RESERVE and record.hash not in dangling
        kind = record.text("kind") if paid else ""
        if kind in {"activity", "popularity", "pairs"} and record.table("mechanism")["type"] != "non_private":
            statistics[kind] = {"origin": "dp", "charge": record.hash}
    return statistics


def _last(ledger: Ledger, record_type: RecordType) -> Record | None:
    return next((record for record in reversed(ledger.records) if record.type == record_type), None)


def _random_numbers_hold(source: str) -> bool:
    noise = GaussianNoise(seed=None if source == SYSTEM_SOURCE else _SEED)
    first, second = (noise.draw(_DRAWN, 1.0) for _ in range(2))
    error = 1.0 / math.sqrt(_DRAWN)
    measured = {
        "mean of the first": (first.mean(), error),
        "mean of the second": (second.mean(), error),
        "deviation of the first": (first.std() - 1.0, error / math.sqrt(2.0)),
        "deviation of the second": (second.std() - 1.0, error / math.sqrt(2.0)),
        "correlation of the two": ((first * second).mean(), error),
    }
    odd = {name: float(value) for name, (value, unit) in measured.items() if not abs(value) < _STANDARD_ERRORS * unit}
    if odd:
        logger.error("the random numbers are off by more than %g standard errors: %s", _STANDARD_ERRORS, odd)
    return not odd and noise.source == source


def _replay(shape: PlanShape) -> tuple[bool, str | None]:
    """Whether the step of a shape shows its bound, and the digest of the report."""
    try:
        report = replay_plan(shape)
    except PrivacyError:
        logger.exception("the private step does not run on made-up users: %s", shape)
        return False, None
    if not shows_bound(report):
        logger.error("the private step on made-up users: %s, %s", report, shape)
    return shows_bound(report), sha256_hex(repr((shape, report)).encode())
