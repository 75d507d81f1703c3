"""The library face: load an exported recommender and ask it, with item ids in and item ids out.

    model = MultimodalRecommender.load("runs/mine/model")
    model.recommend(history=["i7", "i12"], k=10)

Nothing is learned and nothing is sent: a history stays in the process that asks. Shapes: N items of the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from mmrec_model.config import RunConfig, UserMedium
from mmrec_model.errors import FeatureError, ModelError
from mmrec_model.features.folder import FeatureBundle, open_bundle
from mmrec_model.features.own_media import bundle_encoder, encode_own_media
from mmrec_model.model.folder import ExportedModel, load_model
from mmrec_model.model.items import Items
from mmrec_model.model.new_items import EVERY, reserve_places
from mmrec_model.model.recommender import RecommenderNetwork, initial_state
from mmrec_model.model.scoring import encode_catalogue, score_catalogue
from mmrec_model.model.state import beside_of, model_of_state, state_of_rung
from mmrec_model.model.texts import Texts

BESIDE = "features"
"""Name of the feature bundle's folder beside an exported model."""

OwnMedia: TypeAlias = Mapping[UserMedium, str | Path]
"""A user's own media: `text`, and the path of an `image`."""


class Recommendation(NamedTuple):
    """One item of an answer; a larger score is better, and scores of different questions do not compare."""

    item_id: str
    score: float


