"""The partner folder format, as data: which files, which columns, which values, which limits.

This module is the one definition; reading, validation, the simulation's writer and the operator document follow it.
A partner folder holds `interactions` and `items`, optionally `users`, each as `.parquet` or `.csv`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

EVENTS: Final = ("impression", "click", "conversion", "rating")
"""Allowed values of `event`; a row without one counts as an interaction."""

IMPRESSION: Final = EVENTS.index("impression")
"""Code of the one event that is no positive: the item was shown, nothing more."""

SPLITS: Final = ("train", "val", "test", "cold")
"""Allowed values of `loo`, the last for items held out on purpose; their positions are the codes used in arrays."""

MEDIA: Final = ("image", "audio", "video")
"""Item columns that hold a path inside the folder."""

SILO_PREFIX: Final = "silo_"
"""Columns of `users` that name natural partners begin with this."""

SUFFIXES: Final = (".parquet", ".csv")
"""Accepted encodings of a file."""

MISSING_IDS: Final = frozenset({"", "nan", "null", "none", "<na>"})
"""Texts that programs write for a missing id, compared in lower case after removing outer white space."""


@dataclass(frozen=True)
class FileSchema:
    """One file of the format.

    Attributes:
        stem: file name without its suffix.
        required: columns without which the file is refused.
        optional: columns that are read where present.
        prefix: further columns are read where their name begins with this; empty for none.
    """

    stem: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    prefix: str = ""

    def reads(self, column: str) -> bool:
        """Tell whether `column` belongs to the format; all others are ignored with a notice."""
        named = column in self.required or column in self.optional
        return named or (bool(self.prefix) and column.startswith(self.prefix))


INTERACTIONS: Final = FileSchema("interactions", ("user_id", "item_id", "timestamp"), ("event", "rating", "loo"))
ITEMS: Final = FileSchema("items", ("item_id", "title", "text"), ("category", *MEDIA))
USERS: Final = FileSchema("users", ("user_id",), ("text", "image"), prefix=SILO_PREFIX)


@dataclass(frozen=True)
class Limits:
    """Bounds that protect the partner's machine; generous by default and lowered or raised by argument.

    Attributes:
        file_bytes: bytes of one file; of a parquet file also its size once decompressed.
        rows: data rows of one file.
        id_chars: characters of an id; a row with a longer one is quarantined.
        quarantined_share: share of a file's rows in quarantine above which the folder is refused, 0 to 1.
        picture_pixels: pixels of a picture; a larger one counts as unreadable.
    """

    file_bytes: int = 16 * 2**30
    rows: int = 50_000_000
    id_chars: int = 256
    quarantined_share: float = 0.5
    picture_pixels: int = 100_000_000


DEFAULT_LIMITS: Final = Limits()
