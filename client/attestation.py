"""What the installed code shows about itself before it may spend anything, and the ledger's record of it.

1. Neighbour replay: the private step that trains, with the model, loss and gradients that train, runs on made-up users,
   with flat and with adaptive clipping; none of them may move the release, gradients and count together, by more than
   the plan's noise allows (`client.neighbour_replay`). One user reaches that bound, or the test would prove nothing;
   one has data that is not a number.
2. Random numbers: two draws of the site's kind of source are independent of each other, with the mean and the
   deviation asked for, each within 6 standard errors (one false alarm in 10^8 starts).

A `code` record of the ledger holds the result, and a `data_prep` record behind it the statistics that the code uses;
where those change, as by the popularity release of a run, another one follows.
Code whose last record is not a pass runs the test again; code that fails releases nothing. No user's data is read.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib.metadata import version
from typing import Final, Literal

import numpy as np
import torch

from client.gradients import gradients_by_name
from client.gradients.contract import select_users
from client.neighbour_replay import SensitivityReport, recorded_step, refuse_mixed_users, replay_neighbours
from client.private_step import StepPlan
from client.site import Site
from client.training import GRADIENTS, Witnessed, user_loss
from mmrec_model.canonical import sha256_hex
from mmrec_model.config import HEADS, HOUR_BUCKETS, MODALITIES, RANKING_LOSSES, WEEKDAYS, ModelConfig, RankingLoss
from mmrec_model.errors import PolicyRefusal, PrivacyError
from mmrec_model.model.heads.outcomes import Outcomes
from mmrec_model.model.items import Items
from mmrec_model.model.loss import HistoryBatch
from mmrec_model.model.recommender import RecommenderNetwork
from mmrec_model.privacy.bodies import RecordType
from mmrec_model.privacy.ledger import Ledger
from mmrec_model.privacy.noise import SYSTEM_SOURCE, GaussianNoise
from mmrec_model.privacy.records import Record

logger = logging.getLogger(__name__)

Outcome = Literal["passed", "failed"]

FLAT: Final = StepPlan(max_grad_norm=0.5, noise_multiplier=1.0, expected_users=3.5, sample_rate=0.5)
PLANS: Final = (FLAT, replace(FLAT, count_noise=1.0))
"""What is tested: a plan with flat clipping, and one that also releases the count of adaptive clipping."""
LIBRARIES: Final = ("torch", "opacus", "numpy", "dp-accounting")
_USERS, _PLACES, _NEGATIVES, _ITEMS, _WIDTH, _WITNESS = 7, 4, 6, 25, 5, 8
_FEEDBACK, _CATEGORIES = 5, ("a", "b", "c")
_UNREADABLE = _ITEMS - 1
_SEED: Final = b"self-test"
_DRAWN, _STANDARD_ERRORS = 100_000, 6.0
_REACHED = 0.99


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
def run_self_test(code_digest: str, source: str) -> SelfTest:
    """Run both tests, once per process and code digest.

    Args:
        code_digest: of the installed package (`Site.code_digest`).
        source: of the site's noise, as it names itself (`GaussianNoise.source`).
    """
    rng: Outcome = "passed" if _random_numbers_hold(source) else "failed"
    holds, digest = _replay()
    return SelfTest(code_digest, rng, "passed" if holds else "failed", digest)


def attest_code(ledger: Ledger, site: Site) -> None:
    """Make sure that the last `code` record is a pass of the code that runs, and the last `data_prep` true of it.

    A `data_prep` follows every `code`, and every release that training uses from then on: the popularity of this
    partner is listed with its charge before the first training step of the run is reserved.

    Raises:
        PolicyRefusal: `self-test` if the installed code fails; the ledger states the failure.
    """
    last = _last(ledger, RecordType.CODE)
    if last is None or not _is_pass_of(last, site.code_digest):
        result = run_self_test(site.code_digest, site.noise("self-test").source)
        if last is None or dict(last.values) != result.body():
            last = ledger.append(RecordType.CODE, result.body())
        _require_pass(result)
    stated, statistics = _last(ledger, RecordType.DATA_PREP), _statistics(ledger)
    if stated is None or stated.seq < last.seq or stated.table("statistics") != statistics:
        ledger.append(RecordType.DATA_PREP, {"statistics": statistics})


def installed_versions() -> dict[str, str]:
    """Versions of the libraries that compute gradients, noise and prices."""
    return {name.replace("-", "_"): version(name) for name in LIBRARIES}


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
    """Statistics that training uses: of the shared catalogue, and this partner's popularity once it is paid for."""
    public = {"origin": "public", "charge": None}
    statistics: dict[str, object] = {"item_vocabulary": public, "catalogue_transform": public}
    dangling = {record.hash for record in ledger.dangling()}
    for record in ledger.records:
        paid = record.type == RecordType.RESERVE and record.hash not in dangling
        kind = record.text("kind") if paid else ""
        if kind in {"popularity", "pairs"} and record.table("mechanism")["type"] != "non_private":
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


