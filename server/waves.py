"""One request to all partners, and what is made of the replies. Pure: it sees deliveries, not the transport.

Every delivery is either admitted or counted with a reason; a partner without a delivery is counted too; a wave with
fewer admitted replies than the plan's `minimum_cohort` is void, and says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from mmrec_model.config import RunConfig
from mmrec_model.errors import AdmissionError
from mmrec_model.protocol import Arrays, Reply, Request
from server.admission import AnyArrays, Expected, Reason, admit_description, admit_reply, printable, refuse
from server.journal import Rejection, WaveFacts

_LOG = logging.getLogger(__name__)

Last: TypeAlias = Callable[[Reply, AnyArrays], None]
"""The checks with a memory, made after all others: raises `AdmissionError`, or remembers the reply as used."""
Standing: TypeAlias = Callable[[str], None]
"""Whether a partner takes part at this moment: raises `AdmissionError` if it was revoked."""


@dataclass(frozen=True)
class Opened:
    """A reply as it was read: who claims what, and its size on the wire in bytes."""

    reply: Reply
    arrays: AnyArrays
    size: int


@dataclass(frozen=True)
class Delivery:
    """What arrived from one node: a readable reply, or the refusal of an unreadable one."""

    node: int
    content: Opened | AdmissionError

    def opened(self) -> Opened:
        """The reply.

        Raises:
            AdmissionError: it could not be read.
        """
        if isinstance(self.content, AdmissionError):
            raise self.content
        return self.content


@dataclass(frozen=True)
class Wave:
    """A request under way.

    Attributes:
        request: what was sent to everybody, without what differs between partners.
        nodes: transport identity and name of everybody it was sent to.
        unasked: enrolled partners that nothing was sent to, and why.
        bytes_down: size of the message to each node.
    """

    request: Request
    nodes: Mapping[int, str]
    unasked: tuple[Rejection, ...]
    bytes_down: Mapping[int, int]


class VoidWave(AdmissionError):
    """A wave with too few admitted replies; `facts` says who answered what."""

    def __init__(self, facts: WaveFacts, problem: str, *, remedy: str) -> None:
        self.facts = facts
        super().__init__(Reason.COHORT.value, problem, remedy=remedy)


@dataclass(frozen=True)
class Enrolment:
    """The partners of a run: the transport identity of each, and its public number of users."""

    nodes: Mapping[int, str]
    users: Mapping[str, int]


def enrol(deliveries: Iterable[Delivery], wave: Wave, last: Last) -> tuple[Enrolment, WaveFacts]:
    """Who takes part, from the answers to DESCRIBE.

    Two nodes that both have the key of one partner are both left out: nobody can tell which of them is the partner.
    """
    answers: dict[int, Opened] = {}
    rejected: list[Rejection] = []
    heard: set[int] = set()
    for delivery in deliveries:
        node = delivery.node
        heard.add(node)
        try:
            opened = delivery.opened()
            admit_description(opened.reply, opened.arrays, request=wave.request)
            if node in answers or node not in wave.nodes:
                raise refuse(Reason.DUPLICATE, f"node {node} has described itself already, or was not asked")
            last(opened.reply, opened.arrays)
            answers[node] = opened
        except AdmissionError as error:
            rejected.append(_rejection(wave, node, error))
    claims: dict[str, list[int]] = {}
    for node, opened in sorted(answers.items()):
        claims.setdefault(opened.reply.partner, []).append(node)
    for name, claimants in claims.items():
        if len(claimants) > 1:
            twice = refuse(Reason.DUPLICATE, f"'{name}' is claimed by {len(claimants)} nodes")
            rejected.extend(_rejection(wave, node, twice) for node in claimants)
    nodes = {claimants[0]: name for name, claimants in claims.items() if len(claimants) == 1}
    accepted = {name: answers[node] for node, name in nodes.items()}
    facts = _facts(wave, {**wave.nodes, **nodes}, accepted, rejected, heard)
    return Enrolment(nodes, {name: accepted[name].reply.users for name in sorted(accepted)}), facts


def gather(
    deliveries: Iterable[Delivery], wave: Wave, expected: Expected, last: Last, standing: Standing
) -> tuple[dict[str, Arrays], WaveFacts]:
    """Pass every delivery through the gate; the admitted arrays by partner, and the facts of the wave.

    A partner that is revoked while others are waited for is taken out again at the end.
    """
    admitted: dict[str, Arrays] = {}
    accepted: dict[str, Opened] = {}
    rejected: list[Rejection] = []
    heard: set[int] = set()
    for delivery in deliveries:
        heard.add(delivery.node)
        sender = wave.nodes.get(delivery.node, "")
        try:
            opened = delivery.opened()
            arrays = admit_reply(opened.reply, opened.arrays, sender=sender, expected=expected, seen=admitted.keys())
            last(opened.reply, arrays)
            admitted[sender] = arrays
            accepted[sender] = opened
        except AdmissionError as error:
            rejected.append(_rejection(wave, delivery.node, error))
    for name in sorted(admitted):
        try:
            standing(name)
        except AdmissionError as error:
            del admitted[name], accepted[name]
            rejected.append(Rejection(name, error.reason, error.problem))
    return admitted, _facts(wave, wave.nodes, accepted, rejected, heard)


def require_cohort(facts: WaveFacts, config: RunConfig) -> None:
    """Refuse a wave with too few admitted replies; log what was not used in one that has enough.

    Raises:
        VoidWave: with the counted reasons and the first finding.
    """
    if len(facts.accepted) >= config.minimum_cohort:
        for item in facts.rejected:
            _LOG.warning("round %d: %s not used (%s): %s", facts.round, item.partner, item.reason, item.text)
        return
    counts = ", ".join(f"{reason} {count}" for reason, count in facts.reasons.items()) or "nobody was asked"
    first = f" ({facts.rejected[0].partner}: {facts.rejected[0].text})" if facts.rejected else ""
    raise VoidWave(
        facts,
        f"round {facts.round}: {len(facts.accepted)} usable replies, the plan's minimum_cohort is "
        f"{config.minimum_cohort}; not used: {counts}{first}",
        remedy="The model is unchanged; repair these partners and start the run again, it resumes at this round",
    )


def _rejection(wave: Wave, node: int, error: AdmissionError) -> Rejection:
    return Rejection(wave.nodes.get(node, f"node {node}"), error.reason, error.problem)


def _facts(
    wave: Wave, names: Mapping[int, str], accepted: Mapping[str, Opened], rejected: list[Rejection], heard: set[int]
) -> WaveFacts:
    silent = [name for node, name in sorted(wave.nodes.items()) if node not in heard]
    missing = [Rejection(name, Reason.NO_REPLY.value, "no reply before the deadline") for name in silent]
    return WaveFacts(
        round=wave.request.round,
        accepted=tuple(sorted(accepted)),
        rejected=(*rejected, *missing, *wave.unasked),
        bytes_down=dict(sorted((names[node], wave.bytes_down[node]) for node in wave.nodes)),
        bytes_up={name: accepted[name].size for name in sorted(accepted)},
        ledger_heads={name: printable(accepted[name].reply.ledger_head) for name in sorted(accepted)},
    )
