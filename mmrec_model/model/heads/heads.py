"""All heads of a model: which there are, their logits, and what a logit means in words.

ESMM (Ma et al., SIGIR 2018): pCTCVR = pCTR * pCVR is learned on all shown rows, so the conversion head is trained on
the space on which it is used, not on the clicked rows alone.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from mmrec_model.config import HeadName, ModelConfig
from mmrec_model.model.deepfm import DeepFM
from mmrec_model.model.heads.bilinear import BilinearScorer
from mmrec_model.model.heads.category import CategoryHead
from mmrec_model.model.heads.outcomes import Outcomes, Pairs

ROW_HEADS: tuple[HeadName, ...] = ("ctr", "cvr", "rating")
"""Heads with one number per row of feedback."""


class Heads(nn.Module):
    """The heads that a configuration names.

    Args:
        config: sizes, heads and public constants.
        terms: number of free terms of a pair.
    """

    def __init__(self, config: ModelConfig, terms: int) -> None:
        super().__init__()
        self.config = config
        scale = config.temperature * config.fused_scale
        self.rows = nn.ModuleDict()
        for name in ROW_HEADS:
            if name in config.heads and name == "ctr" and config.ctr_scorer == "deepfm":
                self.rows[name] = DeepFM(config.hidden, terms, len(config.categories), scale=scale)
            elif name in config.heads:
                self.rows[name] = BilinearScorer(config.hidden, terms, scale=scale)
        if "category" in config.heads:
            self.category = CategoryHead(config.hidden, len(config.categories), scale=scale)

    def row_logits(self, pairs: Pairs, rows: Outcomes) -> dict[HeadName, Tensor]:
        """Logits of every row `[B, F]`, per head; the public constants before training."""
        logits = {}
        for name, scorer in self.rows.items():
            residual_BF: Tensor = scorer(pairs, rows)
            logits[cast("HeadName", name)] = residual_BF + self._bias(cast("HeadName", name))
        return logits

    def _bias(self, name: HeadName) -> float:
        rates = {str(key): rate for key, rate in self.config.base_rates.items()}
        rate = rates.get(name, 0.5)
        return math.log(rate) - math.log1p(-rate)

    def row_predictions(self, pairs: Pairs, rows: Outcomes) -> dict[HeadName, Tensor]:
        """`[B, F]`: probability of a click if shown, of a conversion if clicked, and the expected rating."""
        low, high = self.config.rating_scale
        logits = self.row_logits(pairs, rows)
        shares = {name: torch.sigmoid(logit_BF) for name, logit_BF in logits.items()}
        return {name: low + (high - low) * share if name == "rating" else share for name, share in shares.items()}
