"""The wire contract between coordinator and partner: which messages exist and what each may hold.

A message is a flat mapping of text, whole numbers and floats (`fields`) and a mapping of named float32 arrays. This
module knows no transport; the two Flower apps wrap these two mappings into a record each. Anything that is not
listed here does not cross the wire.

    DESCRIBE    coordinator -> partner   nothing private is read; the partner answers who it is
    ACTIVITY    coordinator -> partner   one priced release: noised numbers of users by length of their histories
    POPULARITY  coordinator -> partner   one priced release: noised counts of distinct users per item
    TRAIN       coordinator -> partner   one priced release per round: the noised, clipped mean update, and with
                                         adaptive clipping the noised share of users within the clip
    PAIRS       coordinator -> partner   one priced release: the noised sum of the users' bounded pairs
    SCORER      coordinator -> partner   nothing is asked; carries what was made of all pairs, once, by its digest
    EVALUATE    coordinator -> partner   one priced release: noised sums of bounded validation metrics over the users
    COMPARE     coordinator -> partner   one priced release: the same of one metric for each rung of the ladder
    RECEIPT     coordinator -> partner   nothing is asked; carries the countersignature of the run's last ledger head

Both sides sign. A request carries the coordinator's signature over all of itself, a nonce for this partner and this
message, and the countersignature of the last ledger head that the partner showed. A reply carries the partner's
ledger head, signed together with that nonce, a signed proof that the ledger only grew since the head the request names,
and the rotations of the partner's key since then.
So the two sides exchange heads in the messages that they send anyway; RECEIPT alone, at the end of a run, is for that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from mmrec_model.canonical import canonical_json, sha256_hex
from mmrec_model.errors import ProtocolError

PROTOCOL_VERSION = 2
ARRAYS = "arrays"
FIELDS = "fields"
PRIOR: Final = "prior"
"""The standardised log popularity that travels beside the trained arrays."""
CLIP: Final = "clip"
"""The clip of the round, float32 [1], beside the trained arrays of a run with adaptive clipping."""
ACTIVITY: Final = "activity"
"""Name of the one array of an ACTIVITY reply: float32 `[B]`, users per bucket of `mmrec_model.activity`."""
CAP: Final = "cap"
"""Distinct items of a user that the popularity release counts, float32 [1], where activity chose the number."""
PAIRS: Final = "pairs"
"""Name of the one array of a PAIRS reply: float32 `[T]`, laid out as `mmrec_model.collaboration.layout` says."""
SELECTED: Final = "selected"
"""Catalogue places of the items whose pairs are counted, float32 `[M]`, ascending."""
TAIL: Final = "tail"
"""Weight of each selected item in a user's pairs, float32 `[M]`, in a plan with `collaboration.tail_weight`."""
SCORER: Final = "scorer"
"""The collaborative scorer, float32 `[M, M]`; it travels with `selected`, apart from the other arrays."""
FEATURE_MAP: Final = "feature_map"
"""The public map of feature pairs, float32 `[F, D]`: travels with the request for them, and with their metric."""
METRIC: Final = "metric"
"""What was made of feature pairs, float32 `[D, D]`; it travels with `feature_map`, beside the scorer or alone."""
KEPT_TERMS: Final = "kept_terms"
"""Beside an exported state, float32 `[S]`: 1 for each free term of the score that the gate left in it, else 0."""
COMPARED: Final = "compared"
"""Name of the one array of a COMPARE reply: the sums of each rung's metric, then the number of evaluated users."""
CLIP_SHARE: Final = "clip_share"
"""Name of the array, float32 [1], by which an update of such a run says how many users were within the clip."""
WITNESS: Final = "witness"
"""Name of the array of noise alone that an update carries; see `mmrec_model.privacy.witness`."""
METRICS: Final = "metrics"
"""Name of the one array of an EVALUATE reply: the sums of the plan's metrics, then the number of evaluated users."""
REQUEST_DOMAIN: Final = b"mmrec-request/v1\0"
"""What the coordinator's signature over a request starts with, so that it can be shown for nothing else."""

COLLABORATIVE: Final = frozenset({SELECTED, SCORER, FEATURE_MAP, METRIC})
"""What was made of released pairs: the arrays of a SCORER message, some or all of them."""
BESIDE: Final = frozenset({PRIOR, CLIP, KEPT_TERMS}) | COLLABORATIVE
"""Arrays of a global state that are not trained."""

Scalar: TypeAlias = str | int | float
Arrays: TypeAlias = dict[str, npt.NDArray[np.float32]]


class Kind(StrEnum):
    """Message types, as Flower routes them."""

    DESCRIBE = "query.describe"
    ACTIVITY = "train.activity"
    POPULARITY = "train.popularity"
    PAIRS = "train.pairs"
    SCORER = "query.scorer"
    TRAIN = "train"
    EVALUATE = "evaluate.metrics"
    COMPARE = "evaluate.compare"
    RECEIPT = "query.receipt"


