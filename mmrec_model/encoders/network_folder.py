"""A network of our own as a folder: what kind and size it is in `config.json`, its weights in `model.safetensors`.

    {"mmrec": {"kind": "recurrent-audio", "format": 1, "note": "...", "settings": {...}}}

Written by pretraining, read by the encoders. No pickle, and no code in the folder. The weights are the last file that
is written, so a half-written folder has none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from mmrec_model.canonical import JsonValue, canonical_json
from mmrec_model.encoders.hub import freeze
from mmrec_model.errors import EncoderError
from mmrec_model.storage import write_atomically

FORMAT = 1
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class NetworkCard:
    """What a folder says of its network.

    Attributes:
        kind: which class it is.
        settings: arguments of the class.
        note: one sentence on where the weights come from.
    """

    kind: str
    settings: dict[str, Any]
    note: str


def save_network(
    folder: Path, network: nn.Module, *, kind: str, settings: dict[str, JsonValue], note: str = ""
) -> None:
    """Write `network` as a folder that the encoders accept as source.

    Raises:
        EncoderError: the folder cannot be written.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    card: JsonValue = {"mmrec": {"kind": kind, "format": FORMAT, "note": note, "settings": settings}}
    try:
        (folder / _WEIGHTS).unlink(missing_ok=True)
        write_atomically(folder / _CONFIG, canonical_json(card))
        write_atomically(folder / _WEIGHTS, save(state))
    except OSError as error:
        raise EncoderError(
            f"the network folder {folder} cannot be written: {error.strerror or error}",
            remedy="Give a folder that this process may write, with room for the weights",
        ) from error


def names_network(folder: Path) -> bool:
    """Whether `folder` holds a network of our own, whatever its kind."""
    return _own_part(folder) is not None


def read_card(folder: Path, kind: str) -> NetworkCard:
    """The card of a folder that must hold a network of `kind`.

    Raises:
        EncoderError: it holds something else, or a newer format.
    """
    own = _own_part(folder) or {}
    found, number = own.get("kind"), own.get("format")
    settings, note = own.get("settings"), own.get("note", "")
    if found != kind or number != FORMAT or not isinstance(settings, dict) or not isinstance(note, str):
        raise EncoderError(
            f"{folder.name}/{_CONFIG} describes a network of kind {found!r} and format {number!r}, "
            f"expected {kind!r} and {FORMAT}",
            remedy="Give a folder that pretraining wrote for this modality with this version",
        )
    return NetworkCard(kind, settings, note)


def load_weights(folder: Path, network: nn.Module) -> nn.Module:
    """Fill `network` with the folder's weights and freeze it.

    Raises:
        EncoderError: absent, damaged or incomplete weights, or weights of another size.
    """
    try:
        network.load_state_dict(load_file(folder / _WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise EncoderError(
            f"{folder.name}/{_WEIGHTS} does not fit its {_CONFIG} ({str(error).splitlines()[0][:120]})",
            remedy="Copy the whole folder again from where it was pretrained",
        ) from error
    return freeze(network)


def _own_part(folder: Path) -> dict[str, Any] | None:
    try:
        own = json.loads((folder / _CONFIG).read_text("utf-8")).get("mmrec")
    except (OSError, ValueError, AttributeError):
        return None
    return own if isinstance(own, dict) else None
