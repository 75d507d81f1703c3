"""Reads a document into a strict class: what is wrong with it is one error that names the key and the limit.

Pydantic does the checking (https://docs.pydantic.dev, "Strict mode"); `mmrec_model.config` says which fields there are.
"""

from __future__ import annotations

import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from mmrec_model.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def parse_config(kind: type[ConfigT], value: object, *, source: str) -> ConfigT:
    """Check `value` (JSON text, or what a TOML or JSON reader returned) against `kind`.

    Args:
        kind: the configuration class.
        value: text of a JSON document, or a dictionary.
        source: what to call it in an error: a file name or "the coordinator's plan".

    Raises:
        ConfigError: not JSON, an unknown key, or a value outside its range.
    """
    try:
        text = value if isinstance(value, str) else json.dumps(value)
        return kind.model_validate_json(text)
    except (ValidationError, TypeError) as error:
        problems = _first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise ConfigError(
            f"{source}: {problems}",
            remedy=f"Correct it; the fields of {kind.__name__} are in docs/configuration.md",
        ) from error


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "document"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}: {first['msg']}, got {str(first['input'])[:80]!r}{more}"
