"""Picture files to upright RGB, or None for anything damaged, hostile, empty or absent; needs Pillow and no torch.

The reader accepts six formats, bounds pixels and aspect before it decodes, applies the camera's orientation and puts
transparent pictures on white.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, ImageOps

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MAX_PIXELS = 50_000_000
MAX_ASPECT = 30


def read_picture(path: Path) -> Image.Image | None:
    """The picture as RGB in its upright orientation, or None if it cannot or must not be decoded.

    Refused are formats outside `FORMATS`, more than `MAX_PIXELS` pixels, and sides that differ more than
    `MAX_ASPECT`-fold.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)
            with Image.open(path, formats=FORMATS) as picture:
                return _upright_rgb(picture) if _is_bounded(picture.size) else None
    except Exception:  # any type: on hostile bytes a decoder may fail with any type
        return None


def _upright_rgb(picture: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(picture)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    white = Image.new("RGBA", upright.size, "white")
    return Image.alpha_composite(white, upright.convert("RGBA")).convert("RGB")


def _is_bounded(size: tuple[int, int]) -> bool:
    short, long = sorted(size)
    return short > 0 and short * long <= MAX_PIXELS and long <= MAX_ASPECT * short
