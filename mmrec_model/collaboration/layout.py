"""How one user's vector of a PAIRS release is laid out: the triangle of items, then that of features.

A user contributes (sqrt(1 - s) items, sqrt(s) features), s the `feature_part` of the plan. Both triangles have length 1
at most, so the whole has length 1 at most and one Gaussian release has one price; a plan with one form alone has s = 0
or 1. Nothing else knows this layout.

Shapes: T numbers of the release, M items, D dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmrec_model.collaboration.pairs import triangle_size
from mmrec_model.config_ladder import CollaborationConfig
from mmrec_model.errors import ModelError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """One form of the release.

    Attributes:
        triangle: its numbers, in the units of a user's own triangle of length 1; none for a form the plan lacks.
        noise: standard deviation of the noise in each number, in the same units.
    """

    triangle: Floats
    noise: float


def released_numbers(asked: CollaborationConfig) -> int:
    """T of a plan."""
    return triangle_size(asked.items) + triangle_size(asked.dims)


def join(asked: CollaborationConfig, items_T: Floats, features_T: Floats) -> Floats:
    """The vector `[T]` from sums of both triangles; an empty one for a form the plan lacks."""
    share = asked.feature_part
    return np.concatenate([math.sqrt(1.0 - share) * items_T, math.sqrt(share) * features_T])


def part(asked: CollaborationConfig, released_T: npt.NDArray[np.floating], noise: float) -> tuple[Part, Part]:
    """The form of items and that of features.

    Args:
        asked: the plan.
        released_T: the noised sum.
        noise: standard deviation of the noise in each number of it.

    Raises:
        ModelError: another number of numbers than the plan has.
    """
    if released_T.shape != (released_numbers(asked),):
        raise ModelError(
            f"{released_T.shape} numbers for the pairs of {asked.items} items and {asked.dims} dimensions",
            remedy="Send the whole release",
        )
    cut, share, wide_T = triangle_size(asked.items), asked.feature_part, released_T.astype(np.float64)
    return _part(wide_T[:cut], 1.0 - share, noise), _part(wide_T[cut:], share, noise)


def _part(triangle: Floats, share: float, noise: float) -> Part:
    scale = math.sqrt(share) or 1.0
    return Part(triangle / scale, noise / scale)
