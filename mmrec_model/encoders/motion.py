"""A film network made by configuration: stem and first stage of an R3D-18 with seeded weights (Tran et al. 2018).

It is the picture network of `configured_vision` in one dimension more: mean and spread over space and time of every
channel of both. A kernel over time answers a thing that moves along it and not one that moves against it, and light
that grows and not light that fades, so the pooled answers tell which way a film goes; any pool over frames that were
pooled over the picture first cannot, whatever its order in time, because left and right are lost by then.

The picture is squeezed to a third of `image_size`: a few frames of a whole film lie far apart, and what moves far from
one to the next is seen by a small kernel in a small picture alone (the coarse level of a pyramid; Bouguet 2001).
Shapes: B films, C channels, k frames, H x W pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.video.resnet import BasicBlock, BasicStem, Conv3DSimple

from mmrec_model.encoders.clips import ClipNetwork
from mmrec_model.encoders.configured_vision import RESIDUAL_SCALE
from mmrec_model.encoders.hub import freeze
from mmrec_model.encoders.interface import OWN_LICENCE, Recipe
from mmrec_model.encoders.seeded import fill_seeded, state_digest

_CHANNELS, _BLOCKS = 64, 2
_COARSER = 3


class _StagePool(nn.Module):
    """Mean and standard deviation over the film of every channel after the stem and after the first stage."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = BasicStem()
        blocks = [BasicBlock(_CHANNELS, _CHANNELS, Conv3DSimple) for _ in range(_BLOCKS)]
        self.scales = [block.conv2[1].weight for block in blocks]
        self.stage = nn.Sequential(*blocks)

    def forward(self, films_BCkHW: Tensor) -> Tensor:
        stem_BCkHW = self.stem(films_BCkHW)
        return torch.cat([_mean_and_spread(stem_BCkHW), _mean_and_spread(self.stage(stem_BCkHW))], dim=1)


def configured_motion(size: int) -> ClipNetwork:
    """The `embedded` film network, for pictures squeezed to a third of `size` pixels."""
    network = _StagePool()
    fill_seeded(network, gain=2.0**0.5)
    with torch.no_grad():
        for scale in network.scales:
            scale.fill_(RESIDUAL_SCALE)
    side = size // _COARSER
    recipe: Recipe = {
        "size": side, "resize": "bilinear", "scale": "(x-.5)/.25", "pool": "mean+std of stem, stage 1",
        "weights": state_digest(network),
    }  # fmt: skip
    note = "random weights made by configuration: carries colour, light and motion, no meaning"

    def prepare(pictures: list[Image.Image]) -> Tensor:
        squeezed = [picture.resize((side, side), Image.Resampling.BILINEAR) for picture in pictures]
        pixels_kHWC = np.stack([np.asarray(picture, dtype=np.float32) for picture in squeezed])
        return torch.from_numpy((pixels_kHWC / 255.0 - 0.5) / 0.25).permute(3, 0, 1, 2)

    return ClipNetwork(freeze(network), prepare, f"configured-r3d-stem-{side}", recipe, note, OWN_LICENCE)


def _mean_and_spread(state_BCkHW: Tensor) -> Tensor:
    """[B, 2 C]: mean, then standard deviation (divisor k H W), of every channel over the film."""
    return torch.cat([state_BCkHW.mean((2, 3, 4)), state_BCkHW.std((2, 3, 4), correction=0)], dim=1)
