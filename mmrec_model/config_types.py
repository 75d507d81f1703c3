"""The types that settings are made of: strict tables and bounded numbers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
Pooling = Literal["auto", "mean", "cls", "last"]
Precision = Literal["float32", "bfloat16", "float16"]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=2, le=4096)]
Rate = Annotated[float, Field(gt=0.0, lt=1.0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MetricName = Annotated[str, Field(pattern=r"^((recall|ndcg)_at_[1-9][0-9]{0,3}|mrr)$")]
"""A ranking metric of one user that lies in [0, 1], as `mmrec_model.evaluation.ranking.per_user` names it."""


class Strict(BaseModel):
    """Frozen, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
