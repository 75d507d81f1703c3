"""Users' own media as vectors of the bundle's space: the same frozen encoder, the same fitted map as of the items.

Computed where the user is. Nothing here is fitted, so no statistic of users arises; what has no medium, or one that
cannot be read, is missing and stays a row of zeros. Shapes: U users, K width of the modality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import get_args

import numpy as np

from mmrec_model.canonical import JsonValue
from mmrec_model.config import EncoderConfig, Modality
from mmrec_model.config_reader import parse_config
from mmrec_model.config_types import Pooling
from mmrec_model.encoders.interface import Encoder, Mask, Vectors
from mmrec_model.encoders.registry import load_encoder
from mmrec_model.errors import FeatureError
from mmrec_model.features.folder import FeatureBundle, open_transform
from mmrec_model.features.store import FeatureStore


def bundle_encoder(bundle: FeatureBundle, modality: Modality, source: str) -> Encoder:
    """The encoder at `source`, if it is the one that the bundle's vectors of this modality come from.

    Args:
        bundle: its manifest says at which length, pooling and precision the encoder was run.
        modality: text or image.
        source: where this machine has the encoder, as in `EncoderConfig`.

    Raises:
        EncoderError: it cannot be loaded.
        FeatureError: it is another one.
        ConfigError: the manifest's settings are not those of an encoder.
    """
    account = bundle.manifest["modalities"].get(modality, {}).get("encoder", {})
    encoder = loaded_encoder(_as_recorded(account.get("recipe", {}), modality, source))
    known = account.get("digest", "none")
    if encoder.digest != known:
        raise FeatureError(
            f"the {modality} encoder here has digest {encoder.digest[:12]}, the bundle was made by {known[:12]}",
            remedy="Install the encoder that the bundle's manifest names",
        )
    return encoder


def encode_own_media(
    folder: Path, modality: Modality, encoder: Encoder, media: Sequence[str | Path | None], *, store: Path | None = None
) -> tuple[Vectors, Mask]:
    """Vectors of users' media, float32 `[U, K]`, and which users have one.

    Args:
        folder: the feature bundle.
        modality: of the media.
        encoder: of `bundle_encoder`.
        media: one text or file per user, None or "" where absent.
        store: keeps raw vectors for the next time; private to whoever holds the users.

    Raises:
        FeatureError: the bundle or the store cannot be used.
    """
    fit = open_transform(folder, modality)
    given = [(row, medium) for row, medium in enumerate(media) if medium]
    inputs = [medium for _, medium in given]
    if not inputs:
        raw, ok = np.zeros((0, encoder.dim), np.float32), np.zeros(0, bool)
    elif store is None:
        raw, ok = encoder.encode(inputs)
    else:
        raw, ok, _ = FeatureStore(store).get_or_encode(encoder, inputs)
    rows = np.array([row for row, _ in given], dtype=np.int64)[ok]
    vectors_UK = np.zeros((len(media), fit.dims), dtype=np.float32)
    present_U = np.zeros(len(media), dtype=bool)
    present_U[rows] = True
    vectors_UK[rows] = fit.apply(raw[ok])
    return vectors_UK, present_U


def _as_recorded(recipe: Mapping[str, JsonValue], modality: Modality, source: str) -> EncoderConfig:
    """The settings that move vectors, as the bundle's recipe has them; what it does not name is the default."""
    given: dict[str, object] = {"modality": modality, "source": source}
    if "dtype" in recipe:
        given["dtype"] = recipe["dtype"]
    if modality == "text":
        if "limit" in recipe:
            given["max_tokens"] = recipe["limit"]
        if recipe.get("pool") in get_args(Pooling):
            given["pooling"] = recipe["pool"]
    return parse_config(EncoderConfig, given, source=f"the bundle's {modality} encoder")


@lru_cache(maxsize=4)
def loaded_encoder(config: EncoderConfig) -> Encoder:
    """`load_encoder`, once per process: weights of hundreds of megabytes serve every request."""
    return load_encoder(config)
