"""What became of what was shown: impressions without a click, conversions and ratings, with the truth behind them.

The histories stay as they are: each of their items was shown and clicked. Beside them every user was shown twice as
many items that were not clicked, drawn evenly from the rest of the catalogue and more often by day than by night, so
that within a user the log odds of a click are the true utility plus `hour_odds`, up to a constant. A clicked item is
converted with a probability that depends on its shape (which pictures show) and on the user's liking of its topic; a
converted item is rated 1 to 5 by its mood and the user's liking of it.

Shapes: U users, I items, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmrec_model.config import HOUR_BUCKETS
from mmrec_model.data.feedback import moments
from mmrec_model.evaluation.classification import auc, gauc, rmse
from simulations.synthetic.attributes import ATTRIBUTES
from simulations.synthetic.taste import Floats, Whole, World

SHOWN_PER_CLICK = 2
HOUR_WEIGHTS = np.array([1.0, 1.0, 2.0, 3.0, 3.0, 2.0, 1.0, 1.0])
"""How often something is shown without a click in each of the `HOUR_BUCKETS` parts of a day; clicks are even."""
CONVERSION_START, SHAPE_STRENGTH, TOPIC_STRENGTH = -0.8, 1.5, 0.6
RATING_START, MOOD_STRENGTH, LIKING_STRENGTH, RATING_NOISE = 3.0, 1.0, 0.5, 0.6
_DAY, _LATEST_FOLLOW_UP = 86_400, 3_600


@dataclass(frozen=True)
class Outcomes:
    """Rows beside the histories.

    Attributes:
        shown_users: [R] user of each impression without a click.
        shown_items: [R] its item.
        shown_times: [R] its second.
        converted: per click, in the order of all histories, whether it was converted.
        ratings: per click, 1 to 5, NaN where it was not converted.
        conversion_times: per click, the second of its conversion.
        rating_times: per click, the second of its rating.
    """

    shown_users: Whole
    shown_items: Whole
    shown_times: Whole
    converted: np.typing.NDArray[np.bool_]
    ratings: Floats
    conversion_times: Whole
    rating_times: Whole


def conversion_logits(world: World) -> Floats:
    """True log odds (U, I) of a conversion if clicked."""
    shapes = np.linspace(-SHAPE_STRENGTH, SHAPE_STRENGTH, len(ATTRIBUTES[_column("shape")].values))
    return CONVERSION_START + shapes[world.values_IA[:, _column("shape")]] + TOPIC_STRENGTH * _liking(world, "topic")


def expected_ratings(world: World) -> Floats:
    """Mean (U, I) of the rating if converted, before it is rounded and cut to 1 to 5."""
    moods = np.linspace(-MOOD_STRENGTH, MOOD_STRENGTH, len(ATTRIBUTES[_column("mood")].values))
    return RATING_START + moods[world.values_IA[:, _column("mood")]] + LIKING_STRENGTH * _liking(world, "mood")


def hour_odds() -> Floats:
    """What the part of the day adds to the log odds of a click, `[HOUR_BUCKETS]`."""
    return np.asarray(-np.log(HOUR_WEIGHTS / HOUR_WEIGHTS.mean()))


def draw_outcomes(world: World, seed: int) -> Outcomes:
    """Draw everything that is not in the histories; equal arguments give equal outcomes."""
    rng = np.random.default_rng([seed, 0, 1])
    shown = [_draw_shown(rng, world, user) for user in range(len(world.histories))]
    counts = [len(items) for items, _ in shown]
    users_R, items_R, times_R = _clicks(world)
    converted = rng.random(len(users_R)) < _sigmoid(conversion_logits(world)[users_R, items_R])
    noisy = expected_ratings(world)[users_R, items_R] + RATING_NOISE * rng.standard_normal(len(users_R))
    conversion_times = times_R + rng.integers(1, _LATEST_FOLLOW_UP, len(users_R))
    return Outcomes(
        shown_users=np.repeat(np.arange(len(counts)), counts),
        shown_items=np.concatenate([items for items, _ in shown]),
        shown_times=np.concatenate([times for _, times in shown]),
        converted=converted,
        ratings=np.where(converted, np.clip(np.round(noisy), 1.0, 5.0), np.nan),
        conversion_times=conversion_times,
        rating_times=conversion_times + rng.integers(1, _LATEST_FOLLOW_UP, len(users_R)),
    )


def answers(world: World, outcomes: Outcomes) -> dict[str, dict[str, float]]:
    """Rates, and how well the truth itself predicts: no method can do better, apart from chance."""
    users_R, items_R, times_R = _clicks(world)
    shown_users = np.concatenate([users_R, outcomes.shown_users])
    shown_items = np.concatenate([items_R, outcomes.shown_items])
    clicked = np.arange(len(shown_users)) < len(users_R)
    hour, _ = moments(np.concatenate([times_R, outcomes.shown_times]).astype(np.float64))
    odds = world.utilities()[shown_users, shown_items] + hour_odds()[hour]
    converted = outcomes.converted
    expected = np.clip(expected_ratings(world)[users_R, items_R], 1.0, 5.0)
    ratings = outcomes.ratings[converted]
    return {
        "ctr": {"rate": float(clicked.mean()), "oracle_gauc": gauc(clicked, odds, shown_users)},
        "cvr": {
            "rate": float(converted.mean()),
            "oracle_auc": auc(converted, conversion_logits(world)[users_R, items_R]),
        },
        "rating": {"mean": float(ratings.mean()), "oracle_rmse": rmse(ratings, expected[converted])},
    }


def _draw_shown(rng: np.random.Generator, world: World, user: int) -> tuple[Whole, Whole]:
    history = world.histories[user]
    rest = np.setdiff1d(np.arange(len(world.values_IA)), history)
    count = min(SHOWN_PER_CLICK * len(history), len(rest))
    items = rng.choice(rest, size=count, replace=False)
    days = world.times[user][np.arange(count) // SHOWN_PER_CLICK] // _DAY
    bucket = rng.choice(HOUR_BUCKETS, size=count, p=HOUR_WEIGHTS / HOUR_WEIGHTS.sum())
    width = _DAY // HOUR_BUCKETS
    return items, days * _DAY + bucket * width + rng.integers(0, width, size=count)


def _clicks(world: World) -> tuple[Whole, Whole, Whole]:
    """User, item and second of every item of the histories."""
    users_R = np.repeat(np.arange(len(world.histories)), [len(history) for history in world.histories])
    return users_R, np.concatenate(world.histories), np.concatenate(world.times)


def _liking(world: World, name: str) -> Floats:
    """The liking (U, I) of the item's value of one attribute, in units of its strength."""
    column = _column(name)
    return world.likings[column][:, world.values_IA[:, column]] / ATTRIBUTES[column].strength


def _column(name: str) -> int:
    return [attribute.name for attribute in ATTRIBUTES].index(name)


def _sigmoid(logits: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-logits)))