@dataclass(frozen=True)
class Request:
    """What the coordinator sends, for every kind.

    Attributes:
        run_id: the run.
        round: 0 before training; 1, 2, ... for training rounds, and for the evaluation of the state after a round; one
            more than the last for the exported state.
        plan: the `RunConfig` as JSON text.
        model_digest: `state_digest` of the global state this request carries; empty where there is none yet.
        scorer: `arrays_digest` of the collaborative scorer that belongs to the state; empty without one.
        partner: whom it is for; empty in DESCRIBE, which asks for names.
        nonce: to be signed with the ledger head of the reply; empty in DESCRIBE.
        receipt: the countersignature of the last head that this partner showed, as JSON; empty before the first.
        known: in DESCRIBE, a JSON object from the key id of every enrolled partner to [nonce, size, root]: what the
            coordinator knows of its ledger; else empty.
        signature: the coordinator's, over `request_statement`.
        protocol: `PROTOCOL_VERSION` of the sender.
    """

    run_id: str
    round: int
    plan: str
    model_digest: str = ""
    scorer: str = ""
    partner: str = ""
    nonce: str = ""
    receipt: str = ""
    known: str = ""
    signature: str = ""
    protocol: int = PROTOCOL_VERSION


@dataclass(frozen=True)
class Reply:
    """What a partner sends, for every kind.

    Attributes:
        partner: the partner's name.
        run_id: the run it answers.
        round: the round it answers.
        kind: the message type it answers.
        model_digest: the global state the update was made on; must equal the request's.
        users: the public number of users, rounded and fixed at enrolment: sets the partner's weight.
        ledger_head: digest of the partner's last ledger record; commits it to its history.
        head: the signed head of the partner's ledger, with the request's nonce, as JSON.
        growth: consistency proof from the head that the request names to `head`, signed, as JSON.
        rotations: `key_rotate` records of the partner's key since the head that the request names, each with the proof
            that `head` covers it, as a JSON list; empty if there are none.
        refusal: policy code if the partner refuses, else empty; `refusal_text` says why without private values.
        protocol: `PROTOCOL_VERSION` of the sender.
    """

    partner: str
    run_id: str
    round: int
    kind: str
    model_digest: str = ""
    users: int = 0
    ledger_head: str = ""
    head: str = ""
    growth: str = ""
    rotations: str = ""
    refusal: str = ""
    refusal_text: str = ""
    protocol: int = PROTOCOL_VERSION


MessageT = TypeVar("MessageT", Request, Reply)


def trained_arrays(state: Arrays) -> Arrays:
    """A global state without what travels beside the trained arrays."""
    return {name: array for name, array in state.items() if name not in BESIDE}


def to_fields(message: Request | Reply) -> dict[str, Scalar]:
    """The flat mapping that travels."""
    return asdict(message)


def request_statement(kind: Kind, request: Request) -> bytes:
    """The bytes that the coordinator signs: the type of the message and every field but the signature."""
    values = {name: value for name, value in to_fields(request).items() if name != "signature"}
    return canonical_json({"kind": str(kind), **values})


def from_fields(kind: type[MessageT], values: Mapping[str, object]) -> MessageT:
    """Read a flat mapping strictly: exactly the fields of `kind`, each with its exact type.

    Raises:
        ProtocolError: another protocol version, a missing or unknown field, or a wrong type.
    """
    if values.get("protocol") != PROTOCOL_VERSION:
        raise ProtocolError(
            f"the message speaks protocol {values.get('protocol')!r}, this side speaks {PROTOCOL_VERSION}",
            remedy="Install the same minor version of mmrec on both sides",
        )
    expected = {item.name: {"str": str, "int": int}[str(item.type)] for item in fields(kind)}
    if set(values) != set(expected):
        odd = sorted(set(values) ^ set(expected))
        raise ProtocolError(
            f"{kind.__name__} fields differ from the contract at {odd[:5]}", remedy="Upgrade the older side"
        )
    for name, type_ in expected.items():
        if type(values[name]) is not type_:
            raise ProtocolError(
                f"{kind.__name__}.{name} is {type(values[name]).__name__}, the contract says {type_.__name__}",
                remedy="Upgrade the older side",
            )
    return kind(**dict(values))  # type: ignore[arg-type]


def arrays_digest(arrays: Mapping[str, npt.NDArray[np.float32]]) -> str:
    """SHA-256 over names, shapes and little-endian float32 bytes, in name order."""
    parts = []
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name], dtype="<f4")
        parts.append(f"{name}{array.shape}".encode() + b"\0" + array.tobytes())
    return sha256_hex(b"\1".join(parts))


def state_digest(arrays: Mapping[str, npt.NDArray[np.float32]], scorer: str = "") -> str:
    """Identity of a global state: of its arrays, and of the collaborative scorer that was sent before."""
    own = arrays_digest(arrays)
    return sha256_hex(f"{own} {scorer}".encode()) if scorer else own


def arrays_norm(arrays: Mapping[str, npt.NDArray[np.float32]]) -> float:
    """L2 norm over all arrays, in float64; NaN or inf if any value is."""
    return math.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays.values()))
