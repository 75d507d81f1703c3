"""The single exit: everything a partner sends is made here, and has been charged before it is made.

For each priced message: admit -> receipt of the last head and plan on the ledger -> reserve (on disk) -> compute ->
keep -> commit -> send with the new head, signed. The signature is checked before the policy: nobody probes its limits.
A crash between any two of these can lose work, never budget: a reserve is not refunded, and a reply that was computed
is found again and sent as it was. What leaves is the `Reply` fields and the arrays below, nothing else:

    DESCRIBE    name, public number of users                                                price 0
    POPULARITY  noised item counts                                                          one Gaussian release
    TRAIN       change of the trained weights after noised, clipped steps; witness block    sampled Gaussian steps
                with adaptive clipping, the noised share of users within the clip           in the same steps
    EVALUATE    noised sums of the plan's metrics and of the evaluated users                one Gaussian release
    RECEIPT     nothing                                                                     price 0
    these four  the signed head of the ledger, the proof that it only grew, own rotations   price 0
    any kind    a refusal: a policy code and a text without private values                  price 0
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from dataclasses import dataclass, field

import numpy as np

from client import outbox, witness
from client.charge import RELEASES, Charge, approve_plan, charge_of, committed_event, find_reserve
from client.coordinator import Shown, confirm, show
from client.measurement import measure
from client.measurement import sensitivity as metrics_sensitivity
from client.outbox import Finished
from client.policy import check_encoder, check_metrics, check_release, check_run
from client.popularity import count_items, sensitivity
from client.site import Site
from client.training import train_round
from mmrec_model.config import RunConfig
from mmrec_model.config_reader import parse_config
from mmrec_model.errors import (
    BudgetExhausted,
    BundleSignatureError,
    LedgerError,
    MmrecError,
    PolicyRefusal,
    ProtocolError,
)
from mmrec_model.privacy.events import NonPrivate, to_record
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.ledger import Ledger
from mmrec_model.privacy.records import Record
from mmrec_model.protocol import CLIP_SHARE, METRICS, WITNESS, Arrays, Kind, Reply, Request, arrays_digest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What is sent: the reply's fields and its arrays."""

    reply: Reply
    arrays: Arrays = field(default_factory=dict)


def answer(site: Site, kind: Kind, request: Request, arrays: Arrays) -> Answer:
    """Answer one request of the coordinator.

    Args:
        site: this partner.
        kind: the message type.
        request: its fields.
        arrays: the global state it carries; empty but for training and evaluation.

    Returns:
        The reply; a refusal if policy, budget, protocol or ledger say no.
    """
    try:
        return _admitted(site, kind, request, arrays)
    except Exception as error:
        return refused(site, kind, request, error)


def refused(site: Site, kind: Kind, request: Request, error: Exception) -> Answer:
    """The refusal that tells the coordinator of an error what it may know.

    Flower would send the words of the exception, which may hold data or paths.

    Args:
        site: this partner.
        kind: the message type.
        request: its fields; of a message that could not be read, what could.
        error: what went wrong.
    """
    if isinstance(error, MmrecError):
        logger.warning("site %s refuses %s of run %s: %s", site.config.name, kind, request.run_id, error)
        code, text = _refusal(error)
    else:
        logger.error("site %s fails at %s of run %s", site.config.name, kind, request.run_id, exc_info=error)
        code, text = "site", _UNEXPECTED
    return Answer(_reply(site, kind, request, refusal=code, refusal_text=text))


def _admitted(site: Site, kind: Kind, request: Request, arrays: Arrays) -> Answer:
    config = parse_config(RunConfig, request.plan, source="the coordinator's plan")
    _check_request(config, kind, request, arrays)
    with site.open_ledger() as ledger:
        challenge = confirm(ledger, kind, request)
        if kind is Kind.RECEIPT:
            return Answer(_reply(site, kind, request, show(ledger, challenge)))
        check_encoder(config, site.bundle.tunable_encoder)
        parts = site.parts_of(config)
        parts.require_encoders()
        check_run(
            site.policy,
            config,
            users=site.config.users,
            installed_features=site.bundle.digest,
            installed_code=site.code_digest,
            trained_weights=parts.trained_weights,
        )
        site.check_features(ledger.history.keys.get("server"))
        made: Arrays = {}
        if kind is Kind.DESCRIBE:
            approve_plan(ledger, site, config)
        else:
            if kind is Kind.EVALUATE:
                check_metrics(site.policy, config)
            else:
                check_release(site.policy, RELEASES[kind])
            made = _priced(site, ledger, charge_of(config, kind, request, arrays), config, arrays)
        return Answer(_reply(site, kind, request, show(ledger, challenge)), made)


