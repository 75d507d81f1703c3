"""An exported recommender: one folder that anybody can load, without pickle.

model.safetensors   all weights, trained or not (of a text encoder those that were trained); `prior`, the standardised
                    log popularity as released under DP; in runs that have them `scorer` and `selected`, what was made
                    of the released pairs of items, and `kept_terms`, what the gate left in the score
config.json         the run's configuration, which holds the model's sizes and the feature bundle's digest
README.md           the card: what it was trained on, what it reached, what it cost, what is not protected
digests.json        SHA-256 of the files above, written last
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mmrec_model.canonical import canonical_json
from mmrec_model.config import RunConfig
from mmrec_model.config_reader import parse_config
from mmrec_model.errors import ModelError
from mmrec_model.model.recommender import RecommenderNetwork, build_model
from mmrec_model.model.state import load_beside, model_of_state
from mmrec_model.protocol import BESIDE, CLIP, PRIOR, Arrays
from mmrec_model.storage import sha256_of_file, write_atomically

WEIGHTS, CONFIG, CARD, DIGESTS = "model.safetensors", "config.json", "README.md", "digests.json"


@dataclass(frozen=True)
class ExportedModel:
    """A loaded recommender, its popularity prior `[N]`, and the configuration it was trained with."""

    model: RecommenderNetwork
    prior_N: npt.NDArray[np.float32]
    config: RunConfig


def save_model(folder: Path, config: RunConfig, state: Arrays, *, card: str) -> None:
    """Write the folder.

    Args:
        folder: created if absent; its files are replaced.
        config: the run.
        state: trained arrays and what travels beside them; the other weights are those of the run's seed.
        card: text of the card, in Markdown.
    """
    model = model_of_state(config, state)
    beside = {name: state[name] for name in BESIDE - {CLIP} if name in state}
    served = {name: weight.numpy() for name, weight in model.served_state().items()} | beside
    contiguous = {name: np.ascontiguousarray(array) for name, array in sorted(served.items())}
    write_atomically(folder / WEIGHTS, save(contiguous))
    write_atomically(folder / CONFIG, (config.model_dump_json(indent=2) + "\n").encode())
    write_atomically(folder / CARD, card.encode())
    digests = {name: sha256_of_file(folder / name) for name in (WEIGHTS, CONFIG, CARD)}
    write_atomically(folder / DIGESTS, canonical_json({**digests}) + b"\n")


def load_model(folder: Path, *, encoder_source: str | None = None) -> ExportedModel:
    """Read and verify an exported folder; adapters of a text encoder are merged into it.

    Args:
        folder: as `save_model` wrote it.
        encoder_source: where this machine has the text encoder that the run tuned; by default where the run had it.

    Raises:
        ModelError: a file is missing, changed, or does not fit the configuration.
        EncoderError: the text encoder cannot be loaded.
    """
    try:
        digests = json.loads((folder / DIGESTS).read_bytes())
        changed = [name for name in (WEIGHTS, CONFIG, CARD) if sha256_of_file(folder / name) != digests[name]]
        if changed:
            raise ModelError(f"{folder}: {changed} changed after the export", remedy="Export or copy the model again")
        config = parse_config(RunConfig, (folder / CONFIG).read_text(encoding="utf-8"), source=str(folder / CONFIG))
        state = load((folder / WEIGHTS).read_bytes())
        beside = {name: state.pop(name) for name in BESIDE - {CLIP} if name in state}
        prior = beside[PRIOR]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"{folder} is not an exported model: {error}", remedy="Name the folder `model` of a run"
        ) from error
    model = build_model(config, encoder_source=encoder_source)
    model.load_served_state({name: torch.from_numpy(array) for name, array in state.items()})
    load_beside(model, beside)
    if model.encoder is not None:
        model.encoder.merge()
    model.eval()
    return ExportedModel(model, prior, config)
