"""The sites that this process has opened and not let go of.

A deployed process serves one site and a simulation serves all of its partners in turn, so a site that was read is kept
for the next message:
1. At most `most` sites are kept, the one used longest ago goes first; a partner's run ends with a RECEIPT, after which
   the app releases its site.
2. A site is given out only if the files it was read from are those that lie there now, by inode, size and times. After
   a change of settings, policy, data, catalogue or features the next message sees what is on disk, or its error.
"""

from __future__ import annotations

from pathlib import Path

from client.file_marks import Marks
from client.site import Site


class OpenSites:
    """Sites by folder.

    Args:
        most: sites that are kept, at least 1.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: dict[Path, tuple[Site, Marks]] = {}

    def at(self, root: Path) -> Site:
        """The site of a folder.

        Raises:
            ConfigError: `site.toml` cannot be used; nothing is kept of the folder then.
        """
        found = self._kept.pop(root, None)
        if found is None or found[0].marks() != found[1]:
            # Marks from before the reading: a file that changes in between counts as changed at the next message.
            marks = Site.open(root).marks()
            found = Site.open(root), marks
        self._kept[root] = found
        while len(self._kept) > self.most:
            del self._kept[next(iter(self._kept))]
        return found[0]

    def release(self, root: Path) -> None:
        """Forget a site and all that was read of it."""
        self._kept.pop(root, None)
