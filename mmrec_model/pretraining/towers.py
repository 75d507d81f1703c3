"""What carries the items of one modality into the shared space: a linear head, over frozen vectors or a recurrence.

A frozen tower reads vectors that are encoded once. A recurrent tower decodes its files anew in every epoch, changes
them (`mmrec_model.encoders.augmentation`), and trains the network together with its head; without an epoch nothing is
changed. Shapes: N items, B items of a batch, D raw width, P principal axes, K shared width, F frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmrec_model.config import EncoderConfig, Modality, TransformConfig
from mmrec_model.encoders.augmentation import Augmentation
from mmrec_model.encoders.decoding import Decoder
from mmrec_model.encoders.image import ImageEncoder
from mmrec_model.encoders.interface import Mask, Vectors
from mmrec_model.encoders.projected import Projection
from mmrec_model.encoders.reading import Arrays, Reading
from mmrec_model.encoders.recurrent import RecurrentAudioEncoder, RecurrentFilmEncoder, RecurrentSettings, pad_frames
from mmrec_model.encoders.sounds import BANDS
from mmrec_model.errors import DataError
from mmrec_model.features.transform import fit_transform
from mmrec_model.pretraining.settings import PretrainingSettings

LEAST_SHARED = 2
_AXES = 64
"""Principal axes of frozen vectors that a head reads; more would let it learn a small catalogue by heart."""
_CROP_SHARE, _FLIP_RATE = 0.6, 0.0
"""Films are not mirrored: which way something moves may be what the text says."""


class Tower(nn.Module, ABC):
    """Items to unit vectors of the shared space: called with rows that all have the modality, and an epoch or None.

    Attributes:
        present_N: whether an item has the modality, readable.
    """

    present_N: Mask

    @abstractmethod
    def projection(self) -> Projection:
        """What a `ProjectedEncoder` needs behind the base."""


def sharing_pairs(
    towers: Mapping[Modality, Tower], held_out_N: npt.NDArray[np.bool_]
) -> list[tuple[Modality, Modality]]:
    """The pairs of modalities that something can be learned of: both sides of the split have two items with both.

    Raises:
        DataError: there is none.
    """
    pairs = []
    for first, second in combinations(towers, 2):
        both_N = towers[first].present_N & towers[second].present_N
        if min((both_N & ~held_out_N).sum(), (both_N & held_out_N).sum()) >= LEAST_SHARED:
            pairs.append((first, second))
    if not pairs:
        raise DataError(
            f"no two of {', '.join(towers)} lie in {LEAST_SHARED} items of both the training and the held-out part",
            remedy="Give items at least two media each, or hold out a larger share",
        )
    return pairs


class FrozenTower(Tower):
    """A head over the whitened principal axes of frozen vectors, both fitted on training items alone."""

    def __init__(self, raw_ND: Vectors, present_N: Mask, held_out_N: npt.NDArray[np.bool_], width: int) -> None:
        super().__init__()
        self.present_N = present_N
        self._fit = fit_transform(raw_ND[present_N & ~held_out_N], TransformConfig(dims=_AXES))
        self._axes_NP = torch.from_numpy(self._fit.apply(raw_ND))
        self.head = nn.Linear(self._fit.dims, width, bias=False)

    def forward(self, rows: list[int], epoch: int | None) -> Tensor:  # noqa: ARG002 - vectors are frozen
        """Unit vectors [B, K]; the same in every epoch."""
        return normalize(self.head(self.axes(rows)))

    def axes(self, rows: list[int]) -> Tensor:
        """Unit vectors [B, P] that the head reads."""
        return self._axes_NP[rows].to(self.head.weight.device)

    def projection(self) -> Projection:
        """Axes and head as one map: lengths of rows cancel, because the result has unit rows."""
        head_KP = self.head.weight.detach().cpu().double().numpy()
        return Projection(torch.from_numpy(self._fit.mean_D), torch.from_numpy(self._fit.axes_DK @ head_KP.T))


class RecurrentTower(Tower):
    """What sound and film share: decoding, the recurrence, the head."""

    def __init__(self, recurrence: nn.Module, dim: int, paths: Sequence[Path | None], width: int) -> None:
        super().__init__()
        self.recurrence = recurrence
        self.head = nn.Linear(dim, width, bias=False)
        self._paths = paths
        self.present_N = np.zeros(len(paths), dtype=bool)

    def projection(self) -> Projection:
        """The head alone: nothing is subtracted."""
        return Projection(torch.zeros(self.head.in_features), self.head.weight.detach().cpu().T.contiguous())

    def _find_readable(self, decoder: Decoder[Tensor] | Decoder[list[Tensor]]) -> None:
        named = [row for row, path in enumerate(self._paths) if path is not None]
        for row, medium in zip(named, decoder.decode(self._files(named)), strict=True):
            self.present_N[row] = medium is not None

    def _files(self, rows: Sequence[int]) -> list[Path]:
        return [path for path in (self._paths[row] for row in rows) if path is not None]

    def _project(self, frames: list[Tensor]) -> Tensor:
        frames_BFD, lengths_B = pad_frames(frames)
        return normalize(self.head(self.recurrence(frames_BFD.to(self.head.weight.device), lengths_B)))


class SoundTower(RecurrentTower):
    """A recurrent network over log-mel levels, with SpecAugment in training."""

    def __init__(self, ids: Sequence[str], paths: Sequence[Path | None], settings: PretrainingSettings) -> None:
        network = RecurrentAudioEncoder(RecurrentSettings(width=BANDS, hidden=settings.width // 2))
        super().__init__(network, network.dim, paths, settings.width)
        self._ids, self._augmentation, workers = ids, Augmentation(settings.seed), settings.workers
        self._decoder: Decoder[Tensor] = Decoder(Reading("levels"), _levels, workers=workers, ahead=workers)
        self._find_readable(self._decoder)

    def forward(self, rows: list[int], epoch: int | None) -> Tensor:
        """Unit vectors [B, K]."""
        levels = [
            self._augmentation.levels(one, item=self._ids[row], epoch=epoch)
            for row, one in zip(rows, self._decoder.decode(self._files(rows)), strict=True)
            if one is not None
        ]
        return self._project(levels)


class FilmTower(RecurrentTower):
    """A recurrent network over the frames' vectors of a frozen picture network, with one crop per film in training."""

    def __init__(
        self,
        ids: Sequence[str],
        paths: Sequence[Path | None],
        settings: PretrainingSettings,
        *,
        image: ImageEncoder,
        config: EncoderConfig,
    ) -> None:
        network = RecurrentFilmEncoder(RecurrentSettings(width=image.dim, hidden=settings.width // 2))
        super().__init__(network, network.dim, paths, settings.width)
        self._ids, self._image = ids, image
        self._augmentation = Augmentation(settings.seed, crop_share=_CROP_SHARE, flip_rate=_FLIP_RATE)
        reading = Reading("film", frames=config.frames, stride=config.stride)
        self._decoder: Decoder[list[Tensor]] = Decoder(
            reading, self._prepare, workers=config.workers, ahead=config.workers
        )
        self._find_readable(self._decoder)

    def forward(self, rows: list[int], epoch: int | None) -> Tensor:
        """Unit vectors [B, K]."""
        films = [
            [self._augmentation.picture(frame, item=self._ids[row], epoch=epoch) for frame in film]
            for row, film in zip(rows, self._decoder.decode(self._files(rows)), strict=True)
            if film is not None
        ]
        vectors_ND = torch.from_numpy(self._image.encode_prepared([frame for film in films for frame in film]))
        return self._project(list(torch.split(vectors_ND, [len(film) for film in films])))

    def _prepare(self, frames: Arrays) -> list[Tensor]:
        return [self._image.prepare(Image.fromarray(frame)) for frame in frames]


def _levels(arrays: Arrays) -> Tensor:
    return torch.tensor(arrays[0])
