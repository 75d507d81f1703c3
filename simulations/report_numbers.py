"""Numbers and marks as the report writes them: one form for each kind of quantity, wherever it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

ABSENT: Final = "\u2013"
MINUS: Final = "\u2212"


def human_bytes(count: float) -> str:
    """A number of bytes with a decimal unit: 16.4 kB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_seconds(seconds: float) -> str:
    """A duration: 0.42 s, 12.3 s, 4 min 05 s, 2 h 03 min."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def whole(count: int) -> str:
    """A whole number with thousands apart: 10,304."""
    return f"{count:,}"


def four(value: float | None) -> str:
    """A metric with four decimals, or a dash."""
    return ABSENT if value is None else f"{value:.4f}"


def with_error(value: float | None, error: float | None) -> str:
    """A figure and its standard error, or a dash where there is no figure."""
    return ABSENT if value is None else f"{four(value)} ± {four(error)}"


def signed(value: float | None) -> str:
    """A difference with its sign and four decimals, or a dash."""
    return ABSENT if value is None else f"{value:+.4f}".replace("-", MINUS)


def two(value: float | None) -> str:
    """An epsilon with two decimals, or a dash."""
    return ABSENT if value is None else f"{value:.2f}"


def plain_delta(delta: float | None) -> str:
    """0.00001 as 1e-5."""
    if delta is None:
        return "none"
    mantissa, _, exponent = f"{delta:.3g}".partition("e")
    if not exponent and delta < 0.001:
        mantissa, _, exponent = f"{delta:.2e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def typographic(text: str) -> str:
    """The text with curved apostrophes."""
    return text.replace("'", "\u2019")


def delta_in_words(delta: float | None) -> str:
    """` (1 in 100,000)` for 1e-5; empty for null."""
    return "" if not delta else f" (1 in {1 / delta:,.0f})"


FILTERS: Final[Mapping[str, Callable[[Any], str]]] = {
    show.__name__: show for show in (human_bytes, human_seconds, whole, four, signed, two, plain_delta, typographic)
}
"""What the page's template may call."""
