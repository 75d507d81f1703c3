"""What the settings of one part must agree on: nothing is given that nothing reads, and nothing is missing.

Each function raises `ValueError` with the value and the rule, which the configuration turns into a `ConfigError`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmrec_model.config import ModelConfig, PrivacyConfig, RunConfig, TransformConfig

_READ_BY = {
    "fusion_layers": ("concat", "transformer"),
    "fusion_heads": ("cross_attention", "transformer"),
    "decision_rule": ("decision",),
    "decision_weights": ("decision",),
}
_NOT_READ_BY = {"tower": "decision", "user_media": "decision"}
"""The scores of decision fusion are made of the history's content profiles, without a user vector."""
_READ_WITH = {
    "positions": ("tower", "sequence"),
    "decision_temperature": ("decision_weights", "local"),
    "decision_votes": ("decision_rule", "vote"),
}
_ADAPTIVE = ("clip_quantile", "clip_learning_rate", "clip_count_noise", "clip_range")
_FLOAT32_CLIPS = (1e-30, 1e30)
"""Adaptive clips travel as float32."""
_ACTIVITY_CAPS = (2, 65_536)
"""Caps between which a quantile can choose; they travel as float32, which has all whole numbers of that size."""


def refuse_unread(model: ModelConfig) -> None:
    """Refuse a value that would do nothing, and a width that the heads do not divide."""
    fields = type(model).model_fields
    given = {name: getattr(model, name) for name, field in fields.items() if getattr(model, name) != field.default}
    for name, readers in _READ_BY.items():
        if name in given and model.fusion not in readers:
            raise ValueError(f"{name} is {given[name]!r}, and fusion {model.fusion!r} does not read it; {readers} do")
    for name, family in _NOT_READ_BY.items():
        if name in given and model.fusion == family:
            raise ValueError(f"{name} is {given[name]!r}, and fusion {family!r} does not read it; all others do")
    for name, (reader, needed) in _READ_WITH.items():
        if name in given and getattr(model, reader) != needed:
            raise ValueError(f"{name} is {given[name]!r}, and is read only where {reader} is {needed!r}")
    if model.fusion in _READ_BY["fusion_heads"] and model.hidden % model.fusion_heads:
        raise ValueError(f"hidden {model.hidden} is no multiple of fusion_heads {model.fusion_heads}")
    if model.modalities is not None and len(set(model.modalities)) < len(model.modalities):
        raise ValueError(f"modalities {list(model.modalities)} name one of them twice")


def refuse_stray_encoder(model: ModelConfig, scopes: tuple[str, ...]) -> None:
    """Refuse a text encoder outside the scopes that train it, and such a scope without one."""
    if (model.scope in scopes) != (model.text_encoder is not None):
        wrong = "needs a" if model.text_encoder is None else "has no"
        raise ValueError(f"scope {model.scope!r} {wrong} text_encoder")


def refuse_incomplete_heads(model: ModelConfig) -> None:
    """Refuse heads without what they learn from, and with a tower that cannot keep a label from them."""
    if model.heads and model.tower == "sequence":
        raise ValueError(
            "heads need the tower 'attention': they leave a row's own item out of the history, and the states of "
            "the tower 'sequence' behind that item would betray it"
        )
    if model.cvr_loss == "esmm" and not {"ctr", "cvr"} <= set(model.heads):
        raise ValueError("cvr_loss 'esmm' needs the heads 'ctr' and 'cvr'")
    if model.ctr_scorer == "deepfm" and "ctr" not in model.heads:
        raise ValueError("ctr_scorer 'deepfm' needs the head 'ctr'")
    if "category" in model.heads and len(model.categories) < 2:
        raise ValueError("the head 'category' needs at least 2 names in categories")
    if len(set(model.categories)) != len(model.categories):
        raise ValueError("categories has a name twice")
    if not -math.inf < model.rating_scale[0] < model.rating_scale[1] < math.inf:
        raise ValueError("rating_scale must be a finite lowest rating below a finite highest one")
    if set(model.base_rates) != {"ctr", "cvr"}:
        raise ValueError("base_rates needs exactly 'ctr' and 'cvr'")


