"""From the modalities that an item has to one vector: one module per family, chosen by `ModelConfig.fusion`."""

from mmrec_model.model.fusion.decision import DecisionFusion
from mmrec_model.model.fusion.interface import Fusion
from mmrec_model.model.fusion.masking import masked_softmax
from mmrec_model.model.fusion.registry import FUSIONS, build_fusion

__all__ = ["FUSIONS", "DecisionFusion", "Fusion", "build_fusion", "masked_softmax"]
