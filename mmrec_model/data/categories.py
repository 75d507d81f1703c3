"""Categories of the catalogue as class numbers: public on both sides, because items and their names are public."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NO_CATEGORY = -1


def category_vocabulary(categories: Sequence[str]) -> tuple[str, ...]:
    """The distinct names of a catalogue's column, sorted; blank ones are no category."""
    return tuple(sorted({name for name in categories if name.strip()}))


def category_codes(categories: Sequence[str], vocabulary: Sequence[str]) -> NDArray[np.int64]:
    """Class number of each item `[N]`: its place in `vocabulary`, `NO_CATEGORY` where it is not in there."""
    number = {name: place for place, name in enumerate(vocabulary)}
    codes = (number.get(name, NO_CATEGORY) for name in categories)
    return np.fromiter(codes, dtype=np.int64, count=len(categories))