def _check_request(config: RunConfig, kind: Kind, request: Request, arrays: Arrays) -> None:
    rounds: Container[int] = range(1, config.training.rounds + 1) if kind is Kind.TRAIN else (0,)
    if kind is Kind.EVALUATE:
        rounds = config.evaluated_rounds
    if request.run_id != config.run_id or request.round not in rounds:
        raise ProtocolError(
            f"round {request.round} of run '{request.run_id}' is not a {kind} round of plan '{config.run_id}'",
            remedy="Send the rounds of the plan's own run",
        )
    if kind in {Kind.TRAIN, Kind.EVALUATE} and arrays_digest(arrays) != request.model_digest:
        raise ProtocolError("the global state is not the one the request names", remedy="Send the request again")


def _priced(site: Site, ledger: Ledger, charge: Charge, config: RunConfig, state: Arrays) -> Arrays:
    approve_plan(ledger, site, config)
    reserve = find_reserve(ledger, charge)
    finished = outbox.find(site.outbox, reserve.hash) if reserve is not None else None
    if reserve is None or finished is None:
        if reserve is not None:
            logger.warning(
                "site %s: attempt %d of round %d of run %s ended before its reply was kept; it stays spent",
                site.config.name, reserve.whole("attempt"), charge.round, charge.run_id,
            )  # fmt: skip
        reserve = ledger.reserve(
            run_id=charge.run_id,
            round_number=charge.round,
            kind=charge.release,
            mechanism=to_record(charge.event),
            sensitivity=charge.sensitivity,
            model_digest=charge.model_digest,
            server_nonce=charge.server_nonce,
        )
        with site.diary(charge.run_id, charge.round, charge.release):
            finished = _MAKERS[charge.kind](site, reserve, config, state)
        outbox.keep(site.outbox, reserve.hash, finished)
    if reserve in ledger.dangling():
        ledger.commit(
            reserve,
            update_digest=arrays_digest(finished.arrays),
            mechanism=to_record(finished.event),
            sensitivity=finished.sensitivity,
            steps_done=finished.steps,
            rng=finished.rng,
            witness=witness.check(
                site.witness, config, finished.arrays, users=site.config.users, clip=finished.sensitivity
            ),
        )
        witness.remember(site.witness, finished.arrays)
    _require_committed(ledger, reserve, finished)
    return finished.arrays


def _require_committed(ledger: Ledger, reserve: Record, finished: Finished) -> None:
    """Nothing leaves that is not, byte for byte, what the ledger's commit names."""
    commit = next(record for record in reversed(ledger.records) if record.body.get("reserve") == reserve.hash)
    if commit.text("update_digest") != arrays_digest(finished.arrays):
        raise LedgerError(
            f"the stored reply of round {reserve.whole('round')} is not the one that was committed",
            remedy="The file in the outbox was changed; delete it: its cost stays spent",
        )


def _make_popularity(site: Site, reserve: Record, config: RunConfig, _state: Arrays) -> Finished:
    noise = site.noise(f"popularity/{reserve.text('run_id')}/{reserve.whole('attempt')}")
    counts = count_items(site.dataset.train, config.features.items, config.privacy, noise)
    event = committed_event(config, noise_multiplier=config.privacy.popularity_noise_multiplier, steps=None)
    bound = None if isinstance(event, NonPrivate) else sensitivity(config.privacy)
    return Finished({"counts": counts}, event, 1, _rng(config, noise.source), bound)


