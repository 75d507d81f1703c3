"""Settings of what is released beside the training rounds: metrics, statistics of one round, the gate's scores.

Each has a noise multiplier of its own and its price in the ledger; `mmrec_model.ladder` says what is built from them.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from mmrec_model.config_types import MetricName, NonNegative, Rate, Strict


class CollaborationConfig(Strict):
    """One round of statistics: what stands together in the users' histories (`mmrec_model.collaboration`).

    Pairs of items, pairs of features, or both: one vector per user of length 1 at most, and one release.

    Attributes:
        items: most popular items, by the released popularity, whose pairs are counted; 0 for none.
        dims: dimensions of the public feature space in which pairs are counted, of items that were not selected too;
            0 for none.
        feature_share: of the squared length of a user's vector, for pairs of features, in a plan that has both; the
            pairs of items get the rest.
        history: last items of a user that are counted.
        noise_multiplier: noise on each sum, in units of one user's bound, which is 1.
        noise_penalty: how strongly the noise left in the sums raises the ridge penalty of the closed form.
        tail_weight: how far a user's length goes to the less popular of his items (`mmrec_model.collaboration.tail`);
            0 for equal weights.
    """

    items: Annotated[int, Field(ge=0, le=8192)] = 0
    dims: Annotated[int, Field(ge=0, le=1024)] = 0
    feature_share: Rate = 0.1
    history: Annotated[int, Field(ge=2, le=512)] = 15
    noise_multiplier: NonNegative = 0.0
    noise_penalty: NonNegative = 3.0
    tail_weight: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0

    @property
    def released(self) -> bool:
        """Whether anything is."""
        return self.items > 0 or self.dims > 0

    @property
    def feature_part(self) -> float:
        """Share of a user's squared length that pairs of features have: `feature_share`, or all, or nothing."""
        return self.feature_share if self.items and self.dims else float(self.dims > 0)


GATE_METRIC: MetricName = "recall_at_20"
"""What the gate compares unless a plan says otherwise. A hit counts a whole 1 against the bound of 1, while ndcg of a
typical hit is a third: two rungs stand three times as far apart in it, in units of the same noise."""


class GateConfig(Strict):
    """Whether the exported model has to prove itself against what costs less, on the partners' validation items.

    Attributes:
        metric: what is compared; null for no gate.
        noise_multiplier: noise of the release, in units of sqrt(number of candidates + 1).
    """

    metric: MetricName | None = None
    noise_multiplier: NonNegative = 0.0


class EvaluationConfig(Strict):
    """Which metrics the partners release during a run, and how often; by default none ever leaves.

    Each release is the noised sum, over the partner's users with a validation item, of `metrics` and of the number 1.

    Attributes:
        metrics: what is released, in this order.
        every: release after every n-th round; 0 for never.
        final: release once more for the state that is exported, after the last round.
        noise_multiplier: noise of a release, in units of sqrt(number of metrics + 1).
    """

    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1, max_length=16)] = ("recall_at_10", "ndcg_at_10")
    every: Annotated[int, Field(ge=0, le=100_000)] = 0
    final: bool = False
    noise_multiplier: NonNegative = 0.0

    @model_validator(mode="after")
    def _metrics_differ(self) -> Self:
        if len(set(self.metrics)) != len(self.metrics):
            raise ValueError(f"a metric is named twice in {list(self.metrics)}")
        return self

    def releases(self, rounds: int) -> tuple[int, ...]:
        """The rounds of a run of `rounds` after which metrics are released; `rounds + 1` is the exported state."""
        regular = range(self.every, rounds + 1, self.every) if self.every else ()
        return (*regular, rounds + 1) if self.final else tuple(regular)
