"""Exact Shapley values: what each player adds, on average over all orders in which the players may come.

    value_m = sum over subsets S without m of |S|! (M - |S| - 1)! / M! * (v(S + m) - v(S))       (Shapley 1953)

Laws: the values add up to v(all) - v(none); a player that changes nothing gets 0; two that can be exchanged get the
same; the values of a mean of games are the mean of the values. So a game whose values are arrays over users gives one
array per player, from whose spread a standard error follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import factorial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mmrec_model.errors import DataError

Player = TypeVar("Player", bound=str)
Values = npt.NDArray[np.float64]


def shapley(game: Mapping[frozenset[Player], Values], players: Sequence[Player]) -> dict[Player, Values]:
    """The share of each player.

    Args:
        game: the value of all 2^M subsets, arrays of one shape.
        players: M of them.

    Raises:
        DataError: a subset is missing.
    """
    everyone = {frozenset(chosen) for size in range(len(players) + 1) for chosen in combinations(players, size)}
    if missing := everyone - set(game):
        raise DataError(
            f"{len(missing)} of {len(everyone)} subsets have no value, such as {sorted(next(iter(missing)))}",
            remedy="Give the value of every subset",
        )
    total = factorial(len(players))
    shares = {}
    for player in players:
        share = np.zeros_like(game[frozenset()])
        for others in everyone:
            if player not in others:
                weight = factorial(len(others)) * factorial(len(players) - len(others) - 1) / total
                share = share + weight * (game[others | {player}] - game[others])
        shares[player] = share
    return shares
