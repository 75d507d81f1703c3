"""A reply made on the real data by the real code and not sent: what would leave, by name, shape, bytes and digest.

1. A dry run goes the way of `client.release` up to the point where the reply is kept: plan and reserve are on the
   ledger, the reply is in the outbox. Nothing is committed, nothing leaves.
2. It costs what the reply costs, once: the coordinator's request for the same release of the same round, plan and state
   finds the reply and is answered with its bytes, charged nothing more. If that request never comes, or the state, the
   code or the data is another one by then, the reserve stays spent all the same.
3. The draw of the noise is in the outbox alone. Neither it nor any other value of a reply is shown: who knew the
   noise could take it off the message.
4. `rehearse_free` uses noise that is thrown away. It reads the data, charges nothing and leaves nothing behind; the
   digest it shows is of no later message.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from client.charge import RELEASES, Charge, approve_plan, charge_of
from client.inbox import kept_scorer
from client.making import MAKERS
from client.outbox import Finished
from client.plan_checks import SCORED, check_kind, check_plan, priced_kinds, rounds_of
from client.pricing import price_of_mechanisms
from client.release import prepare
from client.site import Site
from mmrec_model.canonical import JsonValue
from mmrec_model.config import RunConfig
from mmrec_model.errors import UsageError
from mmrec_model.model.recommender import initial_state
from mmrec_model.privacy.bodies import RecordType
from mmrec_model.privacy.clipping import start_clip
from mmrec_model.privacy.events import PrivacyEvent, to_record
from mmrec_model.privacy.records import NO_RECORD, Record, stored_form
from mmrec_model.protocol import (
    CAP,
    CLIP,
    FEATURE_MAP,
    METRIC,
    PRIOR,
    SCORER,
    SELECTED,
    TAIL,
    Arrays,
    Kind,
    Request,
    arrays_digest,
    state_digest,
)
from mmrec_model.snapshot_names import STATE, VELOCITY

Mechanisms: TypeAlias = list[dict[str, object]]
_MEANT: Final = {name: kind for kind, name in RELEASES.items()}


@dataclass(frozen=True)
class ShownArray:
    """An array that would leave: its name, its shape and its size in bytes."""

    name: str
    shape: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class Rehearsal:
    """What a dry run found.

    Attributes:
        run_id: the run.
        round: of the reply.
        release: what the ledger calls it.
        arrays: what would leave beside the fields of `Reply`, in order of name.
        digest: SHA-256 over names, shapes and bytes (`mmrec_model.protocol.arrays_digest`); with a charge that of the
            later message, as its `commit` will state it.
        state: `state_digest` of the global state it was made on; empty for a release without one.
        event: the mechanism.
        spent: epsilon on the ledger before, at the policy's delta.
        total: the same with this release.
        kept: whether the reply was kept for the request to come.
    """

    run_id: str
    round: int
    release: str
    arrays: tuple[ShownArray, ...]
    digest: str
    state: str
    event: PrivacyEvent
    spent: float
    total: float
    kept: bool

    def to_json(self) -> dict[str, JsonValue]:
        """All of it; an epsilon that is infinite is null."""
        epsilons = {"spent": self.spent, "total": self.total}
        finite = {name: value if math.isfinite(value) else None for name, value in epsilons.items()}
        return {**asdict(self), "event": to_record(self.event), **finite}


class _Unnoted(Site):
    """The same site, whose diary stays as it is."""

    def note(self, run_id: str, round_number: int, kind: str, facts: Mapping[str, object]) -> None:
        """Leave the diary alone."""


def rehearse(site: Site, config: RunConfig, round_number: int, release: str, state: Arrays) -> Rehearsal:
    """Make a reply, charge it and keep it.

    Args:
        site: this partner.
        config: the plan.
        round_number: of the plan.
        release: `activity`, `popularity`, `pairs`, `train`, `evaluate` or `compare`.
        state: what the request will carry; empty where it carries nothing. The scorer of a plan with pairs is the one
            that the coordinator sent.

    Raises:
        UsageError: the plan has no such release in that round, or the release needs a state.
        MmrecError: as `client.release` would refuse it.
    """
    kind = _kind_of(config, round_number, release)
    scorer = kept_scorer(site.inbox) if _has_scorer(config, kind) else {}
    if (not state and _untrained(site, config, kind)) or (_has_scorer(config, kind) and not scorer):
        raise UsageError(
            f"'{release}' of round {round_number} is made on a global state that only the coordinator has",
            remedy="Give its snapshot of the round before with --state, or take throw-away noise with --no-charge",
        )
    with site.open_ledger() as ledger:
        check_plan(site, ledger.history, config)
        _check_state(site, config, kind, state)
        check_kind(site, config, kind)
        charge = _charge(config, kind, round_number, state, scorer)
        before = ledger.spent()
        approve_plan(ledger, site, config, rehearsed=True)
        _, finished = prepare(site, ledger, charge, config, {**state, **scorer})
        after = ledger.spent()
    return _rehearsal(site, charge, finished, (before, after), kept=True)


def rehearse_free(site: Site, config: RunConfig, round_number: int, release: str, state: Arrays) -> Rehearsal:
    """The same with noise that is thrown away, on the untrained state if none is given; nothing is written.

    Args:
        site: this partner.
        config: the plan.
        round_number: of the plan.
        release: as of `rehearse`.
        state: the global state; empty for the untrained one, with a prior and a scorer of zeros.

    Raises:
        UsageError: the plan has no such release in that round.
        MmrecError: as `client.release` would refuse it.
    """
    kind = _kind_of(config, round_number, release)
    history = site.inspect_ledger().history
    check_plan(site, history, config)
    check_kind(site, config, kind)
    arrays = state or _untrained(site, config, kind)
    scorer = _empty_scorer(config) if _has_scorer(config, kind) else {}
    charge = _charge(config, kind, round_number, arrays, scorer)
    finished = MAKERS[kind](_Unnoted(site.root, site.config), _off_the_ledger(charge), config, {**arrays, **scorer})
    before = history.spent()
    return _rehearsal(site, charge, finished, (before, [*before, dict(to_record(charge.event))]), kept=False)


def read_state(path: Path) -> Arrays:
    """A global state from a file of arrays: a coordinator's snapshot, or arrays under the names they travel with.

    Raises:
        UsageError: it holds none.
    """
    try:
        arrays: Arrays = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}", remedy="Give the coordinator's rounds/NNNNN.safetensors"
        ) from error
    return {name.removeprefix(STATE): array for name, array in arrays.items() if not name.startswith(VELOCITY)}


def _kind_of(config: RunConfig, round_number: int, release: str) -> Kind:
    kind = _MEANT.get(release)
    if kind is None or kind not in priced_kinds(config) or round_number not in rounds_of(config, kind):
        raise UsageError(
            f"run '{config.run_id}' releases no '{release}' in round {round_number}",
            remedy=f"Name one of {', '.join(RELEASES[kind] for kind in priced_kinds(config))} and a round of the plan",
        )
    return kind


def _has_scorer(config: RunConfig, kind: Kind) -> bool:
    return kind in SCORED and config.collaboration.released


def _charge(config: RunConfig, kind: Kind, round_number: int, state: Arrays, scorer: Arrays) -> Charge:
    digest = state_digest(state, arrays_digest(scorer) if scorer else "") if state else ""
    request = Request(config.run_id, round_number, config.model_dump_json(), digest)
    return charge_of(config, kind, request, state)


def _untrained(site: Site, config: RunConfig, kind: Kind) -> Arrays:
    """What a request would carry at the start of the run, with zeros for what the partners' releases make of it."""
    if kind is Kind.ACTIVITY:
        return {}
    if kind is Kind.POPULARITY:
        return {CAP: np.array([config.privacy.popularity_cap], np.float32)} if config.privacy.activity_quantile else {}
    if kind is Kind.PAIRS:
        asked, public = config.collaboration, {SELECTED, FEATURE_MAP}
        tail = {TAIL: np.ones(asked.items, np.float32)} if asked.items and asked.tail_weight else {}
        return {name: array for name, array in _empty_scorer(config).items() if name in public} | tail
    initial = initial_state(config, encoder_source=site.config.text_encoder)
    clip = None if kind is not Kind.TRAIN else start_clip(config.privacy)
    prior = np.zeros(config.features.items, np.float32)
    return {**initial, PRIOR: prior} | ({} if clip is None else {CLIP: clip})


