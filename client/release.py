"""The single exit: everything a partner sends is made here, and has been charged before it is made.

For each priced message: admit -> receipt of the last head, approval and plan -> reserve (on disk) -> compute -> keep ->
commit -> send with the new head, signed. The signature is checked before the policy: nobody probes its limits.
A crash between any two of these can lose work, never budget: a reserve is not refunded, and a reply that was computed
is found again and sent as it was. What leaves is the `Reply` fields and the arrays below, nothing else:

    DESCRIBE    name, public number of users                                                price 0
    ACTIVITY    noised numbers of users by length of their histories                        one Gaussian release
    POPULARITY  noised item counts                                                          one Gaussian release
    PAIRS       noised sum of the users' item pairs                                         one Gaussian release
    TRAIN       change of the trained weights after noised, clipped steps; witness block    sampled Gaussian steps
                with adaptive clipping, the noised share of users within the clip           in the same steps
    EVALUATE    noised sums of the plan's metrics and of the evaluated users                one Gaussian release
    COMPARE     noised sums of one metric of each rung, and of the evaluated users          one Gaussian release
    SCORER      nothing; what it carries is public                                          price 0
    RECEIPT     nothing                                                                     price 0
    all these   the signed head of the ledger, the proof that it only grew, own rotations   price 0
    any kind    a refusal: a policy code and a text without private values                  price 0
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from client import outbox, witness
from client.approval import NotApproved, check_approval
from client.charge import Charge, approve_plan, charge_of, find_reserve
from client.coordinator import Shown, confirm, show
from client.inbox import find_scorer, keep_scorer
from client.making import MAKERS
from client.outbox import Finished
from client.plan_checks import SCORED, check_kind, check_plan, rounds_of
from client.site import Site
from mmrec_model.canonical import sha256_hex
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
from mmrec_model.privacy.events import to_record
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.ledger import Ledger
from mmrec_model.privacy.records import Record
from mmrec_model.protocol import (
    Arrays,
    Kind,
    Reply,
    Request,
    arrays_digest,
    state_digest,
)

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
        check_plan(site, ledger.history, config)
        check_approval(site, ledger.history, config)
        made: Arrays = {}
        if kind is Kind.DESCRIBE:
            approve_plan(ledger, site, config)
        elif kind is Kind.SCORER:
            keep_scorer(site.inbox, arrays, config)
        else:
            check_kind(site, config, kind)
            state = {**arrays, **find_scorer(site.inbox, request.scorer)}
            made = _priced(site, ledger, charge_of(config, kind, request, state), config, state)
        return Answer(_reply(site, kind, request, show(ledger, challenge)), made)


def _check_request(config: RunConfig, kind: Kind, request: Request, arrays: Arrays) -> None:
    rounds = rounds_of(config, kind)
    if request.run_id != config.run_id or request.round not in rounds:
        raise ProtocolError(
            f"round {request.round} of run '{request.run_id}' is not a {kind} round of plan '{config.run_id}'",
            remedy="Send the rounds of the plan's own run",
        )
    if kind in SCORED and bool(request.scorer) != config.collaboration.released:
        raise ProtocolError(
            f"the request names {'a' if request.scorer else 'no'} scorer of pairs, the plan has pairs of "
            f"{config.collaboration.items} items and {config.collaboration.dims} dimensions",
            remedy="Name the scorer that was sent, in a plan with pairs alone",
        )
    digest = state_digest(arrays, request.scorer)
    bare = kind in _BARE or (kind is Kind.POPULARITY and not arrays)
    if not bare and digest != request.model_digest:
        raise ProtocolError("the global state is not the one the request names", remedy="Send the request again")


def prepare(site: Site, ledger: Ledger, charge: Charge, config: RunConfig, state: Arrays) -> tuple[Record, Finished]:
    """The finished reply to a priced message, charged and kept, but not committed: nothing may leave yet.

    Asked again, the kept reply is found and nothing is charged. One that was not committed, so never left, is made and
    charged anew if code or data are others than those that made it.

    Args:
        site: this partner.
        ledger: open; the run's plan is on it.
        charge: what the reply costs.
        config: the plan.
        state: the global arrays.

    Returns:
        The reserve under which the reply was made, and the reply.

    Raises:
        MmrecError: the round was answered for another state, the budget does not cover it, or it cannot be computed.
    """
    reserve = find_reserve(ledger, charge)
    finished = outbox.find(site.outbox, reserve.hash) if reserve is not None else None
    origin = sha256_hex(f"{site.code_digest} {site.data_digest}".encode())
    if finished is not None and finished.origin != origin and reserve in ledger.dangling():
        finished = None
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
            finished = replace(MAKERS[charge.kind](site, reserve, config, state), origin=origin)
        outbox.keep(site.outbox, reserve.hash, finished)
    return reserve, finished


def _priced(site: Site, ledger: Ledger, charge: Charge, config: RunConfig, state: Arrays) -> Arrays:
    approve_plan(ledger, site, config)
    reserve, finished = prepare(site, ledger, charge, config, state)
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


_BARE = frozenset({Kind.DESCRIBE, Kind.ACTIVITY, Kind.RECEIPT})
"""What carries no global state."""
_NOT_APPROVED = "the operator of this site has not approved the run as it would run now"
_UNEXPECTED = "an unexpected error; the partner's own log has the details"
_LEDGER_WORDS: dict[FaultCode, str] = {
    FaultCode.SIGNATURE: "the request is not signed by the coordinator that this ledger names",
    FaultCode.NONCE: "the request is a replay, or is not meant for this partner",
    FaultCode.ROLLBACK: "the ledger is shorter than a head that was shown before",
    FaultCode.FORK: "the ledger is not the one whose head was shown before",
}
"""What the coordinator learns of a fault of the ledger; the partner's own log has the numbers."""


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
        return error.code, _NOT_APPROVED if isinstance(error, NotApproved) else str(error)
    if isinstance(error, BudgetExhausted):
        return "budget", "the epsilon budget of this data set does not cover the request"
    if isinstance(error, ProtocolError):
        return "protocol", str(error)
    if isinstance(error, BundleSignatureError):
        return "features-signature", "the installed feature bundle is not signed by the coordinator's key"
    if isinstance(error, LedgerFault) and error.code in _LEDGER_WORDS:
        return str(error.code), _LEDGER_WORDS[error.code]
    return "site", f"{type(error).__name__}; the partner's own log has the details"
