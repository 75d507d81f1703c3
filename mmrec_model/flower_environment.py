"""What Flower's programs find in their environment, on both sides: nothing is told to anybody outside.

Read in flwr 1.41: `supercore/telemetry.py`, `supercore/update_check.py`, `supercore/tracing.py`, `superlink/main.py`.
"""

from __future__ import annotations


def quiet_environment() -> dict[str, str]:
    """The variables that turn off usage reports, the look for a newer version, tracing, the event log and `uv sync`.

    They are laid over the environment of the process: `{**os.environ, **quiet_environment()}`.
    """
    return {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TRACING_ENABLED": "0",
        "FLWR_ENABLE_EVENT_LOG": "0",
    }
