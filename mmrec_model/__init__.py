"""What every side agrees on: data, features, model, evaluation, privacy. Imports no Flower and no Opacus.

`MultimodalRecommender` is the way in for a notebook; it is loaded on first use, so that an auditor who imports this
package needs no machine-learning stack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmrec_model.library import MultimodalRecommender, Recommendation

__all__ = ["MultimodalRecommender", "Recommendation"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from mmrec_model import library  # noqa: PLC0415 - seconds to import

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