def _make_update(site: Site, reserve: Record, config: RunConfig, state: Arrays) -> Finished:
    place = f"{reserve.text('run_id')}/{reserve.whole('round')}/{reserve.whole('attempt')}"
    noise = site.noise(f"train/{place}")
    trained = train_round(
        config,
        site.items,
        site.dataset.train,
        state,
        users=site.config.users,
        noise=noise,
        encoder_source=site.config.text_encoder,
        own=site.parts_of(config).own_media(),
        labels=site.dataset.labels(config.model.categories),
    )
    event = committed_event(config, noise_multiplier=trained.noise_multiplier, steps=trained.steps)
    arrays = dict(trained.update)
    if trained.witness.size:
        arrays[WITNESS] = trained.witness
    if trained.clip_share is not None:
        arrays[CLIP_SHARE] = np.array([trained.clip_share], np.float32)
    bound = None if isinstance(event, NonPrivate) else trained.max_grad_norm
    # Noise that is not right is not even kept: the next request is a new attempt.
    witness.check(site.witness, config, arrays, users=site.config.users, clip=bound)
    return Finished(arrays, event, trained.steps, _rng(config, noise.source), bound)


def _make_metrics(site: Site, reserve: Record, config: RunConfig, state: Arrays) -> Finished:
    place = f"{reserve.text('run_id')}/{reserve.whole('round')}/{reserve.whole('attempt')}"
    noise = site.noise(f"evaluate/{place}")
    sums = measure(
        config,
        site.items,
        site.dataset,
        state,
        noise,
        encoder_source=site.config.text_encoder,
        own=site.parts_of(config).own_media(),
    )
    event = committed_event(config, noise_multiplier=config.evaluation.noise_multiplier, steps=None)
    bound = None if isinstance(event, NonPrivate) else metrics_sensitivity(config.evaluation)
    return Finished({METRICS: sums}, event, 1, _rng(config, noise.source), bound)


_MAKERS: dict[Kind, Callable[[Site, Record, RunConfig, Arrays], Finished]] = {
    Kind.POPULARITY: _make_popularity,
    Kind.TRAIN: _make_update,
    Kind.EVALUATE: _make_metrics,
}


_UNEXPECTED = "an unexpected error; the partner's own log has the details"
_LEDGER_WORDS: dict[FaultCode, str] = {
    FaultCode.SIGNATURE: "the request is not signed by the coordinator that this ledger names",
    FaultCode.NONCE: "the request is a replay, or is not meant for this partner",
    FaultCode.ROLLBACK: "the ledger is shorter than a head that was shown before",
    FaultCode.FORK: "the ledger is not the one whose head was shown before",
}
"""What the coordinator learns of a fault of the ledger; the partner's own log has the numbers."""


def _rng(config: RunConfig, source: str) -> str:
    if config.privacy.mechanism == "none":
        return "none"
    return "simulated" if source.endswith("simulation") else source


def _reply(
    site: Site,
    kind: Kind,
    request: Request,
    shown: Shown | None = None,
    *,
    refusal: str = "",
    refusal_text: str = "",
) -> Reply:
    return Reply(
        partner=site.config.name,
        run_id=request.run_id,
        round=request.round,
        kind=str(kind),
        model_digest=request.model_digest,
        users=site.config.users,
        ledger_head=shown.ledger_head if shown else "",
        head=shown.head if shown else "",
        growth=shown.growth if shown else "",
        rotations=shown.rotations if shown else "",
        refusal=refusal,
        refusal_text=refusal_text,
    )


def _refusal(error: MmrecError) -> tuple[str, str]:
    """Code and text that may leave: a policy's words are public, any other error is named by its class alone."""
    if isinstance(error, PolicyRefusal):
        return error.code, str(error)
    if isinstance(error, BudgetExhausted):
        return "budget", "the epsilon budget of this data set does not cover the request"
    if isinstance(error, ProtocolError):
        return "protocol", str(error)
    if isinstance(error, BundleSignatureError):
        return "features-signature", "the installed feature bundle is not signed by the coordinator's key"
    if isinstance(error, LedgerFault) and error.code in _LEDGER_WORDS:
        return str(error.code), _LEDGER_WORDS[error.code]
    return "site", f"{type(error).__name__}; the partner's own log has the details"
