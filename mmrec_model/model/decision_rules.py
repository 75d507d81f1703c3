"""How the scorers of several modalities become one list: by rank, by vote, and with weights of the user's own.

Nothing here is trained and nothing leaves: these are functions of scores and of one user's own history, computed where
that history lies. An item that a scorer cannot read gets the middle rank and no vote, whatever its other scores say.

Rank: weighted Borda count. Vote: approval of each scorer's first places (Aslam & Montague, SIGIR 2001). Shapes: see
`mmrec_model.model.items`; N candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mmrec_model.config import Modality
from mmrec_model.model.items import Items


def mean_ranks(*keys: Tensor) -> Tensor:
    """Positions 0 to N - 1 in ascending order, float64; rows that are equal in all keys share their mean position.

    Args:
        keys: `[..., N]` of one shape; a later key decides only where all earlier ones are equal.
    """
    order = torch.arange(keys[0].shape[-1], device=keys[0].device).expand(keys[0].shape)
    for key in reversed(keys):
        order = order.gather(-1, key.gather(-1, order).argsort(dim=-1, stable=True))
    steps = torch.zeros_like(order, dtype=torch.bool)
    for key in keys:
        ordered = key.gather(-1, order)
        steps[..., 1:] |= ordered[..., 1:] != ordered[..., :-1]
    group = steps.cumsum(-1)
    positions = torch.arange(order.shape[-1], dtype=torch.float64, device=order.device).expand(order.shape)
    sums = torch.zeros_like(positions).scatter_add(-1, group, positions)
    sizes = torch.zeros_like(positions).scatter_add(-1, group, torch.ones_like(positions))
    return torch.empty_like(positions).scatter(-1, order, (sums / sizes.clamp(min=1.0)).gather(-1, group))


def opinions(rule: Literal["vote", "rank"], scores_BTNS: Tensor, present_NM: Tensor, *, votes: int) -> Tensor:
    """What each scorer says of each candidate, in [0, 1].

    Args:
        rule: `rank_values` or `vote_values`.
        scores_BTNS: of the M modalities, and last of the terms that every item has, such as the prior.
        present_NM: `[1, N, M]`, which items a modality's scorer can read.
        votes: items that a scorer votes for.

    Returns:
        `[B, T, N, S]`.
    """
    others = scores_BTNS.shape[-1] - present_NM.shape[-1]
    everywhere_Ns = torch.ones_like(present_NM[..., :1]).expand(*present_NM.shape[:-1], others)
    readable_SN = torch.cat([present_NM, everywhere_Ns], dim=-1).unsqueeze(-3).transpose(-1, -2)
    scores_BTSN = scores_BTNS.transpose(-1, -2)
    values = vote_values(scores_BTSN, readable_SN, votes) if rule == "vote" else rank_values(scores_BTSN, readable_SN)
    return values.transpose(-1, -2)


def rank_values(scores: Tensor, readable: Tensor) -> Tensor:
    """Place in the scorer's list, 1 for the best, 0 for the last, 0.5 for what it cannot read.

    Args:
        scores: `[..., N]`.
        readable: bool, of a shape that broadcasts to it.
    """
    below, count = _places(scores, readable)
    values = torch.where(count > 1, below / (count - 1).clamp(min=1), 0.5)
    return torch.where(readable, values, 0.5).to(scores.dtype)


def vote_values(scores: Tensor, readable: Tensor, votes: int) -> Tensor:
    """1 for the scorer's first `votes` items, else 0; items that tie stand at their mean place.

    Args:
        scores: `[..., N]`.
        readable: bool, of a shape that broadcasts to it.
        votes: items that a scorer votes for.
    """
    below, count = _places(scores, readable)
    return (readable & (count - below <= votes)).to(scores.dtype)


def _places(scores: Tensor, readable: Tensor) -> tuple[Tensor, Tensor]:
    """How many readable items lie below each, ties sharing their mean, and how many there are `[..., 1]`."""
    counted = readable.expand(scores.shape)
    count = counted.sum(-1, keepdim=True)
    ranks = mean_ranks(scores.masked_fill(~counted, -torch.inf))
    return ranks - (counted.shape[-1] - count), count


def local_weights(
    history: Items, visible_BTK: Tensor, profiles: Mapping[Modality, Tensor], public_M: Tensor, temperature: float
) -> Tensor:
    """The user's own weights of the modalities: those in which his items agree with each other count for more.

    The agreement of a modality is the mean similarity of each visible item to the profile of the others (leave one
    out). Weights are proportional to public weight * exp(agreement / temperature), and add up to the public weights;
    with fewer than two readable items in every modality they are the public weights.

    Args:
        history: `[B, K]`.
        visible_BTK: what each query may see.
        profiles: mean visible vector per modality `[B, T, D_m]`.
        public_M: public weights.
        temperature: public, above 0; the larger, the closer to the public weights.

    Returns:
        `[B, T, M]`. It is computed at every call and is no part of the model's state.
    """
    agreements = []
    for place, (name, rows_BKD) in enumerate(history.vectors.items()):
        seen_BTK = (visible_BTK & history.present_M[..., place].unsqueeze(-2)).to(rows_BKD.dtype)
        count_BT = seen_BTK.sum(-1)
        squares_BT = (seen_BTK @ rows_BKD.square().sum(-1, keepdim=True)).squeeze(-1)
        pairs_BT = count_BT.square() * profiles[name].square().sum(-1) - squares_BT
        agreements.append(pairs_BT / (count_BT * (count_BT - 1.0)).clamp(min=1.0) * (count_BT > 1))
    logits_BTM = torch.stack(agreements, dim=-1) / temperature
    scaled_BTM = public_M * (logits_BTM - logits_BTM.amax(-1, keepdim=True)).exp()
    total_BT1 = scaled_BTM.sum(-1, keepdim=True)
    return public_M.sum() * scaled_BTM / total_BT1.clamp(min=torch.finfo(scaled_BTM.dtype).tiny)
