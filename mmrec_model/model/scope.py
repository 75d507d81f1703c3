"""Which weights a run trains: one setting decides what has a gradient, what travels, and what noise and price cover.

    head      interaction, bias, signal and dimension weights (of decision fusion: its scorers), and every head beside
              them
    fusion    head, the fusion of modalities and the user tower                                 (the default)
    lora      fusion, and LoRA adapters inside a text encoder that is then part of the model
    top       fusion, and the last layers of that encoder
    full      fusion, and all of that encoder

A weight outside the scope keeps the value that the run's seed gave it, at every partner and at the coordinator. A part
that this table does not know belongs to the head, so that a new part is trained in every scope unless it is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torch import nn

from mmrec_model.config import Scope

ENCODER: Final = "encoder"
"""The part that is a text encoder; which of its weights train, `mmrec_model.model.text_tower` knows."""
_FROZEN: Final[Mapping[Scope, frozenset[str]]] = {"head": frozenset({"fusion", "tower"})}
"""Top-level parts of the recommender that a scope leaves alone; none where it is not named."""
_SCORERS: Final = ("fusion.interactions", "fusion.biases")
"""The residuals of decision fusion, which lie inside the fusion and belong to the head."""


@dataclass(frozen=True)
class TrainedShare:
    """How much of a model a run trains; the noise of a step grows with the square root of `trained`.

    Attributes:
        trained: weights that the private step changes.
        weights: all weights of the model, those of a text encoder included where it is part of the model.
    """

    trained: int
    weights: int


def freeze_outside(model: nn.Module, scope: Scope) -> None:
    """Take the gradient from every weight of `model` that lies outside `scope`."""
    for name, part in model.named_children():
        if name != ENCODER:
            part.requires_grad_(requires_grad=name not in _FROZEN.get(scope, ()))
    for name, part in model.named_modules():
        if name in _SCORERS:
            part.requires_grad_(requires_grad=True)


def trained_share(model: nn.Module) -> TrainedShare:
    """Count the weights of a model."""
    counts = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    return TrainedShare(sum(count for count, trains in counts if trains), sum(count for count, _ in counts))
