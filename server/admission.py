"""The gate that every reply passes before it can touch the global model. Pure: no transport, no file, no clock.

The checks run in the order of `Reason`, but for the ledger head; the first that fails refuses the reply, drops the
partner and not the round, and is counted. Those of revocation, ledger head and witness block need memory;
`server.sites` and `server.witness` make them, after these. Of the head, `HeadBook` checks the signature, then a fork
that is open or shown by two heads of one size, then nonce, rollback and growth, which is a fork again. Three rules are
the point of the list (what goes wrong without them is measured in docs/coordinator.md):

1. A value that is not finite is refused before any norm is computed: `min(1, C / nan)` clips nothing.
2. Names, dtypes and shapes match exactly: a shape of (1,) would broadcast silently.
3. No number of a reply becomes a weight or a divisor: weights are fixed at enrolment, and a reply that states another
   number of users is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mmrec_model.config import RunConfig
from mmrec_model.errors import AdmissionError, PrivacyError
from mmrec_model.privacy.clipping import HALF, gradient_noise_multiplier
from mmrec_model.protocol import CLIP_SHARE, Arrays, Kind, Reply, Request, arrays_norm

AnyArrays: TypeAlias = dict[str, npt.NDArray[Any]]
Shape: TypeAlias = tuple[int, ...]

FALSE_ALARM = 1e-9
"""Probability with which the norm check may refuse one honest reply."""
ROUNDING = 2.0
"""A partner's true number of users is at most this many times its rounded, public number."""
MAX_USERS = 1_000_000_000
"""Largest number of users that a partner may state at enrolment."""
_MAX_NAME = 64
_MAX_TEXT = 300


class Reason(StrEnum):
    """Why a reply is refused, in the order of the checks (see above for the ledger head).

    The last two concern a reply that is not there.
    """

    ERROR = "error"
    PROTOCOL = "protocol"
    UNKNOWN_PARTNER = "unknown_partner"
    WRONG_RUN = "wrong_run"
    WRONG_KIND = "wrong_kind"
    WRONG_ROUND = "wrong_round"
    REFUSED_BY_PARTNER = "refused_by_partner"
    DUPLICATE = "duplicate"
    STALE_MODEL = "stale_model"
    USERS_CHANGED = "users_changed"
    MISSING_ARRAY = "missing_array"
    EXTRA_ARRAY = "extra_array"
    WRONG_DTYPE = "wrong_dtype"
    WRONG_SHAPE = "wrong_shape"
    NON_FINITE = "non_finite"
    NORM = "norm"
    CLIP_SHARE = "clip_share"
    REVOKED = "revoked"
    BAD_SIGNATURE = "bad_signature"
    NONCE = "nonce"
    ROLLBACK = "rollback"
    FORK = "fork"
    WITNESS = "witness"
    NO_REPLY = "no_reply"
    COHORT = "cohort"


_REMEDIES = {
    Reason.ERROR: "Read the partner's own log",
    Reason.PROTOCOL: "Install the same minor version of mmrec on both sides",
    Reason.UNKNOWN_PARTNER: "Give every partner its own name and enrol it before the run starts",
    Reason.REFUSED_BY_PARTNER: "Change the plan, or ask the partner to change its policy",
    Reason.USERS_CHANGED: "The public number of users is fixed for a run; start a new run to change it",
    Reason.NON_FINITE: "Check the partner's features and learning rate; its update was not used",
    Reason.REVOKED: "Nothing of this partner is used any more; see `mmrec coordinator partners`",
    Reason.BAD_SIGNATURE: "Compare the partner's public key with the one it enrolled; its ledger head was not believed",
    Reason.NONCE: "Drop it: it is late or a replay",
    Reason.ROLLBACK: "The partner restores its whole ledger; an older copy must not be continued",
    Reason.FORK: "Stop the partner's runs; show both signed heads to the partner and its auditor",
    Reason.WITNESS: "The partner checks its noise: it is missing, too small or not fresh; its update was not used",
    Reason.NO_REPLY: "Check the partner's connection, or raise round_timeout",
}


