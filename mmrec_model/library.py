"""The library face: load an exported recommender and ask it, with item ids in and item ids out.

    model = MultimodalRecommender.load("runs/mine/model")
    model.recommend(history=["i7", "i12"], k=10)

Nothing is learned and nothing is sent: a history stays in the process that asks. Shapes: N items of the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from mmrec_model.config import RunConfig
from mmrec_model.errors import FeatureError, ModelError
from mmrec_model.features.folder import open_bundle
from mmrec_model.model.folder import ExportedModel, load_model
from mmrec_model.model.items import Items
from mmrec_model.model.scoring import encode_catalogue, score_catalogue
from mmrec_model.model.texts import Texts

BESIDE = "features"
"""Name of the feature bundle's folder beside an exported model."""


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
        item_ids: N ids; the order of every array of scores.
    """

    exported: ExportedModel
    items: Items
    item_ids: tuple[str, ...]

    @classmethod
    def load(cls, folder: str | Path, *, features: str | Path | None = None, text_encoder: str | None = None) -> Self:
        """Open an exported model and the feature bundle it was trained on, both verified.

        Args:
            folder: the folder `model` of a run.
            features: the bundle's folder; by default `features` beside `folder`, as in a workspace.
            text_encoder: where this machine has the text encoder that the run tuned, if it tuned one; by default where
                the run had it.

        Raises:
            ModelError: the model is damaged.
            FeatureError: the bundle is damaged, or not the one that the model was trained on.
            EncoderError: the text encoder cannot be loaded.
        """
        exported = load_model(Path(folder), encoder_source=text_encoder)
        place = Path(folder).resolve().parent / BESIDE if features is None else Path(features)
        bundle = open_bundle(place)
        expected = exported.config.features.digest
        if bundle.digest != expected:
            raise FeatureError(
                f"the bundle has digest {bundle.digest[:12]}, the model was trained on {expected[:12]}",
                remedy="Name the run's own feature bundle: load(folder, features=...)",
            )
        items = Items.from_arrays(
            bundle.vectors, np.asarray(bundle.present_NM), exported.prior_N, texts=Texts.open(place)
        )
        return cls(exported, encode_catalogue(exported.model, items), bundle.item_ids)

    @property
    def config(self) -> RunConfig:
        """The run that trained the model."""
        return self.exported.config

    def __len__(self) -> int:
        """Number of items N."""
        return len(self.item_ids)

    def __repr__(self) -> str:
        return f"MultimodalRecommender({len(self):,} items, {', '.join(self.items.vectors)}, run {self.config.run_id})"

    def score(self, history: Sequence[str], items: Sequence[str] | None = None) -> npt.NDArray[np.float32]:
        """Scores for a user with this history, larger is better.

        Args:
            history: item ids, oldest first; may be empty, which leaves popularity.
            items: what to score; the whole catalogue by default.

        Returns:
            float32 `[N]` in the order of `item_ids`, or one score per entry of `items`.

        Raises:
            ModelError: an id that the catalogue does not have.
        """
        scores_N = self._scores(self._positions(history), self.items)
        return scores_N if items is None else scores_N[self._positions(items)]

    def recommend(self, history: Sequence[str], k: int = 10, *, exclude_history: bool = True) -> list[Recommendation]:
        """The k items with the largest scores, best first.

        Args:
            history: item ids, oldest first; may be empty.
            k: length of the list, at least 1; shorter where the catalogue has fewer items left.
            exclude_history: leave out what the user has already.

        Raises:
            ModelError: an id that the catalogue does not have, or a k below 1.
        """
        positions = self._positions(history)
        return self._best(self._scores(positions, self.items), k, without=positions if exclude_history else ())

    def similar(self, item_id: str, k: int = 10) -> list[Recommendation]:
        """The k items that suit a user who has this one item alone, popularity left aside.

        Raises:
            ModelError: an id that the catalogue does not have, or a k below 1.
        """
        positions = self._positions([item_id])
        level = self.items.with_prior(np.zeros(len(self), dtype=np.float32))
        return self._best(self._scores(positions, level), k, without=positions)

    def _scores(self, positions: npt.NDArray[np.int64], items: Items) -> npt.NDArray[np.float32]:
        scores_N: npt.NDArray[np.float32] = score_catalogue(self.exported.model, items, [positions])[0]
        return scores_N

    def _best(
        self, scores_N: npt.NDArray[np.float32], k: int, *, without: Sequence[int] | npt.NDArray[np.int64]
    ) -> list[Recommendation]:
        if k < 1:
            raise ModelError(f"k is {k}, at least 1 is needed", remedy="Ask for one item or more")
        allowed_N = np.ones(len(scores_N), dtype=bool)
        allowed_N[np.asarray(without, dtype=np.int64)] = False
        order = np.argsort(-scores_N, kind="stable")
        best = order[allowed_N[order]][:k]
        return [Recommendation(self.item_ids[position], float(scores_N[position])) for position in best]

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
