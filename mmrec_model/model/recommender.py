"""The recommender: the best free model plus a trained residual that starts at exactly zero.

    score(user, item) =  sum_m w_m <profile_m(user), x_m(item)>      content, epsilon 0
                       + w_p prior(item)                             DP popularity, one priced release
                       + signals . [the terms above]                 trained, starts at 0
                       + sum_m <D_m profile_m(user), x_m(item)>      trained, diagonal D_m starts at 0
                       + s (<A u(user), v(item)> + b . v(item))      trained, A and b start at 0

v is the fused item vector, u the history, pooled by attention or read in order (`fusion`, `history`, `sequence`), s the
constant `fused_scale`. Before training the ranking is that of content and prior; noise can therefore only be paid for
by what training adds.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmrec_model.config import Modality, ModelConfig, RunConfig
from mmrec_model.errors import ModelError
from mmrec_model.model.dimension_weights import DimensionWeights
from mmrec_model.model.fusion import AttentionFusion
from mmrec_model.model.history import HistoryTower, Profile, content_profiles, visible_history
from mmrec_model.model.items import Items
from mmrec_model.model.scope import ENCODER, freeze_outside
from mmrec_model.model.sequence import SequenceTower
from mmrec_model.model.text_tower import TextTower, build_text_tower
from mmrec_model.protocol import Arrays


class MultimodalRecommender(nn.Module):
    """Scores items for a user from the user's own history.

    Args:
        config: sizes and public weights.
        dims: modalities in use and the width of their frozen vectors, in catalogue order.
        encoder: makes the text vectors, in the scopes that train it; else they are the catalogue's.
    """

    def __init__(self, config: ModelConfig, dims: Mapping[Modality, int], encoder: TextTower | None = None) -> None:
        super().__init__()
        if not dims:
            raise ModelError("the model has no modality", remedy="Give a catalogue with at least one readable medium")
        self.config = config
        self.dims = dict(dims)
        self.fusion = AttentionFusion(config, dims)
        sequence = config.tower == "sequence"
        self.tower = SequenceTower(config.hidden, config.positions) if sequence else HistoryTower(config.hidden)
        self.interaction = nn.Linear(config.hidden, config.hidden, bias=False)
        self.item_bias = nn.Linear(config.hidden, 1, bias=False)
        self.signals = nn.Linear(len(dims) + 1, 1, bias=False)
        widths = self.fusion.widths
        self.dimensions = nn.ModuleDict({name: DimensionWeights(width) for name, width in widths.items()})
        for residual in (self.interaction, self.item_bias, self.signals):
            nn.init.zeros_(residual.weight)
        public = [*(config.modality_weights.get(name, 0.0) for name in dims), config.popularity_weight]
        self.public_weights: Tensor
        self.register_buffer("public_weights", torch.tensor(public), persistent=False)
        if (encoder is None) != (config.text_encoder is None) or (encoder is not None and "text" not in dims):
            raise ModelError(
                f"scope {config.scope!r} over {', '.join(dims)} does not go with {(encoder and 'an') or 'no'} encoder",
                remedy="Make the model by build_model, over a catalogue with texts",
            )
        self.encoder = encoder
        freeze_outside(self, config.scope)

    def forward(
        self, items: Items, mask_BK: Tensor, candidates: Items | None = None, own: Items | None = None
    ) -> Tensor:
        """Scores.

        Args:
            items: `[B, K + L]`: the history in the first K places and, for training, L further candidates behind it.
            mask_BK: True where the history has an item.
            candidates: a list `[1, N]` that every user is scored against; without it, each place k of the history is
                a query that sees every other place (with the sequence tower: every earlier one) and is scored against
                all K + L items.
            own: the users' own media `[B, 1]`, as if each were an item; the user tower reads it before the history.

        Returns:
            `[B, 1, N]` with candidates, else `[B, K, K + L]`.
        """
        items, candidates = self.read(items), None if candidates is None else self.read(candidates)
        places = mask_BK.shape[-1]
        history = items.cut(0, places)
        visible_BTK = visible_history(mask_BK, leave_one_out=candidates is None, causal=self.config.tower == "sequence")
        profile_BXH, fused_BLH = self._fused(items, own)
        profile = None if own is None else Profile.of(own, profile_BXH)
        users_BTH = self.tower(fused_BLH[:, :places], visible_BTK, profile)
        scored, vectors = (items, fused_BLH) if candidates is None else (candidates, self.fusion(candidates))
        profiles = content_profiles(history, visible_BTK)
        terms_BTLS = self.public_weights * self._terms(profiles, scored)
        residual: Tensor = self.interaction(users_BTH) @ vectors.transpose(-1, -2)
        fused: Tensor = self.config.fused_scale * (residual + self.item_bias(vectors).transpose(-1, -2))
        return terms_BTLS.sum(-1) + self._signal(terms_BTLS) + self._weighted(profiles, scored) + fused

    def _fused(self, items: Items, own: Items | None) -> tuple[Tensor, Tensor]:
        """Fused vectors of the users' own media (none of them without `own`) and of the items, by one call."""
        first = 0 if own is None else 1
        fused: Tensor = self.fusion(items if own is None else items.behind(own))
        return fused[:, :first], fused[:, first:]

    def read(self, items: Items) -> Items:
        """Items with the text vectors that this model uses: its own encoder's, where it has one."""
        if self.encoder is None or items.encoded:
            return items
        read: Items = self.encoder(items)
        return read

    def _terms(self, profiles: Mapping[Modality, Tensor], scored: Items) -> Tensor:
        similarities = [profiles[name] @ rows.transpose(-1, -2) for name, rows in scored.vectors.items()]
        prior = scored.prior.unsqueeze(-2).expand_as(similarities[0])
        return torch.stack([*similarities, prior], dim=-1)

    def _signal(self, terms_BTLS: Tensor) -> Tensor:
        users, queries, length, signals = terms_BTLS.shape
        flat = terms_BTLS.reshape(users, queries * length, signals)
        signal: Tensor = self.signals(flat)
        return signal.reshape(users, queries, length)

    def _weighted(self, profiles: Mapping[Modality, Tensor], scored: Items) -> Tensor:
        parts = []
        for name, width in self.fusion.widths.items():
            weighted: Tensor = self.dimensions[name](profiles[name][..., :width])
            parts.append(weighted @ scored.vectors[name][..., :width].transpose(-1, -2))
        return torch.stack(parts).sum(0)

    def trainable_state(self) -> dict[str, Tensor]:
        """What travels between coordinator and partners: the trained weights and nothing about any user."""
        return {name: weight.detach() for name, weight in self.named_parameters() if weight.requires_grad}

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the trained weights.

        Raises:
            ModelError: a name is missing or unknown, or a shape differs.
        """
        self._load({name: weight for name, weight in self.named_parameters() if weight.requires_grad}, state)

    def served_state(self) -> dict[str, Tensor]:
        """What an export holds: every weight, trained or not, so that serving does not depend on the seed.

        Of a text encoder it holds what was trained; the rest is named by the configuration's digest.
        """
        encoder = f"{ENCODER}."
        return {
            name: weight.detach()
            for name, weight in self.named_parameters()
            if weight.requires_grad or not name.startswith(encoder)
        }

    def load_served_state(self, state: Mapping[str, Tensor]) -> None:
        """Set every weight that `served_state` names.

        Raises:
            ModelError: a name is missing or unknown, or a shape differs.
        """
        own = dict(self.named_parameters())
        self._load({name: own[name] for name in self.served_state()}, state)

    def _load(self, own: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]) -> None:
        if set(own) != set(state):
            odd = sorted(set(own) ^ set(state))
            raise ModelError(f"the state differs from the model at {odd[:4]}", remedy="Use the model's own config")
        with torch.no_grad():
            for name, weight in own.items():
                if weight.shape != state[name].shape:
                    raise ModelError(
                        f"{name} has shape {tuple(state[name].shape)}, the model needs {tuple(weight.shape)}",
                        remedy="Use the configuration the state was trained with",
                    )
                weight.copy_(state[name])


def build_model(config: RunConfig, *, encoder_source: str | None = None) -> MultimodalRecommender:
    """The untrained model of a run; the same seed gives the same weights on every machine.

    Args:
        config: the run.
        encoder_source: where this machine has the text encoder, in a scope that trains it; by default where the
            configuration says.

    Raises:
        EncoderError: the text encoder cannot be loaded.
        ModelError: it is not the one that the run uses, or cannot be tuned.
    """
    settings = config.model.text_encoder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        tower = None if settings is None else build_text_tower(config.model.scope, settings, source=encoder_source)
        torch.manual_seed(config.seed)
        return MultimodalRecommender(config.model, config.features.dims, tower)


def initial_state(config: RunConfig) -> Arrays:
    """The trained part before training, as the arrays that travel."""
    return {name: tensor.numpy().copy() for name, tensor in build_model(config).trainable_state().items()}
