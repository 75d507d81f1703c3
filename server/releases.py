"""The waves of a run beside its training rounds, each once or where the plan says so.

    DESCRIBE      who is there; the partners approve the plan
    ACTIVITY      one priced release, where the plan asks for it: users by length of history, which set a cap
                  (`server.activity`)
    POPULARITY    one priced release: counts of items, which become the prior of round 0
    PAIRS         one priced release: sums of pairs, which become the collaborative scorer (`server.collaboration`)
    SCORER        carries that scorer to the partners, once
    EVALUATE      one priced release after each round that the plan names
    COMPARE       one priced release: the rungs of the ladder, for the gate (`server.gate`)
    RECEIPT       the last countersignatures; nobody has to answer

Every reply, an error reply too, passes `server.admission`, and counts only with a ledger that grew (`server.sites`).
Fewer admitted replies than the plan's `minimum_cohort` end the run with an error, but for ACTIVITY, EVALUATE and
COMPARE: they give no figure then, and the run goes on, because a partner may refuse to show these and still train.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from flwr.serverapp import Grid

from mmrec_model.activity import BOUND as ACTIVITY_BOUND
from mmrec_model.activity import bucket_edges, cap_of
from mmrec_model.collaboration.layout import released_numbers
from mmrec_model.collaboration.pairs import BOUND
from mmrec_model.collaboration.popularity import popularity_prior
from mmrec_model.config import RunConfig
from mmrec_model.ladder import rungs_of
from mmrec_model.privacy.clipping import start_clip
from mmrec_model.protocol import ACTIVITY, COMPARED, METRICS, PAIRS, Arrays, Kind, Request, state_digest
from server.admission import Expected, Shape, public_sum_bound
from server.aggregation import sum_arrays
from server.checkpoint import Snapshot
from server.exchange import address, exchange, message_to
from server.journal import WaveFacts
from server.measurement import Measured, means
from server.messages import deliver, pack, pack_arrays, wire_size
from server.sites import Sites
from server.waves import Enrolment, VoidWave, Wave, enrol, gather, require_cohort

COUNTS = "counts"
"""Name of the one array of a POPULARITY reply."""
RECEIPT_SECONDS = 60.0
"""Longest wait for the answers to the last message of a run."""
_LOG = logging.getLogger(__name__)

Floats: TypeAlias = npt.NDArray[np.float64]


def describe(grid: Grid, config: RunConfig, nodes: list[int], sites: Sites) -> tuple[Enrolment, WaveFacts]:
    """Ask every node who it is; the partners approve the plan, and their ledgers with it are countersigned.

    Raises:
        VoidWave: fewer partners than the plan's minimum enrol.
    """
    started = time.monotonic()
    request = sites.describe(Request(config.run_id, 0, config.model_dump_json()))
    content = pack(request, {})
    names = {node: f"node {node}" for node in nodes}
    wave = Wave(request, names, (), dict.fromkeys(nodes, wire_size(content)))
    messages = [message_to(config, Kind.DESCRIBE, request, node, content) for node in nodes]
    enrolment, facts = enrol(exchange(grid, config, messages), wave, lambda reply, _: sites.admit(reply))
    require_cohort(facts, config)
    return enrolment, replace(facts, seconds=time.monotonic() - started)


def release_activity(
    grid: Grid, config: RunConfig, enrolment: Enrolment, sites: Sites
) -> tuple[Floats | None, float, WaveFacts]:
    """Ask every partner for its noised numbers of users by activity, once.

    Returns:
        Their sum `[B]`, None where fewer releases than the plan's minimum were admitted; the standard deviation of the
        noise in each number; and what came back.
    """
    privacy = config.privacy
    width, noise = len(bucket_edges(privacy.popularity_cap)), privacy.activity_noise_multiplier
    sums = _Sums(Kind.ACTIVITY, ACTIVITY, width, ACTIVITY_BOUND, noise)
    request = Request(config.run_id, 0, config.model_dump_json())
    accepted, facts = _ask(grid, config, enrolment, sites, sums, request, {})
    total = _total(sums, accepted, facts) if _is_enough(facts, config) else None
    return total, noise * ACTIVITY_BOUND * math.sqrt(len(accepted)), facts


def release_popularity(  # noqa: PLR0917 - the parts of one round
    grid: Grid, config: RunConfig, enrolment: Enrolment, initial: Arrays, sites: Sites, carried: Arrays
) -> tuple[Snapshot, WaveFacts]:
    """Ask every partner for its noised item counts, once, and turn their sum into the prior of round 0.

    Args:
        grid: the transport.
        config: the plan.
        enrolment: the partners.
        initial: the trained arrays before round 1.
        sites: the partners' keys and ledger heads.
        carried: `cap` in a plan that has it chosen by activity, else nothing.

    Raises:
        VoidWave: fewer releases than the plan's minimum are admitted.
    """
    request = Request(config.run_id, 0, config.model_dump_json(), state_digest(carried) if carried else "")
    privacy, items = config.privacy, config.features.items
    bound = math.sqrt(cap_of(privacy, carried))
    sums = _Sums(Kind.POPULARITY, COUNTS, items, bound, privacy.popularity_noise_multiplier)
    accepted, facts = _ask(grid, config, enrolment, sites, sums, request, carried)
    require_cohort(facts, config)
    noise_sd = sums.noise * sums.bound * math.sqrt(len(accepted))
    prior = popularity_prior(_total(sums, accepted, facts), noise_sd=noise_sd)
    still = {name: 0.0 * array for name, array in initial.items()}
    return Snapshot(0, initial, prior, still, enrolment.users, start_clip(privacy)), facts


def release_pairs(
    grid: Grid, config: RunConfig, enrolment: Enrolment, sites: Sites, selected: Arrays
) -> tuple[Floats, float, WaveFacts]:
    """Ask every partner for its noised sum of pairs, once.

    Args:
        grid: the transport.
        config: the plan.
        enrolment: the partners.
        sites: the partners' keys and ledger heads.
        selected: `selected`, the places of the items whose pairs count, and `feature_map`; as far as the plan has them.

    Returns:
        The sum of all releases `[T]`, the standard deviation of the noise in each number, and what came back.

    Raises:
        VoidWave: fewer releases than the plan's minimum are admitted.
    """
    asked = config.collaboration
    request = Request(config.run_id, 0, config.model_dump_json(), state_digest(selected))
    sums = _Sums(Kind.PAIRS, PAIRS, released_numbers(asked), BOUND, asked.noise_multiplier)
    accepted, facts = _ask(grid, config, enrolment, sites, sums, request, selected)
    require_cohort(facts, config)
    return _total(sums, accepted, facts), asked.noise_multiplier * BOUND * math.sqrt(len(accepted)), facts


def send_scorer(grid: Grid, config: RunConfig, enrolment: Enrolment, sites: Sites, scorer: Arrays) -> WaveFacts:
    """Carry the collaborative scorer to every partner; later requests name its digest.

    Raises:
        VoidWave: fewer partners than the plan's minimum have taken it.
    """
    request = Request(config.run_id, 0, config.model_dump_json(), state_digest(scorer))
    _, facts = _ask(grid, config, enrolment, sites, _Sums(Kind.SCORER), request, scorer)
    require_cohort(facts, config)
    return facts


def release_metrics(  # noqa: PLR0917 - the parts of one round
    grid: Grid, config: RunConfig, enrolment: Enrolment, snapshot: Snapshot, sites: Sites, round_: int
) -> tuple[Measured | None, WaveFacts]:
    """Ask every partner for the noised sums of its validation metrics, once.

    Args:
        grid: the transport.
        config: the plan.
        enrolment: the partners.
        snapshot: the state to be evaluated.
        sites: the partners' keys and ledger heads.
        round_: one of the plan's `evaluated_rounds`.

    Returns:
        The means, None where fewer releases than the plan's minimum were admitted; and what came back.
    """
    asked = config.evaluation
    sums = _Sums(
        Kind.EVALUATE, METRICS, len(asked.metrics) + 1, math.sqrt(len(asked.metrics) + 1), asked.noise_multiplier
    )
    return _measure(grid, config, enrolment, snapshot, sites, sums, asked.metrics, round_)


def release_comparison(
    grid: Grid, config: RunConfig, enrolment: Enrolment, snapshot: Snapshot, sites: Sites
) -> tuple[Measured | None, WaveFacts]:
    """Ask every partner for the noised sums of the gate's metric of each rung, once; as `release_metrics`."""
    rungs = rungs_of(config)
    width, noise = len(rungs) + 1, config.gate.noise_multiplier
    sums = _Sums(Kind.COMPARE, COMPARED, width, math.sqrt(width), noise)
    return _measure(grid, config, enrolment, snapshot, sites, sums, rungs, config.training.rounds + 1)


