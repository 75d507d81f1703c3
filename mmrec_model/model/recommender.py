"""The recommender: the best free model plus a trained residual that starts at exactly zero.

    score(user, item) =  sum_m w_m <profile_m(user), x_m(item)>      content, epsilon 0
                       + w_p prior(item)                             DP popularity, one priced release
                       + w_c pairs(user, item)                       DP pairs of items, one priced release (optional)
                       + signals . [the terms above]                 trained, starts at 0
                       + sum_m <D_m profile_m(user), x_m(item)>      trained, diagonal D_m starts at 0
                       + s (<A u(user), v(item)> + b . v(item))      trained, A and b start at 0

v is the fused item vector, u the history, pooled by attention or read in order (`fusion`, `history`, `sequence`), s the
constant `fused_scale`. Before training the ranking is that of content and prior; noise can therefore only be paid for
by what training adds.

With decision-level fusion every modality has a scorer of its own, and the scorers are combined:

    scorer_m    =  <profile_m, x_m> + <D_m profile_m, x_m> + s r_m       r_m bilinear (`fusion.decision`), starts at 0
    score       =  sum_m w_m (1 + c_m) scorer_m + w_p (1 + c_p) prior    c trained, starts at 0
                   + w_c (1 + c_c) pairs

w may be the user's own (`decision_weights`), and a list of candidates may be ranked by votes or ranks
(`decision_rule`, `decision_rules`); training always uses the weighted sum, which has a gradient.

Heads beside the ranking (`heads`) read u, v and the terms of epsilon 0 with any fusion. Where decisions are fused, the
heads alone have u and v, and v is the mean of the tokens by the public weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmrec_model.config import Modality, ModelConfig, RunConfig
from mmrec_model.errors import ModelError
from mmrec_model.model.decision_rules import local_weights, mean_ranks, opinions
from mmrec_model.model.dimension_weights import DimensionWeights
from mmrec_model.model.fusion import DecisionFusion, build_fusion
from mmrec_model.model.heads.heads import Heads
from mmrec_model.model.heads.outcomes import Pairs
from mmrec_model.model.history import HistoryTower, Profile, content_profiles, visible_history
from mmrec_model.model.items import Items
from mmrec_model.model.metric_scorer import MetricScorer
from mmrec_model.model.pair_scorer import PairScorer
from mmrec_model.model.scope import ENCODER, freeze_outside
from mmrec_model.model.sequence import SequenceTower
from mmrec_model.model.text_tower import TextTower, build_text_tower
from mmrec_model.protocol import Arrays


class RecommenderNetwork(nn.Module):
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
        self.fusion = build_fusion(config, dims)
        by_decision, sequence = isinstance(self.fusion, DecisionFusion), config.tower == "sequence"
        if config.heads or not by_decision:
            self.tower = SequenceTower(config.hidden, config.positions) if sequence else HistoryTower(config.hidden)
        if not by_decision:
            self.interaction = nn.Linear(config.hidden, config.hidden, bias=False)
            self.item_bias = nn.Linear(config.hidden, 1, bias=False)
            for residual in (self.interaction, self.item_bias):
                nn.init.zeros_(residual.weight)
        self.pairs_scorer = PairScorer() if config.collaboration_weight else None
        self.metric_scorer = MetricScorer(sum(dims.values())) if config.metric_weight else None
        pairs_weight = config.collaboration_weight or config.metric_weight
        public = [config.popularity_weight, *([pairs_weight] if pairs_weight else [])]
        weighs_modalities = config.decision_weights == "learned"
        self.signals = nn.Linear((len(dims) if weighs_modalities else 0) + len(public), 1, bias=False)
        nn.init.zeros_(self.signals.weight)
        widths = self.fusion.widths
        self.dimensions = nn.ModuleDict({name: DimensionWeights(width) for name, width in widths.items()})
        public = [*(config.modality_weights.get(name, 0.0) for name in dims), *public]
        self.public_weights: Tensor
        self.register_buffer("public_weights", torch.tensor(public), persistent=False)
        self.heads = Heads(config, len(dims) + 1)
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
        items = items.only(self.dims)
        scored = items if candidates is None else candidates.only(self.dims)
        history = items.cut(0, places)
        visible_BTK = visible_history(mask_BK, leave_one_out=candidates is None, causal=self.config.tower == "sequence")
        profiles = content_profiles(history, visible_BTK)
        shared_BTLs = self._shared_terms(history, visible_BTK, scored, leave_one_out=candidates is None)
        if isinstance(self.fusion, DecisionFusion):
            weights_BTM = self._decision_weights(history, visible_BTK, profiles)
            return self._decided(
                self.fusion, weights_BTM, profiles, scored, shared_BTLs, ranking=candidates is not None
            )
        own = None if own is None else own.only(self.dims)
        profile_BXH, fused_BLH = self._fused(items, own)
        profile = None if own is None else Profile.of(own, profile_BXH)
        users_BTH = self.tower(fused_BLH[:, :places], visible_BTK, profile)
        vectors = fused_BLH if candidates is None else self.fusion(scored)
        terms_BTLS = self.public_weights * self._terms(self._contents(profiles, scored), shared_BTLs)
        residual: Tensor = self.interaction(users_BTH) @ vectors.transpose(-1, -2)
        fused: Tensor = self.config.fused_scale * (residual + self.item_bias(vectors).transpose(-1, -2))
        return self._combined(terms_BTLS) + torch.stack(self._weighted(profiles, scored)).sum(0) + fused

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

    def user_vectors(self, history: Items, visible_BTK: Tensor, own: Items | None = None) -> Tensor:
        """The user as each of T queries sees the history `[B, K]`, `[B, T, H]`; `own` as in `forward`."""
        own = None if own is None else own.only(self.dims)
        profile_BXH, fused_BKH = self._fused(self.read(history).only(self.dims), own)
        users_BTH: Tensor = self.tower(fused_BKH, visible_BTK, None if own is None else Profile.of(own, profile_BXH))
        return users_BTH

    def pairs(self, history: Items, visible_BFK: Tensor, rows: Items, own: Items | None = None) -> Pairs:
        """What the heads read: the user of query f beside item f of the rows `[B, F]`, with the free terms of both."""
        history, rows = self.read(history).only(self.dims), self.read(rows).only(self.dims)
        profiles = content_profiles(history, visible_BFK)
        similarities = [(profiles[name] * vectors).sum(-1) for name, vectors in rows.vectors.items()]
        terms_BFS = self.public_weights[: len(self.dims) + 1] * torch.stack([*similarities, rows.prior], dim=-1)
        return Pairs(
            self.user_vectors(history, visible_BFK, own), self.fusion(rows), self.config.temperature * terms_BFS
        )

    def _decision_weights(self, history: Items, visible_BTK: Tensor, profiles: Mapping[Modality, Tensor]) -> Tensor:
        public_M = self.public_weights[: len(self.dims)]
        if self.config.decision_weights == "local":
            return local_weights(history, visible_BTK, profiles, public_M, self.config.decision_temperature)
        return public_M.expand(*visible_BTK.shape[:-1], len(public_M))

    def _decided(
        self,
        fusion: DecisionFusion,
        weights_BTM: Tensor,
        profiles: Mapping[Modality, Tensor],
        scored: Items,
        shared_BTLs: Tensor,
        *,
        ranking: bool,
    ) -> Tensor:
        residuals_BTLM = self.config.fused_scale * fusion.residuals(profiles, scored)
        parts = zip(self._contents(profiles, scored), self._weighted(profiles, scored), strict=True)
        scorers = [content + own + residuals_BTLM[..., place] for place, (content, own) in enumerate(parts)]
        scores_BTLS = self._terms(scorers, shared_BTLs)
        shared_weights = self.public_weights[len(self.dims) :].expand(*weights_BTM.shape[:-1], -1)
        weights_BT1S = torch.cat([weights_BTM, shared_weights], dim=-1).unsqueeze(-2)
        weighted = self._combined(weights_BT1S * scores_BTLS)
        rule = self.config.decision_rule
        if not ranking or rule == "weighted":
            return weighted
        said_BTNS = opinions(rule, scores_BTLS, scored.present_M, votes=self.config.decision_votes)
        places = mean_ranks(self._combined(weights_BT1S * said_BTNS), weighted)
        return (places / max(1, places.shape[-1] - 1)).to(weighted.dtype)

    def _contents(self, profiles: Mapping[Modality, Tensor], scored: Items) -> list[Tensor]:
        return [profiles[name] @ rows.transpose(-1, -2) for name, rows in scored.vectors.items()]

    def _shared_terms(self, history: Items, visible_BTK: Tensor, scored: Items, *, leave_one_out: bool) -> Tensor:
        """What belongs to no modality: the prior and, where the run has them, the pairs `[B, T, L, 1 or 2]`."""
        prior_BTL = scored.prior.unsqueeze(-2).expand(*visible_BTK.shape[:-1], -1)
        shared = [prior_BTL]
        if self.pairs_scorer is not None:
            shared.append(self.pairs_scorer(history, visible_BTK, scored, leave_one_out=leave_one_out))
        if self.metric_scorer is not None:
            metric_BTL = self.metric_scorer(history, visible_BTK, scored, leave_one_out=leave_one_out)
            if self.pairs_scorer is None:
                shared.append(metric_BTL)
            else:
                shared[-1] = shared[-1] + self.config.metric_weight / self.config.collaboration_weight * metric_BTL
        return torch.stack(shared, dim=-1)

    def _terms(self, scores: list[Tensor], shared_BTLs: Tensor) -> Tensor:
        return torch.cat([torch.stack(scores, dim=-1), shared_BTLs], dim=-1)

    def _combined(self, terms_BTLS: Tensor) -> Tensor:
        return terms_BTLS.sum(-1) + self._signal(terms_BTLS)

    def _signal(self, terms_BTLS: Tensor) -> Tensor:
        users, queries, length, _ = terms_BTLS.shape
        learned = terms_BTLS[..., -self.signals.in_features :]
        signal: Tensor = self.signals(learned.reshape(users, queries * length, -1))
        return signal.reshape(users, queries, length)

    def _weighted(self, profiles: Mapping[Modality, Tensor], scored: Items) -> list[Tensor]:
        parts = []
        for name, width in self.fusion.widths.items():
            weighted: Tensor = self.dimensions[name](profiles[name][..., :width])
            parts.append(weighted @ scored.vectors[name][..., :width].transpose(-1, -2))
        return parts

    def keep_terms(self, kept_S: Tensor) -> None:
        """Multiply the weight of each free term by 0 or 1, for good.

        Args:
            kept_S: of the modalities in order, the prior and, where the run has them, the pairs.

        Raises:
            ModelError: another number of terms, or a value other than 0 and 1.
        """
        if kept_S.shape != self.public_weights.shape or not bool(((kept_S == 0) | (kept_S == 1)).all()):
            raise ModelError(
                f"{tuple(kept_S.shape)} switches for {len(self.public_weights)} terms, or others than 0 and 1",
                remedy="Use the configuration the state was exported with",
            )
        self.public_weights = self.public_weights * kept_S

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


def build_model(config: RunConfig, *, encoder_source: str | None = None) -> RecommenderNetwork:
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
        return RecommenderNetwork(config.model, config.model_dims, tower)


def initial_state(config: RunConfig, *, encoder_source: str | None = None) -> Arrays:
    """The trained part before training, as the arrays that travel; arguments and errors as of `build_model`."""
    model = build_model(config, encoder_source=encoder_source)
    return {name: tensor.numpy().copy() for name, tensor in model.trainable_state().items()}
