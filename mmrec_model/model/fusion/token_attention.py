"""Multi-head attention from plain linear layers over the modality tokens of each item (Vaswani et al., NeurIPS 2017).

`nn.MultiheadAttention` uses its weights outside their layers, where the private step cannot see their gradients.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from mmrec_model.model.fusion.masking import masked_softmax


class TokenAttention(nn.Module):
    """Q queries of an item attend to its M tokens; no layer has a bias, so what is missing adds exactly zero.

    Args:
        hidden: H, a multiple of `heads`.
        heads: parts of the width that attend on their own.
    """

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(hidden, hidden, bias=False) for _ in range(4))

    def forward(self, queries_LQH: Tensor, tokens_LMH: Tensor, mask_LM: Tensor) -> tuple[Tensor, Tensor]:
        """What the queries read.

        Args:
            queries_LQH: `[..., L, Q, H]`.
            tokens_LMH: `[..., L, M, H]`.
            mask_LM: True where a token may be attended to.

        Returns:
            `[..., L, Q, H]`, zero where nothing may be attended to, and the mean weights of the heads
            `[..., L, Q, M]`.
        """
        query, key, value = (
            layer(rows).unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            for layer, rows in ((self.query, queries_LQH), (self.key, tokens_LMH), (self.value, tokens_LMH))
        )
        logits = query @ key.transpose(-1, -2) / math.sqrt(key.shape[-1])
        weights = masked_softmax(logits, mask_LM[..., None, None, :])
        mixed: Tensor = self.out((weights @ value).transpose(-3, -2).flatten(-2))
        return mixed, weights.mean(-3)
