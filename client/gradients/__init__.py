"""The sum of clipped user gradients, in three interchangeable ways."""

from __future__ import annotations

from client.gradients.bookkeeping import BookkeepingGradients
from client.gradients.contract import Batch, ClippedSum, PerUserGradients, UserLoss
from client.gradients.refusals import refuse_unsupported
from mmrec_model.errors import PrivacyError

WAYS = ("bookkeeping", "ghost", "hooks")


def gradients_by_name(name: str) -> PerUserGradients:
    """One of `WAYS`. Opacus is imported only for the two ways that need it.

    Raises:
        PrivacyError: no such way.
    """
    if name == "bookkeeping":
        return BookkeepingGradients()
    if name == "ghost":
        from client.gradients.ghost import GhostGradients  # noqa: PLC0415

        return GhostGradients()
    if name == "hooks":
        from client.gradients.hooks import HookGradients  # noqa: PLC0415

        return HookGradients()
    raise PrivacyError(f"there is no way {name!r} of computing gradients", remedy=f"Choose one of {', '.join(WAYS)}")


__all__ = [
    "WAYS",
    "Batch",
    "BookkeepingGradients",
    "ClippedSum",
    "PerUserGradients",
    "UserLoss",
    "gradients_by_name",
    "refuse_unsupported",
]
