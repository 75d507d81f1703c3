"""The goals of the project for privacy and usefulness, set before anything was measured, and whether they are met.

On X-Wines they were .113 ndcg@10 at epsilon 8, .107 at 4 and .095 at 1, where EASE without privacy reaches .113 with
train items as input. As shares of EASE they are the same goals on any data, and are asked under both conventions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from simulations.scenarios.cell_assessment import NEW_PLACES
from simulations.scenarios.grid_record import EXPORTED
from simulations.scenarios.utility_record import Cold, Goal, PairedTest, Rung, SystemEntry

SHARES_OF_EASE: Final = {"inf": 1.10, "8": 1.0, "4": 0.107 / 0.113, "1": 0.095 / 0.113}
"""Epsilon -> what the exported model should reach, in ndcg@10 of EASE without privacy."""
TIMES_CHANCE: Final = 5.0
COLD_EPSILON: Final = "1"
LEVEL: Final = 0.05
BYTES: Final = 50_000
ONE_ROUND: Final = frozenset({"pairs", "scorer"})
"""Waves of the one-round statistics."""


def goals_of(
    systems: Sequence[SystemEntry], rungs: Sequence[Rung], tests: Sequence[PairedTest], cold: Sequence[Cold]
) -> list[Goal]:
    """All goals for each place of the noise that was run; what was not measured is neither met nor missed."""
    noises = list(dict.fromkeys(rung.noise for rung in rungs))
    return [
        goal
        for noise in noises
        for goal in (
            *_against_ease(systems, noise),
            *_above_floors([test for test in tests if test.noise == noise], noise),
            *_cold_items(cold, noise),
            _messages([rung for rung in rungs if rung.noise == noise], noise),
        )
    ]


def _against_ease(systems: Sequence[SystemEntry], noise: str) -> Iterator[Goal]:
    ease = next((one for one in systems if one.kind == "rival" and one.system == "ease"), None)
    exported = {one.epsilon: one for one in systems if one.kind == "exported" and one.noise == noise}
    for epsilon, share in SHARES_OF_EASE.items():
        found = exported.get(epsilon)
        place = "without privacy" if epsilon == "inf" else f"at ε {epsilon}"
        text = f"{place}, ndcg@10 of {share:.0%} of EASE"
        wanted = None if ease is None else share * ease.ndcg.value
        yield _reached(text, noise, None if found is None else found.ndcg.value, wanted)
        alone = None if found is None or found.train_items_alone is None else found.train_items_alone.value
        wanted = None if ease is None or ease.train_items_alone is None else share * ease.train_items_alone.value
        yield _reached(f"{text}, train items alone as input", noise, alone, wanted)


def _above_floors(tests: Sequence[PairedTest], noise: str) -> Iterator[Goal]:
    least = min((test.difference for test in tests), default=None)
    yield _reached("never below a floor, at any ε (smallest difference)", noise, least, 0.0)
    sure = all(test.difference > 0.0 and test.p_holm < LEVEL for test in tests) if tests else None
    worst = max((test.p_holm for test in tests), default=None)
    text = f"above every floor at every ε with p < {LEVEL:g} (largest adjusted p)"
    yield Goal(text=text, noise=noise, found=worst, wanted=LEVEL, met=sure)


def _cold_items(cold: Sequence[Cold], noise: str) -> Iterator[Goal]:
    places = [one for one in cold if one.held_out and (one.epsilon, one.noise) == (COLD_EPSILON, noise)]
    for name, how in ((NEW_PLACES, "one place in ten for new items"), (EXPORTED, "in its own order")):
        text = f"cold items at ε {COLD_EPSILON}, {how}, recall@10 of {TIMES_CHANCE:g} times chance"
        found = next((one.systems[name] for one in places if name in one.systems), None)
        wanted = None if found is None else TIMES_CHANCE * found.chance
        yield _reached(text, noise, None if found is None else found.recall.value, wanted)


def _messages(rungs: Sequence[Rung], noise: str) -> Goal:
    sizes = [
        max(bytes_.up, bytes_.down) for rung in rungs for wave, bytes_ in rung.traffic.items() if wave not in ONE_ROUND
    ]
    largest = max(sizes, default=None)
    return Goal(
        text="kB of the largest message at a partner outside the one-round statistics",
        noise=noise,
        found=None if largest is None else largest / 1000,
        wanted=BYTES / 1000,
        met=None if largest is None else largest <= BYTES,
    )


def _reached(text: str, noise: str, found: float | None, wanted: float | None) -> Goal:
    met = None if found is None or wanted is None else found >= wanted
    return Goal(text=text, noise=noise, found=found, wanted=wanted, met=met)
