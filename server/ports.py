"""Where the coordinator's own programs listen unless told otherwise; all of it on loopback."""

from __future__ import annotations

from typing import Final

LOOPBACK: Final = "127.0.0.1"
"""Where they reach each other; every server certificate names it."""
SUPERLINK_PORT: Final = 9191
GATEWAY_HEALTH_PORT: Final = 9190
