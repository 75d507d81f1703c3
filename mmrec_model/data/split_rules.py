"""Which rule divides interactions into train, validation and test: a public setting, the same text at every partner.

    leave-last-out               the last distinct item of a user is test, the second last validation
    user-time[:VAL,TEST]         the last share TEST of each user's items is test, the share VAL before it validation
    global-time:MOMENT,MOMENT    events before the first public moment train, those up to the second validate, the rest
                                 test; users and items that were not seen before the first moment are cold
    ...+cold:SHARE[,SEED]        besides, this share of the catalogue is taken out of all training on purpose

Moments are never derived from data here: a quantile of a partner's times would be a statistic of its users. The cold
items depend on the seed and the item ids alone, so every partner holds out the same ones without being told.
Sources: the three splits of Meng et al., "Exploring data splitting strategies" (RecSys 2020).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal, Self, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from mmrec_model.errors import ConfigError

SplitName: TypeAlias = Literal["leave-last-out", "user-time", "global-time"]
_NAMES: Final[tuple[SplitName, ...]] = get_args(SplitName)
_COLD: Final = "+cold:"
_FORMS: Final = "leave-last-out, user-time, user-time:0.1,0.1 or global-time:2020-01-01,2020-02-01, with +cold:0.1"


@dataclass(frozen=True)
class SplitRule:
    """One rule.

    Attributes:
        name: which of the three.
        shares: of `user-time`: of a user's items, for validation and for test.
        moments: of `global-time`: Unix seconds at which validation and test begin.
        cold_share: share of the catalogue that no partner trains on, 0 to below 1.
        cold_seed: public seed of these items.

    Raises:
        ConfigError: a share, the order of the moments, or their absence does not fit the name.
    """

    name: SplitName = "leave-last-out"
    shares: tuple[float, float] = (0.1, 0.1)
    moments: tuple[float, float] | None = None
    cold_share: float = 0.0
    cold_seed: int = 0

    def __post_init__(self) -> None:
        if min(self.shares) <= 0.0 or not sum(self.shares) < 1.0:
            raise ConfigError(
                f"shares {self.shares} for validation and test, each must be above 0 and their sum below 1",
                remedy="Use user-time:0.1,0.1",
            )
        if (self.name == "global-time") != (self.moments is not None):
            raise ConfigError(
                f"the split {self.name} with {'no ' if self.moments is None else ''}moments; "
                "global-time needs two and the others none",
                remedy="Name two public moments: global-time:2020-01-01,2020-02-01",
            )
        if self.moments is not None and not self.moments[0] < self.moments[1]:
            raise ConfigError(
                f"the test begins at {self.moments[1]:.0f} s and validation at {self.moments[0]:.0f} s, not before it",
                remedy="Name the earlier moment first",
            )
        if not 0.0 <= self.cold_share < 1.0:
            raise ConfigError(
                f"a cold share of {self.cold_share}, the range is 0 to below 1", remedy="Use a share such as 0.1"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The rule that a text of the forms above names.

        Raises:
            ConfigError: another text, or values outside their range.
        """
        body, marked, cold = text.strip().partition(_COLD)
        name, _, values = body.partition(":")
        known: dict[str, SplitName] = {choice: choice for choice in _NAMES}
        try:
            rule = cls(
                name=known[name],
                shares=_pair([float(part) for part in values.split(",")])
                if name == "user-time" and values
                else (0.1, 0.1),
                moments=_pair([_moment(part) for part in values.split(",")]) if name == "global-time" else None,
            )
            if (values and name == "leave-last-out") or (marked and not cold):
                raise ValueError(text)
            if not cold:
                return rule
            share, _, seed = cold.partition(",")
            return replace(rule, cold_share=float(share), cold_seed=int(seed or 0))
        except (KeyError, ValueError) as error:
            raise ConfigError(f"{text!r} names no split", remedy=f"Use {_FORMS}") from error

    def __str__(self) -> str:
        text: str = self.name
        if self.name == "user-time":
            text += f":{self.shares[0]:g},{self.shares[1]:g}"
        if self.moments is not None:
            text += ":" + ",".join(datetime.fromtimestamp(moment, UTC).isoformat() for moment in self.moments)
        return text + (f"{_COLD}{self.cold_share:g},{self.cold_seed}" if self.cold_share else "")


def cold_items(item_ids: Sequence[str], share: float, seed: int) -> NDArray[np.int64]:
    """Positions of the items that are held out of all training, ascending; at least one for a share above 0.

    Args:
        item_ids: the catalogue.
        share: of the catalogue, 0 to 1.
        seed: public; the order of the catalogue has no effect.
    """
    if share <= 0.0 or not item_ids:
        return np.zeros(0, dtype=np.int64)
    digests = [hashlib.sha256(f"{seed}|{item}".encode()).digest() for item in item_ids]
    chosen = sorted(range(len(item_ids)), key=digests.__getitem__)[: max(1, round(share * len(item_ids)))]
    return np.sort(np.asarray(chosen, dtype=np.int64))


def _pair(values: Sequence[float]) -> tuple[float, float]:
    if len(values) != 2 or not all(math.isfinite(value) for value in values):
        raise ValueError(values)
    return values[0], values[1]


def _moment(text: str) -> float:
    """Unix seconds of a number or of ISO-8601 text; without a zone it is UTC."""
    try:
        return float(text)
    except ValueError:
        moment = datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
