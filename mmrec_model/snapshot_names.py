"""How the arrays of a coordinator's snapshot are named in its file; everything else travels under its own name."""

from __future__ import annotations

from typing import Final

STATE: Final = "state/"
"""Before the name of a trained array."""
VELOCITY: Final = "velocity/"
"""Before the name of the server optimizer's velocity of the same array, which never travels."""