@dataclass(frozen=True)
class MultimodalRecommender:
    """A trained recommender with its catalogue.

    Attributes:
        exported: network, popularity prior and configuration.
        items: the catalogue's vectors, with the prior.
        bundle: the feature bundle.
        features: its folder.
        encoders: where this machine has the encoders of users' own media; a medium that is absent is embedded.
    """

    exported: ExportedModel
    items: Items
    bundle: FeatureBundle
    features: Path
    encoders: Mapping[UserMedium, str]

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        features: str | Path | None = None,
        encoders: Mapping[UserMedium, str] | None = None,
    ) -> Self:
        """Open an exported model and the feature bundle it was trained on, both verified.

        Args:
            folder: the folder `model` of a run.
            features: the bundle's folder; by default `features` beside `folder`, as in a workspace.
            encoders: where this machine has the encoders that the run tuned or that read users' own media, by medium:
                a local folder, a hub id or `embedded`; by default where the run had them, else embedded.

        Raises:
            ModelError: the model is damaged.
            FeatureError: the bundle is damaged, or not the one that the model was trained on.
            EncoderError: the text encoder cannot be loaded.
        """
        sources = dict(encoders or {})
        exported = load_model(Path(folder), encoder_source=sources.get("text"))
        place = Path(folder).resolve().parent / BESIDE if features is None else Path(features)
        bundle = open_bundle(place)
        expected = exported.config.features.digest
        if bundle.digest != expected:
            raise FeatureError(
                f"the bundle has digest {bundle.digest[:12]}, the model was trained on {expected[:12]}",
                remedy="Name the run's own feature bundle: load(folder, features=...)",
            )
        present_NM, texts = np.asarray(bundle.present_NM), Texts.open(place)
        items = Items.from_arrays(bundle.vectors, present_NM, exported.prior_N, texts=texts)
        return cls(exported, encode_catalogue(exported.model, items), bundle, place, sources)

    @property
    def item_ids(self) -> tuple[str, ...]:
        """N ids; the order of every array of scores."""
        return self.bundle.item_ids

    @property
    def config(self) -> RunConfig:
        """The run that trained the model."""
        return self.exported.config

    def __len__(self) -> int:
        """Number of items N."""
        return len(self.item_ids)

    def __repr__(self) -> str:
        return f"MultimodalRecommender({len(self):,} items, {', '.join(self.items.vectors)}, run {self.config.run_id})"

    def score(
        self, history: Sequence[str], items: Sequence[str] | None = None, *, profile: OwnMedia | None = None
    ) -> npt.NDArray[np.float32]:
        """Scores for a user with this history, larger is better.

        Args:
            history: item ids, oldest first; may be empty, which leaves popularity.
            items: what to score; the whole catalogue by default.
            profile: the user's own text and picture file, for a model that was trained with `user_media`.

        Returns:
            float32 `[N]` in the order of `item_ids`, or one score per entry of `items`.

        Raises:
            ModelError: an id that the catalogue does not have, or a medium that the model does not read.
            FeatureError: the encoder here is not that of the bundle.
        """
        scores_N = self._scores(self._positions(history), self.items, self._own(profile))
        return scores_N if items is None else scores_N[self._positions(items)]

    def recommend(
        self,
        history: Sequence[str],
        k: int = 10,
        *,
        exclude_history: bool = True,
        profile: OwnMedia | None = None,
        new_items: Sequence[str] = (),
        new_every: int = EVERY,
    ) -> list[Recommendation]:
        """The k items with the largest scores, best first.

        Args:
            history: item ids, oldest first; may be empty.
            k: length of the list, at least 1; shorter where the catalogue has fewer items left.
            exclude_history: leave out what the user has already.
            profile: as in `score`.
            new_items: ids that nobody can have met while the model was trained. One place in `new_every` is kept for
                the one of them that suits the content profile best; scores then do not fall along the list.
            new_every: at least 2.

        Raises:
            ModelError: as `score`, a k below 1, or a `new_every` below 2.
            FeatureError: as `score`.
        """
        positions = self._positions(history)
        scores_N = self._scores(positions, self.items, self._own(profile))
        order_N = scores_N
        if new_items:
            new_N = np.zeros(len(self), dtype=np.bool_)
            new_N[self._positions(new_items)] = True
            content_1N = score_catalogue(self._content, self.items, [positions])
            order_N = reserve_places(scores_N[None], content_1N, [positions], new_N, every=new_every)[0]
        return self._best(order_N, k, scores_N, without=positions if exclude_history else ())

    def similar(self, item_id: str, k: int = 10) -> list[Recommendation]:
        """The k items that suit a user who has this one item alone, popularity left aside.

        Raises:
            ModelError: an id that the catalogue does not have, or a k below 1.
        """
        positions = self._positions([item_id])
        level = self.items.with_prior(np.zeros(len(self), dtype=np.float32))
        scores_N = self._scores(positions, level)
        return self._best(scores_N, k, scores_N, without=positions)

    def _scores(
        self, positions: npt.NDArray[np.int64], items: Items, own: Items | None = None
    ) -> npt.NDArray[np.float32]:
        scores_N: npt.NDArray[np.float32] = score_catalogue(self.exported.model, items, [positions], own)[0]
        return scores_N

    def _own(self, profile: OwnMedia | None) -> Items | None:
        """A user's own media as the one place `[1, 1]` that the tower reads before the history."""
        if not profile:
            return None
        model = self.config.model
        unread = sorted(set(profile) - set(model.user_media))
        if unread:
            raise ModelError(
                f"the model does not read {unread} of a user, it was trained with user_media {list(model.user_media)}",
                remedy="Leave them out of the profile",
            )
        vectors = {name: np.zeros((1, width), np.float32) for name, width in self.bundle.spec.dims.items()}
        present_1M = np.zeros((1, len(vectors)), dtype=bool)
        for name, medium in profile.items():
            encoder = bundle_encoder(self.bundle, name, self.encoders.get(name, "embedded"))
            given = [Path(medium) if name == "image" else str(medium)]
            vectors[name], present_1M[:, list(vectors).index(name)] = encode_own_media(
                self.features, name, encoder, given
            )
        whole = Items.from_arrays(vectors, present_1M)
        return replace(whole.take(torch.zeros(1, 1, dtype=torch.int64)), encoded=True)

    def _best(
        self,
        order_N: npt.NDArray[np.float32],
        k: int,
        scores_N: npt.NDArray[np.float32],
        *,
        without: Sequence[int] | npt.NDArray[np.int64],
    ) -> list[Recommendation]:
        if k < 1:
            raise ModelError(f"k is {k}, at least 1 is needed", remedy="Ask for one item or more")
        allowed_N = np.ones(len(scores_N), dtype=bool)
        allowed_N[np.asarray(without, dtype=np.int64)] = False
        order = np.argsort(-order_N, kind="stable")
        best = order[allowed_N[order]][:k]
        return [Recommendation(self.item_ids[position], float(scores_N[position])) for position in best]

    @cached_property
    def _content(self) -> RecommenderNetwork:
        """The free content profile of this model."""
        model = self.exported.model
        source = self.encoders.get("text")
        untrained = initial_state(self.config, encoder_source=source)
        state = state_of_rung(self.config, beside_of(model, self.exported.prior_N), "content", untrained)
        return model_of_state(self.config, state, encoder_source=source)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {item: position for position, item in enumerate(self.item_ids)}

    def _positions(self, items: Sequence[str]) -> npt.NDArray[np.int64]:
        unknown = [item for item in items if item not in self._index]
        if unknown:
            raise ModelError(
                f"{len(unknown)} of {len(items)} item ids are not among the {len(self):,} of the catalogue, "
                f"the first is {unknown[0]!r}",
                remedy="Use ids of `item_ids`",
            )
        return np.array([self._index[item] for item in items], dtype=np.int64)
