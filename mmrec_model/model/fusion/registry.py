"""The families by the name that a configuration gives."""

from __future__ import annotations

from collections.abc import Mapping

from mmrec_model.config import FusionName, Modality, ModelConfig
from mmrec_model.model.fusion.additive import AdditiveFusion
from mmrec_model.model.fusion.attention import AttentionFusion
from mmrec_model.model.fusion.concat import ConcatFusion
from mmrec_model.model.fusion.cross_attention import CrossAttentionFusion
from mmrec_model.model.fusion.decision import DecisionFusion
from mmrec_model.model.fusion.gated import GatedFusion
from mmrec_model.model.fusion.interface import Fusion
from mmrec_model.model.fusion.transformer import TransformerFusion
from mmrec_model.model.fusion.weighted_sum import WeightedSumFusion

FUSIONS: Mapping[FusionName, type[Fusion]] = {
    "attention": AttentionFusion,
    "concat": ConcatFusion,
    "weighted_sum": WeightedSumFusion,
    "additive": AdditiveFusion,
    "gated": GatedFusion,
    "cross_attention": CrossAttentionFusion,
    "transformer": TransformerFusion,
    "decision": DecisionFusion,
}


def build_fusion(config: ModelConfig, dims: Mapping[Modality, int]) -> Fusion:
    """The untrained fusion that `config.fusion` names.

    Args:
        config: sizes and what the family reads.
        dims: width of each modality's frozen vectors, in catalogue order.
    """
    return FUSIONS[config.fusion](config, dims)
