"""The known answer: how well a recommender could rank, and what each medium is worth, computed from the truth.

Protocol: leave-last-out (each user's last item is the target, all earlier ones are left out of the ranking), full
ranking over the catalogue, ties in random order.

Shapes: U users, I items, F one-hot values of all attributes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmrec_model.config import MODALITIES
from mmrec_model.errors import DataError
from mmrec_model.storage import write_atomically
from simulations.synthetic.attributes import ATTRIBUTES, seen_in
from simulations.synthetic.outcomes import Outcomes, answers
from simulations.synthetic.taste import Floats, World, draw_world

FILE_NAME = "known_answer.json"
CUTOFFS = (10, 20)
LEARNING_ITEMS = 2
"""Last items of a history that counting and profiles must not see: the validation item and the target."""


@dataclass(frozen=True)
class KnownAnswer:
    """What is true of one synthetic set.

    Attributes:
        users: users drawn.
        items: items drawn.
        seed: of the whole set.
        interactions: clicks, which are the positives of the interactions table.
        presence: per modality, the share of items that have it.
        attributes: per attribute, the media that show it.
        metrics: per ranking, `recall_at_k` and `ndcg_at_k` for k of 10 and 20. `oracle` ranks by the true utilities;
            `visible` the same without what missing media hide; `content` without the common appeal; `text`, `image`,
            `audio`, `video` by what that medium alone shows, if none were missing; `profile` by the mean of the
            user's earlier items in the space of true attributes (perfect encoders, nothing trained); `popularity` by
            counts; `chance` in random order.
        outcomes: for `ctr`, `cvr` and `rating`, the rate or mean, and how well the truth itself predicts them
            (`simulations.synthetic.outcomes`); empty in a set that was written before there were any.
    """

    users: int
    items: int
    seed: int
    interactions: int
    presence: dict[str, float]
    attributes: dict[str, list[str]]
    metrics: dict[str, dict[str, float]]
    outcomes: dict[str, dict[str, float]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write `known_answer.json` into `folder`."""
        write_atomically(folder / FILE_NAME, (json.dumps(asdict(self), indent=2, sort_keys=True) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> KnownAnswer:
        """Read `known_answer.json` from `folder`.

        Raises:
            DataError: the file is missing or is not a known answer.
        """
        path = folder / FILE_NAME
        try:
            return cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"{path} is not a known answer ({type(error).__name__})",
                remedy="Write the synthetic set again with `write_synthetic`",
            ) from error


def true_utilities(users: int, items: int, seed: int) -> Floats:
    """The true utility (U, I) of every item for every user of the set with these arguments, without any file."""
    return draw_world(users, items, seed).utilities()


def answer_of(world: World, outcomes: Outcomes, seed: int) -> KnownAnswer:
    """Rank with every part of the truth."""
    users, items = len(world.region_U), len(world.values_IA)
    popularity_I = _learning_counts(world)
    rankings: dict[str, Floats] = {
        "oracle": world.utilities(),
        "visible": world.visible_utilities(),
        "content": world.utilities(appeal=False),
        **{medium: world.utilities(seen_in(medium), appeal=False) for medium in MODALITIES},
        "profile": _profile_scores(world),
        "popularity": np.tile(popularity_I, (users, 1)),
        "chance": np.zeros((users, items)),
    }
    return KnownAnswer(
        users=users,
        items=items,
        seed=seed,
        interactions=sum(len(history) for history in world.histories),
        presence={medium: float(world.present_IM[:, column].mean()) for column, medium in enumerate(MODALITIES)},
        attributes={attribute.name: list(attribute.media) for attribute in ATTRIBUTES},
        metrics={name: leave_last_out(score_UI, world.histories) for name, score_UI in rankings.items()},
        outcomes=answers(world, outcomes),
    )


def leave_last_out(score_UI: Floats, histories: Sequence[npt.NDArray[np.int64]]) -> dict[str, float]:
    """Mean recall and ndcg of each user's last item, ranked against all items the user has not met before.

    Args:
        score_UI: higher is better; ties are broken by a fixed random draw.
        histories: per user, item indices in order of time, at least one.
    """
    rng = np.random.default_rng(0)
    ranks = np.empty(len(histories), dtype=np.int64)
    for user, history in enumerate(histories):
        scores = score_UI[user].copy()
        scores[history[:-1]] = -np.inf
        target = scores[history[-1]]
        ties = int((scores == target).sum()) - 1
        ranks[user] = (scores > target).sum() + rng.integers(ties + 1)
    gains = 1.0 / np.log2(ranks + 2.0)
    metrics = {f"recall_at_{k}": float((ranks < k).mean()) for k in CUTOFFS}
    return metrics | {f"ndcg_at_{k}": float(np.where(ranks < k, gains, 0.0).mean()) for k in CUTOFFS}


def _learning_counts(world: World) -> Floats:
    seen = np.concatenate([history[:-LEARNING_ITEMS] for history in world.histories])
    return np.bincount(seen, minlength=len(world.values_IA)).astype(np.float64)


def _profile_scores(world: World) -> Floats:
    blocks = []
    for column, attribute in enumerate(ATTRIBUTES):
        onehot_IV = np.eye(len(attribute.values))[world.values_IA[:, column]]
        share_V = np.maximum(onehot_IV.mean(axis=0), 1.0 / len(onehot_IV))
        blocks.append(attribute.strength * (onehot_IV - share_V) / np.sqrt(share_V))
    feature_IF = np.concatenate(blocks, axis=1)
    profile_UF = np.stack([feature_IF[history[:-LEARNING_ITEMS]].mean(axis=0) for history in world.histories])
    return np.asarray(profile_UF @ feature_IF.T)
