"""Changed copies of media for training encoders: crops and flips, SpecAugment, masked tokens. Never for evaluation.

Promises:
1. A copy is a function of (seed, item, epoch) and the medium alone: no global random state is read or moved.
2. Without an epoch the medium comes back untouched, so evaluation is the same with augmentation on or off.
3. Masks cover no more than their stated share of a medium.

Sources: random resized crop and flip as for ResNets (Szegedy et al. 2015, section 6) through torchvision v2; time and
frequency masks without warping (Park et al. 2019, SpecAugment); token masking (Devlin et al. 2019, section 3.1).
Shapes: C channels, H x W pixels, F frames, D mel bands, T tokens.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from mmrec_model.canonical import canonical_json

IGNORED = -100
"""The label of a token that is not predicted; what torch's cross entropy leaves out."""


@dataclass(frozen=True)
class Augmentation:
    """How strongly copies differ.

    Attributes:
        seed: of the training.
        crop_share: smallest share of a picture's area that a crop keeps; 1 crops nothing but the aspect.
        crop_aspect: largest stretch of one side against the other.
        flip_rate: how often a picture is mirrored.
        time_share: largest share of all frames that time masks cover together.
        band_share: largest share of all mel bands that frequency masks cover together.
        masks: masks of each kind.
        token_share: share of a text's tokens that is to be predicted, at least one token.
    """

    seed: int
    crop_share: float = 0.3
    crop_aspect: float = 4 / 3
    flip_rate: float = 0.5
    time_share: float = 0.2
    band_share: float = 0.3
    masks: int = 2
    token_share: float = 0.15

    def picture(self, pixels_CHW: Tensor, *, item: str, epoch: int | None) -> Tensor:
        """A crop of the picture, stretched back to H x W, perhaps mirrored."""
        if epoch is None:
            return pixels_CHW
        generator = self._generator("picture", item, epoch)
        height, width = pixels_CHW.shape[-2:]
        area = _uniform(generator, self.crop_share, 1.0) * height * width
        aspect = math.exp(_uniform(generator, -1.0, 1.0) * math.log(self.crop_aspect)) * width / height
        rows = min(height, max(1, round(math.sqrt(area / aspect))))
        columns = min(width, max(1, round(math.sqrt(area * aspect))))
        top, left = _below(generator, height - rows + 1), _below(generator, width - columns + 1)
        cropped: Tensor = functional.resized_crop(pixels_CHW, top, left, rows, columns, [height, width], antialias=True)
        flipped: Tensor = functional.horizontal_flip(cropped)
        return flipped if _uniform(generator, 0.0, 1.0) < self.flip_rate else cropped

    def levels(self, levels_FD: Tensor, *, item: str, epoch: int | None) -> Tensor:
        """Log-mel levels with stretches of time and bands of frequency set to the mean level."""
        if epoch is None:
            return levels_FD
        generator = self._generator("levels", item, epoch)
        masked_FD = torch.zeros(levels_FD.shape, dtype=torch.bool)
        for axis, share in ((0, self.time_share), (1, self.band_share)):
            size = levels_FD.shape[axis]
            for _ in range(self.masks):
                length = _below(generator, int(share * size / self.masks) + 1)
                masked_FD.narrow(axis, _below(generator, size - length + 1), length).fill_(1)
        return levels_FD.masked_fill(masked_FD.to(levels_FD.device), float(levels_FD.mean()))

    def tokens(
        self, ids_T: Tensor, *, item: str, epoch: int | None, mask_id: int, vocabulary: int, special: Collection[int]
    ) -> tuple[Tensor, Tensor]:
        """Token ids with some hidden, and the labels: the hidden ids, `IGNORED` elsewhere.

        Of the chosen tokens 80 % become `mask_id`, 10 % a random id below `vocabulary`, 10 % stay; ids in `special`
        are never chosen.
        """
        labels_T = torch.full_like(ids_T, IGNORED)
        ordinary = [place for place, one in enumerate(ids_T.tolist()) if one not in special]
        if epoch is None or not ordinary:
            return ids_T, labels_T
        generator = self._generator("tokens", item, epoch)
        count = max(1, int(self.token_share * len(ordinary)))
        hidden_T = ids_T.clone()
        for choice in torch.randperm(len(ordinary), generator=generator)[:count].tolist():
            place = ordinary[choice]
            labels_T[place] = ids_T[place]
            fate = _uniform(generator, 0.0, 1.0)
            if fate < 0.9:
                hidden_T[place] = mask_id if fate < 0.8 else _below(generator, vocabulary)
        return hidden_T, labels_T

    def _generator(self, kind: str, item: str, epoch: int) -> torch.Generator:
        digest = hashlib.sha256(canonical_json([self.seed, kind, item, epoch])).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _below(generator: torch.Generator, limit: int) -> int:
    return int(torch.randint(limit, (), generator=generator))
