"""Records of items, users and texts that cannot be read: left out, counted by file, refused above a share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mmrec_model.data.tables import RawTable
from mmrec_model.errors import DataError

_SHOWN_ROWS = 3


class Malformed:
    """A tally of files.

    Attributes:
        counts: by file name, the records `read` and the `malformed` ones of them.
    """

    def __init__(self, largest_share: float) -> None:
        self._largest_share = largest_share
        self.counts: dict[str, dict[str, int]] = {}
        self._first: dict[str, list[str]] = {}

    def counted(self, parts: Iterable[RawTable]) -> Iterator[RawTable]:
        """The same parts, counted as they go by."""
        for part in parts:
            counts = self.counts.setdefault(part.name, {"read": 0, "malformed": 0})
            lost = sum(bad.lines for bad in part.ragged)
            counts["read"] += part.table.num_rows + lost
            counts["malformed"] += lost
            first = self._first.setdefault(part.name, [])
            first += [str(bad.row) for bad in part.ragged[: _SHOWN_ROWS - len(first)]]
            yield part

    def close(self) -> None:
        """Judge the counts.

        Raises:
            DataError: a file has more malformed records than its share.
        """
        for name, counts in self.counts.items():
            share = counts["malformed"] / max(counts["read"], 1)
            if share > self._largest_share:
                raise DataError(
                    f"{name}: {counts['malformed']:,} of {counts['read']:,} records ({share:.1%}) are malformed, above "
                    f"the limit of {self._largest_share:.1%}; first in row {', '.join(self._first[name])}",
                    remedy="Check that the file is complete and unchanged, or raise --malformed-share",
                )