def _check_state(site: Site, config: RunConfig, kind: Kind, state: Arrays) -> None:
    """Refuse, before it costs anything, a state that is not of this plan's form."""
    given, planned = (
        {name: array.shape for name, array in one.items() if name != CLIP}
        for one in (state, _untrained(site, config, kind))
    )
    if given != planned:
        odd = sorted(name for name in {*given, *planned} if given.get(name) != planned.get(name))
        raise UsageError(
            f"the state differs from what a request for '{RELEASES[kind]}' carries, at {odd[:5]}",
            remedy="Give the arrays of this very request: for training the snapshot of the round before",
        )


def _empty_scorer(config: RunConfig) -> Arrays:
    items, dims, width = config.collaboration.items, config.collaboration.dims, sum(config.model_dims.values())
    of_items = {SCORER: np.zeros((items, items), np.float32), SELECTED: np.arange(items, dtype=np.float32)}
    of_features = {METRIC: np.zeros((dims, dims), np.float32), FEATURE_MAP: np.eye(width, dims, dtype=np.float32)}
    return (of_items if items else {}) | (of_features if dims else {})


def _off_the_ledger(charge: Charge) -> Record:
    """A reserve that is on no ledger, of a run of its own, so that a seeded site draws nothing that it draws again."""
    body = {"run_id": f"dry-run-{secrets.token_hex(8)}", "round": charge.round, "attempt": 0, "kind": charge.release}
    body |= {"mechanism": to_record(charge.event), "sensitivity": charge.sensitivity}
    return Record(
        0, NO_RECORD, RecordType.RESERVE, stored_form({**body, "model_digest": None, "server_nonce": None}), "", ""
    )


def _rehearsal(
    site: Site, charge: Charge, finished: Finished, spent: tuple[Mechanisms, Mechanisms], *, kept: bool
) -> Rehearsal:
    before, after = (price_of_mechanisms(mechanisms, site.policy.max_delta) for mechanisms in spent)
    arrays = sorted(finished.arrays.items())
    return Rehearsal(
        run_id=charge.run_id,
        round=charge.round,
        release=charge.release,
        arrays=tuple(ShownArray(name, array.shape, array.nbytes) for name, array in arrays),
        digest=arrays_digest(finished.arrays),
        state=charge.model_digest or "",
        event=charge.event,
        spent=before,
        total=after,
        kept=kept,
    )