@dataclass(frozen=True)
class Expected:
    """What the coordinator asked for, and therefore what alone it accepts.

    Attributes:
        request: the message that was sent.
        kind: its type.
        shapes: name and shape of every array of an acceptable reply; all are float32.
        users: the enrolled partners and the public number of users that each stated at enrolment.
        max_norms: upper bound of the L2 norm of each partner's arrays, derived from public numbers; the share of
            users within the clip does not count.
        max_shares: upper bound of that share of each partner, of either sign; empty where none is expected.
    """

    request: Request
    kind: Kind
    shapes: Mapping[str, Shape]
    users: Mapping[str, int]
    max_norms: Mapping[str, float]
    max_shares: Mapping[str, float] = field(default_factory=dict)


def refuse(reason: Reason, problem: str) -> AdmissionError:
    """The error for `reason`; text of a partner inside `problem` is cut and freed of control characters."""
    return AdmissionError(reason.value, printable(problem), remedy=_REMEDIES.get(reason, "The reply was not used"))


def printable(text: str) -> str:
    """At most 300 characters of `text` on one line."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text[: 4 * _MAX_TEXT]).split())
    return line if len(line) <= _MAX_TEXT else line[: _MAX_TEXT - 1] + "…"


def admit_reply(reply: Reply, arrays: AnyArrays, *, sender: str, expected: Expected, seen: AbstractSet[str]) -> Arrays:
    """Accept a reply of an enrolled partner, or say why not.

    Args:
        reply: its fields.
        arrays: its arrays.
        sender: the partner enrolled under the transport identity that sent the reply; empty if there is none.
        expected: what was asked.
        seen: partners whose reply to this request was accepted already.

    Returns:
        The arrays, proven to be finite float32 of the expected names and shapes, within the partner's norm bound.

    Raises:
        AdmissionError: with the first failed check as `reason`.
    """
    if not sender or reply.partner != sender or sender not in expected.users:
        raise refuse(Reason.UNKNOWN_PARTNER, f"'{reply.partner}' did not enrol from this node")
    _check_answer(reply, expected.request, expected.kind)
    if reply.partner in seen:
        raise refuse(Reason.DUPLICATE, f"'{reply.partner}' has answered round {reply.round} already")
    if reply.model_digest != expected.request.model_digest:
        raise refuse(
            Reason.STALE_MODEL,
            f"made on model '{reply.model_digest[:12]}', asked for '{expected.request.model_digest[:12]}'",
        )
    if reply.users != expected.users[sender]:
        raise refuse(Reason.USERS_CHANGED, f"states {reply.users} users, enrolled {expected.users[sender]}")
    checked = check_arrays(arrays, shapes=expected.shapes, max_norm=expected.max_norms[sender])
    if sender in expected.max_shares:
        _check_share(float(checked[CLIP_SHARE][0]), expected.max_shares[sender])
    return checked


def admit_description(reply: Reply, arrays: AnyArrays, *, request: Request) -> None:
    """Accept a partner's answer to DESCRIBE: a printable name, 1 to `MAX_USERS` users, and no arrays.

    Raises:
        AdmissionError: with the first failed check as `reason`.
    """
    name = reply.partner
    if not name.strip() or len(name) > _MAX_NAME or not name.isprintable():
        raise refuse(Reason.UNKNOWN_PARTNER, f"a partner's name has 1 to {_MAX_NAME} printable characters: {name!r}")
    _check_answer(reply, request, Kind.DESCRIBE)
    if not 1 <= reply.users <= MAX_USERS:
        raise refuse(Reason.USERS_CHANGED, f"'{name}' states {reply.users} users, the range is 1 to {MAX_USERS}")
    check_arrays(arrays, shapes={}, max_norm=0.0)


def check_arrays(arrays: AnyArrays, *, shapes: Mapping[str, Shape], max_norm: float) -> Arrays:
    """Checks 11 to 16: exact names, float32, exact shapes, finite, and only then the norm."""
    if missing := sorted(set(shapes) - set(arrays)):
        raise refuse(Reason.MISSING_ARRAY, f"{len(missing)} arrays are missing, the first is '{missing[0]}'")
    if extra := sorted(set(arrays) - set(shapes)):
        raise refuse(Reason.EXTRA_ARRAY, f"{len(extra)} arrays are unknown, the first is '{extra[0]}'")
    for name, shape in shapes.items():
        if arrays[name].dtype != np.dtype("<f4"):
            raise refuse(Reason.WRONG_DTYPE, f"array '{name}' is {arrays[name].dtype}, the contract says float32")
        if arrays[name].shape != tuple(shape):
            raise refuse(Reason.WRONG_SHAPE, f"array '{name}' is {arrays[name].shape}, the model has {tuple(shape)}")
    for name in shapes:
        if not np.isfinite(arrays[name]).all():
            raise refuse(Reason.NON_FINITE, f"array '{name}' holds NaN or infinity")
    norm = arrays_norm({name: array for name, array in arrays.items() if name != CLIP_SHARE})
    if not norm <= max_norm:
        raise refuse(Reason.NORM, f"the update's norm is {norm:.4g}, an honest one stays under {max_norm:.4g}")
    return arrays


def public_norm_bound(config: RunConfig, *, users: int, width: int, clip: float) -> float:
    """What the norm of an honest training update exceeds with probability below `FALSE_ALARM`.

    An honest update is `-learning_rate / (q N)` times the sum over `T` local steps of (clipped gradients of the users
    sampled in the step, each of norm at most C, plus Gaussian noise of deviation sigma C per weight). With
    L = ln(2 / FALSE_ALARM), the number of gradients stays under mu + sqrt(2 mu L) + L, mu = T q `ROUNDING` N
    (Bernstein), and the norm of the summed noise under sigma C sqrt(T) (sqrt(width) + sqrt(2 L)) (Gaussian
    concentration).

    Args:
        config: the public plan.
        users: N, the partner's public number of users, at least 1.
        width: number of trained weights.
        clip: C, of the round; sigma is then the noise multiplier of the gradients.
    """
    training, privacy = config.training, config.privacy
    multiplier = gradient_noise_multiplier(privacy.noise_multiplier, privacy.clip_count_noise)
    tail = math.log(2.0 / FALSE_ALARM)
    noise = multiplier * math.sqrt(training.local_steps) * (math.sqrt(width) + math.sqrt(2.0 * tail))
    divisor = training.sample_rate * users
    return 1.001 * training.learning_rate * clip * (_most_joins(config, users, tail) + noise) / divisor


def public_share_bound(config: RunConfig, *, users: int) -> float:
    """The same for the size of the share of users within the clip: a user counts one half, noise of sigma_b per step.

    Raises:
        PrivacyError: the plan has no count.
    """
    training, count_noise = config.training, config.privacy.clip_count_noise
    if count_noise is None:
        raise PrivacyError("the plan clips flat and has no share", remedy="Ask for it with adaptive clipping only")
    tail = math.log(4.0 / FALSE_ALARM)
    noise = count_noise * math.sqrt(2.0 * training.local_steps * tail)
    divisor = training.local_steps * max(1.0, training.sample_rate * users)
    return 1.001 * (HALF * _most_joins(config, users, tail) + noise) / divisor


def public_sum_bound(*, users: int, width: int, bound: float, noise: float) -> float:
    """The same for a release of noised sums over all users.

    Args:
        users: the partner's public number of users, each of whom adds at most `bound` in L2 norm.
        width: numbers released.
        bound: the users' L2 bound.
        noise: standard deviation of the noise on each number, in units of `bound`.
    """
    tail = math.log(1.0 / FALSE_ALARM)
    return 1.001 * bound * (ROUNDING * users + noise * (math.sqrt(width) + math.sqrt(2.0 * tail)))


def _most_joins(config: RunConfig, users: int, tail: float) -> float:
    """What the number of users in all steps of a round stays under but with probability exp(-tail)."""
    mean = config.training.local_steps * config.training.sample_rate * ROUNDING * users
    return mean + math.sqrt(2.0 * mean * tail) + tail


def _check_share(share: float, most: float) -> None:
    if not abs(share) <= most:
        raise refuse(
            Reason.CLIP_SHARE, f"the share within the clip is {share:.4g}, an honest one stays under {most:.4g}"
        )


def _check_answer(reply: Reply, request: Request, kind: Kind) -> None:
    if reply.run_id != request.run_id:
        raise refuse(Reason.WRONG_RUN, f"answers run '{reply.run_id}', this is '{request.run_id}'")
    if reply.kind != kind.value:
        raise refuse(Reason.WRONG_KIND, f"answers '{reply.kind}', asked for '{kind.value}'")
    if reply.round != request.round:
        raise refuse(Reason.WRONG_ROUND, f"answers round {reply.round}, this is round {request.round}")
    if reply.refusal:
        raise refuse(Reason.REFUSED_BY_PARTNER, f"the partner refuses ({reply.refusal}): {reply.refusal_text}")
