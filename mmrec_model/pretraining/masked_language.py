"""Masked language modelling: predict 15 % of a text's tokens from the others (Devlin et al. 2019, section 3.1).

Of the chosen tokens 80 % are masked, 10 % are random, 10 % stay. The output matrix is the input embedding; its bias
starts at the log frequency of every token, so training starts at what a count of words knows. What the held-out loss is
compared with is the entropy of the held-out tokens' own frequencies: no guess that ignores the sentence can be
better. Shapes: M masked tokens, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu


class MaskedLanguageHead(nn.Module):
    """States of masked tokens to scores of all tokens."""

    def __init__(self, width: int, counts_V: Tensor) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        smooth_V = counts_V.double() + 1.0
        self.bias = nn.Parameter((smooth_V / smooth_V.sum()).log().float())

    def forward(self, state_MD: Tensor, words_VD: Tensor) -> Tensor:
        """Scores [M, V]."""
        scores_MV: Tensor = self.norm(gelu(self.dense(state_MD))) @ words_VD.T + self.bias
        return scores_MV


def masked_loss(scores_MV: Tensor, labels_M: Tensor) -> Tensor:
    """Mean cross entropy in nats; 0 without any label."""
    return cross_entropy(scores_MV, labels_M) if len(labels_M) else scores_MV.sum()


def unigram_entropy(labels: Sequence[int]) -> float:
    """Entropy in nats of the frequencies of `labels`: the least loss of a guess that ignores the context."""
    if not labels:
        return 0.0
    counts = torch.tensor(labels).bincount().double()
    share = counts[counts > 0] / counts.sum()
    return float(-(share * share.log()).sum())


def token_counts(tokens: Sequence[Sequence[int]], vocabulary: int) -> Tensor:
    """How often each token occurs, int64 [V]."""
    return torch.tensor([one for ids in tokens for one in ids], dtype=torch.int64).bincount(minlength=vocabulary)
