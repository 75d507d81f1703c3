"""Cover pictures: a hue, a shape and a pattern on 96 x 96 pixels; place, size and turn of the shape are free.

Drawn four times larger and reduced, so that edges are smooth. Legend: H height, W width, 3 colour channels.
"""

from __future__ import annotations

import colorsys
import io
import math
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageDraw

SIDE = 96
SCALE = 4
HUES: dict[str, float] = {
    "red": 0.0,
    "orange": 0.075,
    "yellow": 0.15,
    "green": 0.34,
    "teal": 0.48,
    "blue": 0.61,
    "violet": 0.76,
    "pink": 0.9,
}
"""Position of each hue on the colour wheel, in turns."""

Colour = tuple[int, int, int]
Point = tuple[float, float]


def paint(hue: str, saturation: float, value: float) -> Colour:
    """8-bit RGB of a named hue; saturation and value lie in 0..1."""
    red, green, blue = colorsys.hsv_to_rgb(HUES[hue], saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_picture(values: Mapping[str, str], rng: np.random.Generator) -> bytes:
    """PNG bytes of an item's cover.

    Args:
        values: the item's value of every attribute, by attribute name.
        rng: chooses place, size, turn and lightness.
    """
    side = SIDE * SCALE
    picture = Image.new("RGB", (side, side), paint(values["hue"], 0.28, rng.uniform(0.9, 1.0)))
    pen = ImageDraw.Draw(picture)
    ink = paint(values["hue"], 0.5, 0.82)
    PATTERNS[values["pattern"]](pen, side, ink)
    centre = (side * rng.uniform(0.42, 0.58), side * rng.uniform(0.42, 0.58))
    radius = side * rng.uniform(0.27, 0.36)
    dark = paint(values["hue"], 0.9, rng.uniform(0.5, 0.7))
    _draw_shape(pen, values["shape"], centre=centre, radius=radius, turn=math.tau * rng.random(), ink=dark)
    stream = io.BytesIO()
    picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(stream, format="PNG")
    return stream.getvalue()


def _plain(_pen: ImageDraw.ImageDraw, _side: int, _ink: Colour) -> None:
    """Leave the ground as it is."""


def _stripes(pen: ImageDraw.ImageDraw, side: int, ink: Colour) -> None:
    step = side // 8
    for left in range(-side, side, step):
        pen.line([(left, side), (left + side, 0)], fill=ink, width=step // 3)


def _dots(pen: ImageDraw.ImageDraw, side: int, ink: Colour) -> None:
    step = side // 6
    for row in range(7):
        for column in range(7):
            x, y = (column + 0.5 * (row % 2)) * step, row * step
            pen.ellipse([x - step / 4, y - step / 4, x + step / 4, y + step / 4], fill=ink)


def _checks(pen: ImageDraw.ImageDraw, side: int, ink: Colour) -> None:
    step = side // 6
    for row in range(6):
        for column in range(row % 2, 6, 2):
            pen.rectangle([column * step, row * step, (column + 1) * step - 1, (row + 1) * step - 1], fill=ink)


PATTERNS: dict[str, Callable[[ImageDraw.ImageDraw, int, Colour], None]] = {
    "plain": _plain,
    "stripes": _stripes,
    "dots": _dots,
    "checks": _checks,
}

CORNERS: dict[str, tuple[float, ...]] = {
    "square": (1.0,) * 4,
    "triangle": (1.1,) * 3,
    "star": (1.15, 0.45) * 5,
}
"""Radii of the corners of the shapes that have corners, going round."""


def _draw_shape(
    pen: ImageDraw.ImageDraw, shape: str, *, centre: Point, radius: float, turn: float, ink: Colour
) -> None:
    x, y = centre
    box = [x - radius, y - radius, x + radius, y + radius]
    if shape == "disc":
        pen.ellipse(box, fill=ink)
    elif shape == "ring":
        pen.ellipse(box, outline=ink, width=round(radius / 3))
    elif shape == "cross":
        for arm in (turn, turn + math.pi / 2):
            dx, dy = radius * math.cos(arm), radius * math.sin(arm)
            pen.line([(x - dx, y - dy), (x + dx, y + dy)], fill=ink, width=round(0.55 * radius))
    else:
        pen.polygon(_corners(centre, radius, turn, CORNERS[shape]), fill=ink)


def _corners(centre: Point, radius: float, turn: float, radii: tuple[float, ...]) -> list[Point]:
    angles = [turn + math.tau * corner / len(radii) for corner in range(len(radii))]
    return [
        (centre[0] + radius * part * math.cos(angle), centre[1] + radius * part * math.sin(angle))
        for angle, part in zip(angles, radii, strict=True)
    ]
