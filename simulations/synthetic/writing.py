"""Descriptions in plain English: words tell the topic, adjectives the mood, one phrase the origin.

The vocabulary is made of common words, so that a language model trained elsewhere can group the texts by topic.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

WORDS: dict[str, tuple[str, ...]] = {
    "gardening": (
        "tomato plants", "compost", "rose beds", "seedlings", "a greenhouse", "pruning shears", "herb borders",
        "garden soil", "apple trees", "watering cans", "flower bulbs", "a vegetable patch",
    ),
    "astronomy": (
        "distant galaxies", "a telescope", "the rings of Saturn", "comets", "a solar eclipse", "star clusters",
        "the Milky Way", "moon craters", "a meteor shower", "black holes", "an observatory", "the planet Mars",
    ),
    "cooking": (
        "fresh pasta", "a slow roast", "onion soup", "baking bread", "kitchen knives", "olive oil", "a curry sauce",
        "chocolate cake", "grilled fish", "a cast-iron pan", "family recipes", "spices from the market",
    ),
    "football": (
        "penalty kicks", "a goalkeeper", "the league table", "a midfield pass", "the cup final", "the referee",
        "corner kicks", "the home stadium", "a young striker", "the offside rule", "a derby match", "the team coach",
    ),
    "sailing": (
        "a wooden yacht", "the main sail", "harbour lights", "an ocean crossing", "knots and ropes", "a regatta",
        "the tiller", "trade winds", "an anchor chain", "coastal charts", "a storm at sea", "the ship's crew",
    ),
    "railways": (
        "a steam locomotive", "night trains", "signal boxes", "a mountain tunnel", "railway timetables", "freight cars",
        "the station platform", "a viaduct", "the dining car", "narrow-gauge tracks", "the train driver", "a sleeper",
    ),
    "painting": (
        "oil on canvas", "watercolours", "a portrait studio", "brush strokes", "museum galleries", "a self-portrait",
        "the old masters", "charcoal sketches", "landscape painters", "an art school", "pigments", "a picture frame",
    ),
    "chess": (
        "the queen's gambit", "a rook endgame", "a grandmaster", "pawn structure", "the opening book", "a checkmate",
        "a chess clock", "bishops and knights", "a world championship", "blitz games", "a sacrifice", "a chess club",
    ),
    "mountains": (
        "a summit ridge", "alpine huts", "ropes and crampons", "glaciers", "a hiking trail", "a base camp",
        "rock climbing", "thin air", "snow fields", "a steep north face", "mountain guides", "a valley far below",
    ),
    "pets": (
        "a playful puppy", "an old cat", "a rabbit hutch", "dog training", "a visit to the vet", "parrots",
        "a goldfish bowl", "kittens", "long walks with the dog", "hamsters", "animal shelters", "a shy pony",
    ),
    "castles": (
        "a drawbridge", "medieval knights", "a royal siege", "stone towers", "a coat of arms", "the dungeon",
        "a banquet hall", "a crown and a throne", "moats and walls", "suits of armour", "a queen in exile", "heralds",
    ),
    "computers": (
        "source code", "a home server", "open software", "circuit boards", "programming languages", "data centres",
        "a robot arm", "a keyboard", "network cables", "algorithms", "a pocket computer", "machine learning",
    ),
}  # fmt: skip
"""Twelve phrases for each topic."""

MOODS: dict[str, tuple[str, ...]] = {
    "calm": ("calm", "quiet", "slow", "peaceful"),
    "cheerful": ("cheerful", "warm", "sunny", "light-hearted"),
    "busy": ("busy", "lively", "brisk", "eventful"),
    "frantic": ("frantic", "breathless", "wild", "hectic"),
}

ORIGINS: dict[str, str] = {
    "north": "Recorded in the cold north",
    "south": "Recorded in the hot south",
    "east": "Recorded in the far east of the country",
    "west": "Recorded on the west coast",
    "lakes": "Recorded by the great lakes",
    "islands": "Recorded on the outer islands",
}

OPENINGS: tuple[str, ...] = (
    "A {mood} programme about {one} and {two}.",
    "This {mood} episode turns to {one}, and then to {two}.",
    "Half an hour of {mood} stories about {one}, with {two} on the side.",
    "Our {mood} guide to {topic}: {one} and {two}.",
)
MIDDLES: tuple[str, ...] = (
    "We also hear about {three} and {four}.",
    "Later on, {three} and {four} take over.",
    "Two guests explain {three}, and one of them admits a weakness for {four}.",
    "Listeners asked for {three}; they get {four} as well.",
)


def write_item(values: Mapping[str, str], rng: np.random.Generator) -> tuple[str, str]:
    """Title and text (about 35 words) of an item.

    Args:
        values: the item's value of every attribute, by attribute name.
        rng: chooses words and sentences.
    """
    topic = values["topic"]
    one, two, three, four = (str(word) for word in rng.choice(WORDS[topic], size=4, replace=False))
    mood, echo = (str(word) for word in rng.choice(MOODS[values["mood"]], size=2, replace=False))
    opening = OPENINGS[rng.integers(len(OPENINGS))].format(mood=mood, topic=topic, one=one, two=two)
    middle = MIDDLES[rng.integers(len(MIDDLES))].format(three=three, four=four)
    title = f"{_without_article(one).capitalize()} and {_without_article(three)}"
    return title, f"{opening} {middle} {ORIGINS[values['origin']]}; a {echo} listen from start to end."


def _without_article(phrase: str) -> str:
    for article in ("a ", "an ", "the "):
        phrase = phrase.removeprefix(article)
    return phrase
