"""Sequences of different lengths to one vector each: a GRU (Cho et al. 2014) or LSTM (Hochreiter & Schmidhuber 1997).

Promises:
1. Frames behind a sequence's length change nothing: not its vector, and no gradient flows to them.
2. The order of the frames matters; the vector is the mean of all states beside the last one.

These are plain trainable modules; what freezes them and reads files is in `recurrent_audio` and `recurrent_film`.
Shapes: B sequences of a batch, F frames, D width of a frame, H width of a state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from mmrec_model.config_types import Strict

Cell = Literal["gru", "lstm"]
CELLS: tuple[Cell, ...] = ("gru", "lstm")

_LEVEL_CENTRE = 3.0
"""Log-mel levels lie in 0..6 (`mmrec_model.encoders.sounds`); the network reads them in -1..1."""


class RecurrentSettings(Strict):
    """Size of a recurrent encoder.

    Attributes:
        cell: which recurrence.
        width: numbers per frame.
        hidden: width of a state.
        layers: recurrent layers.
    """

    cell: Cell = "gru"
    width: Annotated[int, Field(ge=1, le=16_384)]
    hidden: Annotated[int, Field(ge=1, le=4096)] = 128
    layers: Annotated[int, Field(ge=1, le=8)] = 1


class MaskedRecurrence(nn.Module):
    """Mean and last state of a recurrence over the frames within each sequence's length."""

    def __init__(self, settings: RecurrentSettings) -> None:
        super().__init__()
        kind = nn.GRU if settings.cell == "gru" else nn.LSTM
        self.recurrence = kind(settings.width, settings.hidden, settings.layers, batch_first=True)
        self.dim = 2 * settings.hidden

    def forward(self, frames_BFD: Tensor, lengths_B: Tensor) -> Tensor:
        """Frames and the number of valid ones, each at least 1, to [B, 2 H]."""
        counts_B = lengths_B.cpu()
        packed = pack_padded_sequence(frames_BFD, counts_B, batch_first=True, enforce_sorted=False)
        states_BFH, _ = pad_packed_sequence(self.recurrence(packed)[0], batch_first=True)
        rows_B = torch.arange(len(counts_B), device=states_BFH.device)
        lengths_B = counts_B.to(states_BFH.device)
        mean_BH = states_BFH.sum(1) / lengths_B[:, None]
        return torch.cat([mean_BH, states_BFH[rows_B, lengths_B - 1]], dim=1)


class RecurrentAudioEncoder(nn.Module):
    """Log-mel frames with lengths to vectors."""

    def __init__(self, settings: RecurrentSettings) -> None:
        super().__init__()
        self.settings = settings
        self.pool = MaskedRecurrence(settings)
        self.dim = self.pool.dim

    def forward(self, levels_BFD: Tensor, lengths_B: Tensor) -> Tensor:
        """Levels in 0..6 of `sounds.log_mel` to [B, 2 H]."""
        pooled_BD: Tensor = self.pool(levels_BFD / _LEVEL_CENTRE - 1.0, lengths_B)
        return pooled_BD


class RecurrentFilmEncoder(nn.Module):
    """Vectors of frames with lengths to vectors of films."""

    def __init__(self, settings: RecurrentSettings) -> None:
        super().__init__()
        self.settings = settings
        self.norm = nn.LayerNorm(settings.width)
        self.pool = MaskedRecurrence(settings)
        self.dim = self.pool.dim

    def forward(self, frames_BFD: Tensor, lengths_B: Tensor) -> Tensor:
        """What an image encoder says of every frame to [B, 2 H]."""
        pooled_BD: Tensor = self.pool(self.norm(frames_BFD), lengths_B)
        return pooled_BD


def pad_frames(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Sequences [F_i, D] to frames [B, F, D], zeros behind their ends, and lengths [B]."""
    lengths_B = torch.tensor([len(one) for one in sequences])
    return pad_sequence(list(sequences), batch_first=True), lengths_B
