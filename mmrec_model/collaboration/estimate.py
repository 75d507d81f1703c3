"""The whole way from the partners' noised triangles to the collaborative scorer that travels; post-processing only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmrec_model.collaboration.closed_form import discounted, item_weights, ridge_penalty, standardised
from mmrec_model.collaboration.denoising import denoise
from mmrec_model.collaboration.kernels import content_kernel, mixed, route
from mmrec_model.collaboration.pairs import unpack

Vectors = Mapping[str, npt.NDArray[np.floating]]


@dataclass(frozen=True)
class Estimated:
    """A collaborative scorer and what was found on the way.

    Attributes:
        weights_MM: float32, row: item of the history, column: item that is scored; zero diagonal.
        modalities: weight of each modality's content in what unseen pairs are shrunk towards.
        penalty: ridge penalty of the closed form.
        kept: mean share of the pairs' deviation from independence that denoising kept, 0..1.
    """

    weights_MM: npt.NDArray[np.float32]
    modalities: dict[str, float]
    penalty: float
    kept: float


def select_items(prior_N: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.int64]:
    """The `size` most popular items by the released prior, ascending; all of them if there are no more."""
    top = np.argsort(-prior_N.astype(np.float64), kind="stable")[:size]
    return np.sort(top).astype(np.int64)


def estimate_weights(
    triangle_T: npt.NDArray[np.floating],
    vectors: Vectors,
    *,
    items: int,
    noise: float,
    noise_penalty: float,
    weight_M: npt.NDArray[np.floating] | None = None,
) -> Estimated:
    """The scorer.

    Args:
        triangle_T: noised sum of the users' triangles.
        vectors: public features of the M selected items by modality, unit rows, zero rows where one is missing.
        items: M.
        noise: standard deviation of the noise in each number of the triangle.
        noise_penalty: how strongly the noise that is left raises the penalty.
        weight_M: by which the users' pairs were weighted (`collaboration.tail`); equal ones by default.

    Raises:
        ModelError: the triangle is not one of `items` items.
    """
    noised = unpack(triangle_T, items)
    weight = np.ones(items) if weight_M is None else weight_M.astype(np.float64)
    kernels = {name: content_kernel(rows) for name, rows in vectors.items()}
    weights = route(noised / np.outer(weight, weight), kernels)
    cosines = np.zeros((items, items))
    for name, rows in vectors.items():
        wide = np.asarray(rows, dtype=np.float64)
        cosines += weights[name] * (wide @ wide.T)
    found = denoise(noised, cosines, noise=noise)
    penalty = ridge_penalty(found.pairs_MM, remaining=found.remaining, noise_penalty=noise_penalty)
    content = mixed(kernels, weights, items) / weight[:, None] * weight
    learned = item_weights(found.pairs_MM, content, penalty=penalty) * weight[:, None] / weight
    counts = np.diag(found.pairs_MM) / weight**2
    scaled = standardised(discounted(learned, counts, remaining=found.remaining, kept=found.kept), counts)
    return Estimated(scaled.astype(np.float32), weights, penalty, found.kept)
