"""The feature-level half of the collaborative term: what released feature pairs say of any item that has features.

    c(query, item) = (sum_k w_k x_k)^T W x_item / sqrt(sum_k w_k^2),        x = M^T v,

v the item's vectors of all modalities, w the weights of `pair_scorer`; the map M and the metric W
(`mmrec_model.collaboration`) are public once they are paid for, and constant here. An item that nobody met has a score
like any other; one without features gets 0.

Shapes as in `mmrec_model.model.items`; F width of all modalities together, D dimensions of the feature space.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmrec_model.errors import ModelError
from mmrec_model.model.items import Items
from mmrec_model.model.pair_scorer import recency


class MetricScorer(nn.Module):
    """Holds M and W; scores nothing before `load`.

    Args:
        width: F of the model's modalities.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.feature_map: Tensor
        self.metric: Tensor
        self.register_buffer("feature_map", torch.zeros(width, 1), persistent=False)
        self.register_buffer("metric", torch.zeros(1, 1), persistent=False)

    def load(self, feature_map: Any, metric: Any) -> None:
        """Take over a metric.

        Args:
            feature_map: M, `[F, D]`.
            metric: W, `[D, D]`.

        Raises:
            ModelError: shapes differ, or a value is not finite.
        """
        map_FD = torch.as_tensor(feature_map, dtype=torch.float32)
        metric_DD = torch.as_tensor(metric, dtype=torch.float32)
        width, dims = len(self.feature_map), map_FD.shape[-1] if map_FD.dim() else 0
        fits = map_FD.shape == (width, dims) and metric_DD.shape == (dims, dims)
        if not (fits and bool(torch.isfinite(map_FD).all()) and bool(torch.isfinite(metric_DD).all())):
            raise ModelError(
                f"a metric of shape {tuple(metric_DD.shape)} with a map of shape {tuple(map_FD.shape)} for features of "
                f"width {width}, or with values that are not finite",
                remedy="Use the metric that the run's coordinator made",
            )
        device = self.metric.device
        self.feature_map, self.metric = map_FD.to(device), metric_DD.to(device)

    def forward(self, history: Items, visible_BTK: Tensor, scored: Items, *, leave_one_out: bool) -> Tensor:
        """The term `[B, T, L]`; arguments as of `PairScorer`."""
        weights_BTK = recency(visible_BTK, leave_one_out=leave_one_out)
        users_BTD = weights_BTK @ (_joined(history) @ self.feature_map)
        sought_BTF = users_BTD @ self.metric @ self.feature_map.T
        scores: Tensor = sought_BTF @ _joined(scored).transpose(-1, -2)
        return scores


def _joined(items: Items) -> Tensor:
    """The items' vectors of all modalities side by side `[..., F]`."""
    return torch.cat(list(items.vectors.values()), dim=-1)