def _replay() -> tuple[bool, str | None]:
    """Whether the step holds its bound under every plan and with every loss, and the digest of the reports."""
    cases = [(plan, RANKING_LOSSES[0], 0) for plan in PLANS]
    cases += [(PLANS[-1], kind, _USERS - 2) for kind in RANKING_LOSSES[1:]]
    try:
        reports = [_replayed(plan, kind, first) for plan, kind, first in cases]
    except PrivacyError:
        logger.exception("the private step does not run on made-up users")
        return False, None
    broken = [one for one in reports if not (one.holds and one.measured >= _REACHED * one.limit)]
    for report in broken:
        logger.error("the private step on made-up users: %s", report)
    return not broken, sha256_hex(repr(reports).encode())


def _replayed(plan: StepPlan, kind: RankingLoss, first: int) -> SensitivityReport:
    """One plan and loss; the users from `first` on are left out in turn, of whom the last are the ones that matter."""
    catalogue, users = _made_up_catalogue(), _made_up_users()
    model, gradients = _made_up_model(), gradients_by_name(GRADIENTS)
    loss = partial(user_loss, catalogue=catalogue, kind=kind)
    step = recorded_step(model, loss, plan, gradients, lambda: GaussianNoise(seed=_SEED), micro_batch=3)
    report = replay_neighbours(step, users, plan.max_grad_norm, users=range(first, _USERS))
    refuse_mixed_users(model, loss, select_users(users, torch.arange(_USERS - 1)), gradients)
    return report


def _made_up_model() -> Witnessed:
    """The recommender with all heads and every trained weight away from zero, so that every layer has a gradient."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        heads = dict.fromkeys(HEADS, 1.0)
        config = ModelConfig(hidden=3, trained_dims=4, heads=heads, ctr_scorer="deepfm", categories=_CATEGORIES)
        model = RecommenderNetwork(config, dict.fromkeys(MODALITIES, _WIDTH))
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.3 * torch.randn(weight.shape))
    model.train()
    return Witnessed(model, _WITNESS)


def _made_up_catalogue() -> Items:
    """Unit vectors of all modalities, some missing; the last item has numbers that are none."""
    rng = np.random.default_rng(1)
    present_NM = rng.random((_ITEMS, len(MODALITIES))) < 0.7
    present_NM[:, 0] = True
    vectors = {}
    for place, name in enumerate(MODALITIES):
        rows = rng.normal(size=(_ITEMS, _WIDTH)) * present_NM[:, place, None]
        vectors[name] = (rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(min=1e-9)).astype(np.float32)
    vectors[MODALITIES[0]][_UNREADABLE] = np.nan
    return Items.from_arrays(vectors, present_NM, rng.normal(size=_ITEMS).astype(np.float32))


def _made_up_users() -> HistoryBatch:
    """Histories of every length from none to full; the last user has the item that is not a number."""
    rng = np.random.default_rng(2)
    items_BL = rng.integers(0, _UNREADABLE, size=(_USERS, _PLACES + _NEGATIVES))
    lengths_B = np.minimum(np.arange(_USERS), _PLACES)
    items_BL[-1, 0] = _UNREADABLE
    history = torch.from_numpy(items_BL), torch.from_numpy(np.arange(_PLACES) < lengths_B[:, None])
    return HistoryBatch(*history, outcomes=_made_up_outcomes(rng))


def _made_up_outcomes(rng: np.random.Generator) -> Outcomes:
    """Rows of every number from none to full, with labels of all kinds."""
    shape = (_USERS, _FEEDBACK)
    mask_BF = np.arange(_FEEDBACK) < np.arange(_USERS)[:, None]
    flags = {name: mask_BF & (rng.random(shape) < 0.6) for name in ("shown", "clicked", "converted", "rated")}
    whole = {"items": _UNREADABLE, "hour": HOUR_BUCKETS, "weekday": WEEKDAYS, "category": len(_CATEGORIES)}
    columns = {f"{name}_BF": torch.from_numpy(flag) for name, flag in flags.items()}
    columns |= {f"{name}_BF": torch.from_numpy(rng.integers(0, most, shape)) for name, most in whole.items()}
    return Outcomes(
        **columns,
        mask_BF=torch.from_numpy(mask_BF),
        ratings_BF=torch.from_numpy(rng.uniform(1.0, 5.0, shape).astype(np.float32)),
        category_BK=torch.from_numpy(rng.integers(-1, len(_CATEGORIES), (_USERS, _PLACES))),
    )
