"""Trailers: twelve frames of 64 x 64 pixels in the item's hue; the motion and the course of light are the film's own.

The hue is the picture's, so that one attribute is seen in two media. Legend: F frames, H height, W width, 3 colours.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Final

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from simulations.synthetic.pictures import paint

SIDE = 64
SCALE = 2
FRAMES = 12
FRAMES_PER_SECOND = 8
CODEC: Final = "mpeg4"
"""Built into every FFmpeg and the same bytes every time; x264 on one thread was measured to vary between calls."""
BITS_PER_SECOND = 60_000
STILL = {"x": 0.5, "y": 0.5, "size": 0.2, "turn": 0.0}
"""Where the figure is when nothing moves: place and half size in shares of the picture, turn in circles."""
MOTIONS: dict[str, dict[str, tuple[float, float]]] = {
    "left": {"x": (0.85, 0.15)},
    "right": {"x": (0.15, 0.85)},
    "up": {"y": (0.85, 0.15)},
    "down": {"y": (0.15, 0.85)},
    "grow": {"size": (0.06, 0.42)},
    "shrink": {"size": (0.42, 0.06)},
    "spin": {"turn": (0.0, 1.0)},
    "still": {},
}
"""What changes from the first to the last frame."""
COURSES: dict[str, tuple[float, ...]] = {
    "steady": (1.0, 1.0),
    "dawn": (0.3, 1.0),
    "dusk": (1.0, 0.3),
    "blink": (1.0, 0.35, 1.0, 0.35, 1.0, 0.35, 1.0),
}
"""Light over the film, interpolated between these points."""


def film_item(values: Mapping[str, str], rng: np.random.Generator) -> bytes:
    """MP4 bytes (MPEG-4 Part 2) of an item's trailer.

    Args:
        values: the item's value of every attribute, by attribute name.
        rng: shifts the figure a little and varies the ground.
    """
    return _encode(draw_frames(values, rng))


def draw_frames(values: Mapping[str, str], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Frames (F, H, W, 3) before compression."""
    drift_x, drift_y, ground = rng.uniform(-0.05, 0.05), rng.uniform(-0.05, 0.05), rng.uniform(0.35, 0.5)
    frames = []
    for frame in range(FRAMES):
        share = frame / (FRAMES - 1)
        place = dict(STILL)
        for name, (first, last) in MOTIONS[values["motion"]].items():
            place[name] = first + (last - first) * share
        points = COURSES[values["course"]]
        light = float(np.interp(share, np.linspace(0.0, 1.0, len(points)), points))
        figure = (place["x"] + drift_x, place["y"] + drift_y, place["size"], place["turn"])
        frames.append(_draw_frame(values["hue"], figure, light, ground))
    return np.stack(frames)


def _draw_frame(
    hue: str, figure: tuple[float, float, float, float], light: float, ground: float
) -> npt.NDArray[np.uint8]:
    side = SIDE * SCALE
    picture = Image.new("RGB", (side, side), paint(hue, 0.6, ground * light))
    x, y, size, turn = (figure[0] * side, figure[1] * side, figure[2] * side, figure[3] * math.tau)
    corners = [
        (x + size * stretch * math.cos(turn + angle), y + size * stretch * math.sin(turn + angle))
        for angle, stretch in ((0.0, 1.4), (math.pi / 2, 0.7), (math.pi, 1.4), (3 * math.pi / 2, 0.7))
    ]
    ImageDraw.Draw(picture).polygon(corners, fill=paint(hue, 0.85, light))
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX))


def _encode(frames_FHW3: npt.NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, mode="w", format="mp4", options={"fflags": "+bitexact"}) as container:
        track = container.add_stream(CODEC, rate=FRAMES_PER_SECOND, options={"flags": "+bitexact"})
        track.width, track.height, track.pix_fmt = SIDE, SIDE, "yuv420p"
        track.codec_context.thread_count = 1
        track.codec_context.bit_rate = BITS_PER_SECOND
        for frame_HW3 in frames_FHW3:
            container.mux(track.encode(av.VideoFrame.from_ndarray(frame_HW3, format="rgb24")))
        container.mux(track.encode(None))
    return stream.getvalue()
