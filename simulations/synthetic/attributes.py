"""What an item of the synthetic catalogue is: ten attributes, each visible in one or two media.

An item is a short programme with a description, a cover picture, a jingle and a trailer. No medium shows everything, so
a recommender that ignores one of them loses a known share of what can be known.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmrec_model.config import Modality

REGIONS: tuple[str, ...] = ("north", "south", "east", "west", "lakes", "islands")
"""Home regions of users (the `silo_region` column) and origins of items."""

REGION_SHARES: tuple[float, ...] = (0.28, 0.22, 0.18, 0.14, 0.11, 0.07)
"""Share of the users who live in each region."""

SPARSE_ORIGIN = "islands"
"""Origin whose items mostly come without sound and film."""


@dataclass(frozen=True)
class Attribute:
    """One property of an item.

    Attributes:
        name: what it is called in `known_answer.json`.
        values: its possible values; an item has exactly one.
        media: the media in which it can be seen or heard.
        strength: standard deviation of a user's liking over the values, in units of choice noise (Gumbel, scale 1).
    """

    name: str
    values: tuple[str, ...]
    media: tuple[Modality, ...]
    strength: float


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        "topic",
        (
            "gardening",
            "astronomy",
            "cooking",
            "football",
            "sailing",
            "railways",
            "painting",
            "chess",
            "mountains",
            "pets",
            "castles",
            "computers",
        ),
        ("text",),
        1.4,
    ),
    Attribute("origin", REGIONS, ("text",), 0.5),
    Attribute("mood", ("calm", "cheerful", "busy", "frantic"), ("text", "audio"), 0.8),
    Attribute("hue", ("red", "orange", "yellow", "green", "teal", "blue", "violet", "pink"), ("image", "video"), 1.0),
    Attribute("shape", ("disc", "square", "triangle", "star", "ring", "cross"), ("image",), 0.8),
    Attribute("pattern", ("plain", "stripes", "dots", "checks"), ("image",), 0.7),
    Attribute("pitch", ("deep", "low", "middle", "high", "shrill"), ("audio",), 1.1),
    Attribute("timbre", ("flute", "clarinet", "harp", "brass"), ("audio",), 0.8),
    Attribute("motion", ("left", "right", "up", "down", "grow", "shrink", "spin", "still"), ("video",), 1.0),
    Attribute("course", ("steady", "dawn", "dusk", "blink"), ("video",), 0.7),
)


def seen_in(medium: Modality) -> tuple[str, ...]:
    """Names of the attributes that `medium` shows."""
    return tuple(attribute.name for attribute in ATTRIBUTES if medium in attribute.media)