def refuse_unplanned_clip(privacy: PrivacyConfig) -> None:
    """Refuse adaptive clipping without noise for its count or range for its clip, and its fields without it."""
    if privacy.clipping == "flat":
        fields = type(privacy).model_fields
        if odd := [name for name in _ADAPTIVE if getattr(privacy, name) != fields[name].default]:
            raise ValueError(f"clipping 'flat' does not use {odd}")
        return
    if privacy.mechanism == "none":
        raise ValueError("clipping 'adaptive' needs mechanism 'gaussian': its count is a priced release")
    if privacy.clip_count_noise is None or not 2.0 * privacy.clip_count_noise > privacy.noise_multiplier:
        raise ValueError(
            f"clipping 'adaptive' needs clip_count_noise above noise_multiplier / 2 = {privacy.noise_multiplier / 2:g}"
        )
    least, most = _FLOAT32_CLIPS
    if privacy.max_grad_norm / privacy.clip_range < least or privacy.max_grad_norm * privacy.clip_range > most:
        raise ValueError(f"clipping 'adaptive' needs a range of clips from {least:g} to {most:g}")


def refuse_unplanned_activity(privacy: PrivacyConfig) -> None:
    """Refuse a quantile of activity without noise for its release or caps to choose from, and noise alone."""
    asked, noise = privacy.activity_quantile > 0.0, privacy.activity_noise_multiplier
    if asked and privacy.mechanism == "gaussian" and noise <= 0.0:
        raise ValueError("activity is released with mechanism 'gaussian': activity_noise_multiplier is above 0")
    if noise > 0.0 and not (asked and privacy.mechanism == "gaussian"):
        raise ValueError(f"activity_noise_multiplier is {noise:g}, and nothing is released with it")
    least, most = _ACTIVITY_CAPS
    if asked and not least <= privacy.popularity_cap <= most:
        raise ValueError(
            f"activity_quantile chooses a cap of at most popularity_cap, which is {privacy.popularity_cap}, "
            f"not {least} to {most}"
        )


def refuse_broken_ladder(run: RunConfig) -> None:
    """Refuse a rung without its noise, noise without its rung, and a scorer of pairs that is not read."""
    pairs, gate, private = run.collaboration, run.gate, run.privacy.mechanism != "none"
    rungs = (("collaboration", pairs.released, pairs.noise_multiplier), ("gate", gate.metric is not None,
             gate.noise_multiplier))  # fmt: skip
    for name, used, noise in rungs:
        if used and private and noise <= 0.0:
            raise ValueError(f"{name} is released with mechanism 'gaussian': {name}.noise_multiplier is above 0")
        if noise > 0.0 and not (used and private):
            raise ValueError(f"{name}.noise_multiplier is {noise:g}, and nothing is released with it")
    if pairs.tail_weight and not pairs.items:
        raise ValueError(f"collaboration.tail_weight is {pairs.tail_weight:g}, and no pairs are released")
    if pairs.items > run.features.items:
        raise ValueError(f"collaboration.items is {pairs.items}, the catalogue has {run.features.items}")
    if (pairs.items > 0) != (run.model.collaboration_weight > 0.0):
        raise ValueError("collaboration.items and model.collaboration_weight are both above 0, or both 0")
    if (pairs.dims > 0) != (run.model.metric_weight > 0.0):
        raise ValueError("collaboration.dims and model.metric_weight are both above 0, or both 0")
    if pairs.dims > (width := sum(run.model_dims.values())):
        raise ValueError(f"collaboration.dims is {pairs.dims}, the model reads features of width {width}")
    if not (pairs.items and pairs.dims) and pairs.feature_share != type(pairs).model_fields["feature_share"].default:
        raise ValueError(f"feature_share is {pairs.feature_share:g}, and is read only with both items and dims")


def refuse_unread_transform(transform: TransformConfig) -> None:
    """Refuse a value that would do nothing."""
    fields = type(transform).model_fields
    if transform.select == "none" and transform.select_dims != fields["select_dims"].default:
        raise ValueError(f"select_dims is {transform.select_dims}, and select 'none' keeps all dimensions")
    for name in ("near_duplicate", "quarantine"):
        value = getattr(transform, name)
        if value != fields[name].default and not transform.quality:
            raise ValueError(f"{name} is {value}, and is read only where quality is true")
