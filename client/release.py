"""The single exit: everything a partner sends is made here, and has been charged before it is made.

For each priced message: admit -> plan on the ledger -> reserve (on disk) -> compute -> keep -> commit -> send.
A crash between any two of these can lose work, never budget: a reserve is not refunded, and a reply that was computed
is found again and sent as it was. What leaves is the `Reply` fields and the arrays below, nothing else:

    DESCRIBE    name, public number of users, digest of the ledger's head                   price 0
    POPULARITY  noised item counts                                                          one Gaussian release
    TRAIN       change of the trained weights after noised, clipped steps                   sampled Gaussian steps
    any kind    a refusal: a policy code and a text without private values                  price 0
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from client import outbox
from client.charge import Charge, approve_plan, charge_of, committed_event, find_reserve
from client.outbox import Finished
from client.policy import Release, check_release, check_run
from client.popularity import count_items
from client.site import Site
from client.training import train_round
from mmrec_model.config import RunConfig, parse_config
from mmrec_model.errors import BudgetExhausted, MmrecError, PolicyRefusal, ProtocolError
from mmrec_model.model.recommender import build_model
from mmrec_model.privacy.events import to_record
from mmrec_model.privacy.ledger import Ledger
from mmrec_model.privacy.records import Record
from mmrec_model.protocol import Arrays, Kind, Reply, Request, arrays_digest

logger = logging.getLogger(__name__)

_NAMES: dict[Kind, Release] = {Kind.POPULARITY: "popularity", Kind.TRAIN: "train"}


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
        arrays: the global state it carries; empty but for training.

    Returns:
        The reply; a refusal if policy, budget, protocol or ledger say no.
    """
    try:
        return _admitted(site, kind, request, arrays)
    except MmrecError as error:
        logger.warning("site %s refuses %s of run %s: %s", site.config.name, kind, request.run_id, error)
        code, text = _refusal(error)
        return Answer(_reply(site, kind, request, refusal=code, refusal_text=text))


def _admitted(site: Site, kind: Kind, request: Request, arrays: Arrays) -> Answer:
    config = parse_config(RunConfig, request.plan, source="the coordinator's plan")
    _check_request(config, kind, request, arrays)
    check_run(
        site.policy,
        config,
        users=site.config.users,
        installed_features=site.bundle.digest,
        trained_weights=sum(weight.numel() for weight in build_model(config).trainable_state().values()),
    )
    with site.open_ledger() as ledger:
        if kind is Kind.DESCRIBE:
            return Answer(_reply(site, kind, request, ledger_head=ledger.head.hash))
        check_release(site.policy, _NAMES[kind])
        made = _priced(site, ledger, charge_of(config, kind, request), config, arrays)
        return Answer(_reply(site, kind, request, ledger_head=ledger.head.hash), made)


def _check_request(config: RunConfig, kind: Kind, request: Request, arrays: Arrays) -> None:
    first, last = (1, config.training.rounds) if kind is Kind.TRAIN else (0, 0)
    if request.run_id != config.run_id or not first <= request.round <= last:
        raise ProtocolError(
            f"round {request.round} of run '{request.run_id}' is not a {kind} round of plan '{config.run_id}'",
            remedy="Send rounds in 1..rounds of the plan's own run",
        )
    if kind is Kind.TRAIN and arrays_digest(arrays) != request.model_digest:
        raise ProtocolError("the global state is not the one the request names", remedy="Send the request again")


def _priced(site: Site, ledger: Ledger, charge: Charge, config: RunConfig, state: Arrays) -> Arrays:
    approve_plan(ledger, site, config)
    reserve = find_reserve(ledger, charge)
    finished = outbox.find(site.outbox, reserve.hash) if reserve is not None else None
    if reserve is None or finished is None:
        reserve = ledger.reserve(
            run_id=charge.run_id,
            round_number=charge.round,
            kind=_NAMES[charge.kind],
            mechanism=to_record(charge.event),
            sensitivity=charge.sensitivity,
            model_digest=charge.model_digest,
        )
        with site.diary(charge.run_id, charge.round, _NAMES[charge.kind]):
            finished = _MAKERS[charge.kind](site, reserve, config, state)
        outbox.keep(site.outbox, reserve.hash, finished)
    if reserve in ledger.dangling():
        ledger.commit(
            reserve,
            update_digest=arrays_digest(finished.arrays),
            mechanism=to_record(finished.event),
            sensitivity=charge.sensitivity,
            steps_done=finished.steps,
            rng=finished.rng,
        )
    return finished.arrays


def _make_popularity(site: Site, reserve: Record, config: RunConfig, _state: Arrays) -> Finished:
    noise = site.noise(f"popularity/{reserve.text('run_id')}/{reserve.whole('attempt')}")
    counts = count_items(site.dataset.train, config.features.items, config.privacy, noise)
    event = committed_event(config, noise_multiplier=config.privacy.popularity_noise_multiplier, steps=None)
    return Finished({"counts": counts}, event, 1, _rng(config, noise.source))


def _make_update(site: Site, reserve: Record, config: RunConfig, state: Arrays) -> Finished:
    place = f"{reserve.text('run_id')}/{reserve.whole('round')}/{reserve.whole('attempt')}"
    noise = site.noise(f"train/{place}")
    trained = train_round(config, site.items, site.dataset.train, state, users=site.config.users, noise=noise)
    event = committed_event(config, noise_multiplier=trained.noise_multiplier, steps=trained.steps)
    return Finished(trained.update, event, trained.steps, _rng(config, noise.source))


_MAKERS: dict[Kind, Callable[[Site, Record, RunConfig, Arrays], Finished]] = {
    Kind.POPULARITY: _make_popularity,
    Kind.TRAIN: _make_update,
}


def _rng(config: RunConfig, source: str) -> str:
    if config.privacy.mechanism == "none":
        return "none"
    return "simulated" if source.endswith("simulation") else source


def _reply(
    site: Site, kind: Kind, request: Request, *, ledger_head: str = "", refusal: str = "", refusal_text: str = ""
) -> Reply:
    return Reply(
        partner=site.config.name,
        run_id=request.run_id,
        round=request.round,
        kind=str(kind),
        model_digest=request.model_digest,
        users=site.config.users,
        ledger_head=ledger_head,
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
    return "site", f"{type(error).__name__}; the partner's own log has the details"
