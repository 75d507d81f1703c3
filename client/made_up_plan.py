"""Made-up catalogue, users and model for the settings of any plan: what the self-test replays. No user's data is read.

A `PlanShape` has the settings that choose the code which a step runs through, and nothing else: sizes, weights and
scales are small constants, at which a user's gradient exceeds the clip, so that a replay can fail. Users have histories
and outcomes of every number from none to full; of the last user's first item nothing is a number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import torch

from client.training import Witnessed
from mmrec_model.config import (
    ENCODER_SCOPES,
    HOUR_BUCKETS,
    MODALITIES,
    WEEKDAYS,
    FusionName,
    HeadName,
    Modality,
    ModelConfig,
    RankingLoss,
    RunConfig,
    Scope,
    Tower,
    TunedTextConfig,
    UserMedium,
)
from mmrec_model.data.batches import draw_kept
from mmrec_model.model.heads.outcomes import Outcomes
from mmrec_model.model.items import Items
from mmrec_model.model.loss import HistoryBatch
from mmrec_model.model.recommender import RecommenderNetwork
from mmrec_model.model.text_tower import TextTower
from mmrec_model.model.texts import Texts

USERS: Final = 7
_PLACES, _NEGATIVES, _ITEMS, _WIDTH, _WITNESS = 4, 6, 25, 5, 8
_FEEDBACK, _CATEGORIES, _DROPOUT = 5, ("a", "b", "c"), 0.4
_HIDDEN, _DEEP, _RANK = 4, 2, 2
_WORDS, _LONGEST_TEXT, _ENCODER_WIDTH = 12, 4, 8
_PAIRS_WEIGHT = 0.3
_UNREADABLE = _ITEMS - 1


@dataclass(frozen=True)
class PlanShape:
    """The settings of a plan that choose code; without arguments those of a default plan.

    Attributes:
        fusion, decision_weights, tower, user_media, scope, cvr_loss, ctr_scorer: as in `ModelConfig`.
        layers: depth of the fusion, 1 or 2 (any more).
        heads: without their weights.
        modalities: those that the model reads.
        loss: of the ranking.
        dropout: whether modalities are hidden.
        adaptive: whether the count of adaptive clipping is released too.
        pairs: whether the score reads released pairs of items.
        metric: whether it reads released pairs of features.
    """

    fusion: FusionName = "attention"
    layers: int = 1
    decision_weights: Literal["public", "learned", "local"] = "learned"
    tower: Tower = "attention"
    user_media: tuple[UserMedium, ...] = ()
    scope: Scope = "fusion"
    heads: tuple[HeadName, ...] = ()
    cvr_loss: Literal["conditional", "esmm"] = "conditional"
    ctr_scorer: Literal["bilinear", "deepfm"] = "bilinear"
    modalities: tuple[Modality, ...] = MODALITIES
    loss: RankingLoss = "sampled_softmax"
    dropout: bool = False
    adaptive: bool = False
    pairs: bool = False
    metric: bool = False

    @classmethod
    def of(cls, config: RunConfig) -> PlanShape:
        """The shape of a plan."""
        model = config.model
        return cls(
            fusion=model.fusion,
            layers=min(model.fusion_layers, _DEEP),
            decision_weights=model.decision_weights,
            tower=model.tower,
            user_media=model.user_media,
            scope=model.scope,
            heads=tuple(model.heads),
            cvr_loss=model.cvr_loss,
            ctr_scorer=model.ctr_scorer,
            modalities=tuple(config.model_dims),
            loss=config.training.loss,
            dropout=config.training.modality_dropout > 0.0,
            adaptive=config.privacy.clipping == "adaptive",
            pairs=config.collaboration.items > 0,
            metric=config.collaboration.dims > 0,
        )

    @property
    def trains_encoder(self) -> bool:
        """Whether a text encoder is part of the model."""
        return self.scope in ENCODER_SCOPES

    def settings(self) -> ModelConfig:
        """A small model of this shape."""
        return ModelConfig(
            hidden=_HIDDEN,
            trained_dims=_HIDDEN,
            collaboration_weight=_PAIRS_WEIGHT if self.pairs else 0.0,
            metric_weight=_PAIRS_WEIGHT if self.metric else 0.0,
            fusion=self.fusion,
            fusion_layers=self.layers,
            decision_weights=self.decision_weights,
            tower=self.tower,
            user_media=self.user_media,
            scope=self.scope,
            text_encoder=TunedTextConfig(digest="0" * 64, rank=_RANK) if self.trains_encoder else None,
            heads=dict.fromkeys(self.heads, 1.0),
            cvr_loss=self.cvr_loss,
            ctr_scorer=self.ctr_scorer,
            categories=_CATEGORIES,
        )


def made_up_model(shape: PlanShape) -> Witnessed:
    """The recommender with every weight away from where it starts, so that every layer has a gradient."""
    settings = shape.settings()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = None if settings.text_encoder is None else _made_up_encoder(shape.scope, settings.text_encoder)
        model = RecommenderNetwork(settings, dict.fromkeys(shape.modalities, _WIDTH), encoder)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.3 * torch.randn(weight.shape))
        if model.pairs_scorer is not None:
            selected = torch.arange(0, _ITEMS, 2)
            model.pairs_scorer.load(selected, torch.randn(len(selected), len(selected)))
        if model.metric_scorer is not None:
            model.metric_scorer.load(torch.randn(_WIDTH * len(shape.modalities), _WIDTH), torch.randn(_WIDTH, _WIDTH))
    model.train()
    return Witnessed(model, _WITNESS)


def made_up_catalogue(shape: PlanShape) -> Items:
    """Unit vectors of the shape's modalities, some missing, and texts for an encoder; the last item has no numbers."""
    rng = np.random.default_rng(1)
    vectors, present_NM = _made_up_vectors(rng, _ITEMS, shape.modalities)
    present_NM[_UNREADABLE] = True
    for rows in vectors.values():
        rows[_UNREADABLE] = np.nan
    prior_N = rng.normal(size=_ITEMS).astype(np.float32)
    return Items.from_arrays(vectors, present_NM, prior_N, texts=_made_up_texts(rng) if shape.trains_encoder else None)