def send_receipts(grid: Grid, config: RunConfig, enrolment: Enrolment, sites: Sites) -> WaveFacts:
    """Send every partner the countersignature of its last head, so that its ledger ends countersigned.

    The run is over: a partner that is gone, or does not answer within `RECEIPT_SECONDS`, is counted and no more.
    """
    started = time.monotonic()
    request = Request(config.run_id, 0, config.model_dump_json())
    asked = address(grid, config, enrolment, sites, Kind.RECEIPT, request, pack_arrays({}))
    expected = Expected(request, Kind.RECEIPT, {}, enrolment.users, dict.fromkeys(enrolment.users, 0.0))
    timeout = min(config.round_timeout, RECEIPT_SECONDS)
    replies = deliver(grid.send_and_receive(asked.messages, timeout=timeout))
    _, facts = gather(replies, asked.wave, expected, lambda reply, _: sites.admit(reply), sites.require_standing)
    return replace(facts, seconds=time.monotonic() - started)


@dataclass(frozen=True)
class _Sums:
    """A release of noised sums: one array of `width` numbers, to which a user adds at most `bound` in L2 norm.

    `noise` is the standard deviation of each number in units of `bound`; without a name nothing is released.
    """

    kind: Kind
    name: str = ""
    width: int = 0
    bound: float = 0.0
    noise: float = 0.0


