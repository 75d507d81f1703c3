"""Under which licence published weights lie, as their own folder says it; nothing is guessed or looked up.

Read are the front matter of the model card, `README.md` (`license`, and `license_name` where that is "other"), and
`license` in `config.json`, in this order. The words are the publisher's; this package does not check them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mmrec_model.encoders.interface import UNKNOWN_LICENCE

_LONGEST = 80


def published_licence(folder: Path) -> str:
    """The licence that the model in `folder` names, at most 80 characters, else "unknown"."""
    for facts in (_card(folder / "README.md"), _config(folder / "config.json")):
        named = facts.get("license")
        if named == "other":
            named = facts.get("license_name") or named
        words = [one.strip() for one in (named if isinstance(named, list) else [named]) if isinstance(one, str)]
        if any(words):
            return ", ".join(filter(None, words))[:_LONGEST]
    return UNKNOWN_LICENCE


def _card(path: Path) -> Mapping[str, object]:
    if not path.is_file():
        return {}
    from huggingface_hub.repocard import metadata_load  # noqa: PLC0415 - slow, and needed for model cards alone

    try:
        return metadata_load(path) or {}
    except Exception:  # any type: the text before a card's body may be damaged in any way
        return {}


def _config(path: Path) -> Mapping[str, object]:
    try:
        facts = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