def made_up_users(shape: PlanShape) -> HistoryBatch:
    """`USERS` users of the catalogue; the last has the item that is not a number."""
    rng = np.random.default_rng(2)
    items_BL = rng.integers(0, _UNREADABLE, size=(USERS, _PLACES + _NEGATIVES))
    lengths_B = np.minimum(np.arange(USERS), _PLACES)
    items_BL[-1, 0] = _UNREADABLE
    return HistoryBatch(
        torch.from_numpy(items_BL),
        torch.from_numpy(np.arange(_PLACES) < lengths_B[:, None]),
        kept_BLM=_kept(items_BL, shape),
        own=_made_up_profiles(shape) if shape.user_media else None,
        outcomes=_made_up_outcomes(rng, shape) if shape.heads else None,
    )


def _made_up_vectors(
    rng: np.random.Generator, count: int, modalities: tuple[Modality, ...]
) -> tuple[dict[Modality, np.ndarray], np.ndarray]:
    """Unit rows, zero where a modality is missing; everything has the first one."""
    present_NM = rng.random((count, len(modalities))) < 0.7
    present_NM[:, 0] = True
    vectors = {}
    for place, name in enumerate(modalities):
        rows = rng.normal(size=(count, _WIDTH)) * present_NM[:, place, None]
        vectors[name] = (rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(min=1e-9)).astype(np.float32)
    return vectors, present_NM


def _made_up_profiles(shape: PlanShape) -> Items:
    """Own media `[B, 1]`: every second user has all that the shape reads, the others none."""
    vectors, present_UM = _made_up_vectors(np.random.default_rng(3), USERS, shape.modalities)
    present_UM[:] = [name in shape.user_media for name in shape.modalities]
    present_UM[::2] = False
    vectors = {name: rows * present_UM[:, [place]] for place, (name, rows) in enumerate(vectors.items())}
    profiles = Items.from_arrays(vectors, present_UM).take(torch.arange(USERS).unsqueeze(1))
    return replace(profiles, encoded=True)


def _kept(items_BL: np.ndarray, shape: PlanShape) -> torch.Tensor | None:
    kept = draw_kept(
        items_BL,
        np.arange(USERS),
        modalities=len(shape.modalities),
        modality_dropout=_DROPOUT if shape.dropout else 0.0,
        seed=0,
    )
    return None if kept is None else torch.from_numpy(kept)


def _made_up_outcomes(rng: np.random.Generator, shape: PlanShape) -> Outcomes:
    """Rows of every number from none to full, with labels of all kinds."""
    rows = (USERS, _FEEDBACK)
    mask_BF = np.arange(_FEEDBACK) < np.arange(USERS)[:, None]
    flags = {name: mask_BF & (rng.random(rows) < 0.6) for name in ("shown", "clicked", "converted", "rated")}
    whole = {"items": _UNREADABLE, "hour": HOUR_BUCKETS, "weekday": WEEKDAYS, "category": len(_CATEGORIES)}
    numbers = {name: rng.integers(0, most, rows) for name, most in whole.items()}
    columns = {f"{name}_BF": torch.from_numpy(column) for name, column in (flags | numbers).items()}
    return Outcomes(
        **columns,
        mask_BF=torch.from_numpy(mask_BF),
        ratings_BF=torch.from_numpy(rng.uniform(1.0, 5.0, rows).astype(np.float32)),
        category_BK=torch.from_numpy(rng.integers(-1, len(_CATEGORIES), (USERS, _PLACES))),
        kept_BFM=_kept(numbers["items"], shape),
    )


def _made_up_texts(rng: np.random.Generator) -> Texts:
    """Texts of every length up to the longest; the item without numbers has none, so that it keeps its vector."""
    lengths_N = np.arange(_ITEMS) % _LONGEST_TEXT + 1
    lengths_N[_UNREADABLE] = 0
    offsets_N1 = np.concatenate([[0], np.cumsum(lengths_N)])
    return Texts(
        ids_R=torch.from_numpy(rng.integers(0, _WORDS, offsets_N1[-1])),
        offsets_N1=torch.from_numpy(offsets_N1),
        mean_D=torch.zeros(_ENCODER_WIDTH),
        axes_DK=torch.from_numpy(rng.normal(size=(_ENCODER_WIDTH, _WIDTH)).astype(np.float32)),
        index=torch.arange(_ITEMS),
    )


def _made_up_encoder(scope: Scope, settings: TunedTextConfig) -> TextTower:
    """A small transformer made by configuration: it needs no file."""
    from transformers import BertConfig, BertModel  # noqa: PLC0415 - seconds, and most plans tune no encoder

    network = BertModel(
        BertConfig(
            vocab_size=_WORDS,
            hidden_size=_ENCODER_WIDTH,
            num_hidden_layers=_DEEP,
            num_attention_heads=2,
            intermediate_size=_ENCODER_WIDTH,
            max_position_embeddings=_LONGEST_TEXT,
        )
    )
    return TextTower(network, scope, settings)