def _ask(  # noqa: PLR0917 - the parts of one round
    grid: Grid,
    config: RunConfig,
    enrolment: Enrolment,
    sites: Sites,
    sums: _Sums,
    request: Request,
    state: Arrays,
) -> tuple[dict[str, Arrays], WaveFacts]:
    started = time.monotonic()
    asked = address(grid, config, enrolment, sites, sums.kind, request, pack_arrays(state))
    bounds = {
        name: public_sum_bound(users=users, width=sums.width, bound=sums.bound, noise=sums.noise)
        for name, users in enrolment.users.items()
    }
    shapes: dict[str, Shape] = {sums.name: (sums.width,)} if sums.name else {}
    expected = Expected(request, sums.kind, shapes, enrolment.users, bounds)
    replies = exchange(grid, config, asked.messages)
    accepted, facts = gather(replies, asked.wave, expected, lambda reply, _: sites.admit(reply), sites.require_standing)
    return accepted, replace(facts, seconds=time.monotonic() - started)


def _measure(  # noqa: PLR0917 - the parts of one round
    grid: Grid,
    config: RunConfig,
    enrolment: Enrolment,
    snapshot: Snapshot,
    sites: Sites,
    sums: _Sums,
    names: Sequence[str],
    round_: int,
) -> tuple[Measured | None, WaveFacts]:
    request = Request(config.run_id, round_, config.model_dump_json(), snapshot.digest, snapshot.scorer)
    accepted, facts = _ask(grid, config, enrolment, sites, sums, request, snapshot.travelling)
    if not _is_enough(facts, config):
        return None, facts
    total = _total(sums, accepted, facts)
    return means(names, total, noise_multiplier=sums.noise, partners=len(accepted)), facts


def _is_enough(facts: WaveFacts, config: RunConfig) -> bool:
    """Whether a wave that the run can do without has the plan's minimum of replies; the log says where it has not."""
    try:
        require_cohort(facts, config)
    except VoidWave as void:
        _LOG.warning("no figures of %s; the run goes on", void.problem)
        return False
    return True


def _total(sums: _Sums, accepted: Mapping[str, Arrays], facts: WaveFacts) -> Floats:
    return sum_arrays([accepted[name][sums.name] for name in facts.accepted])
