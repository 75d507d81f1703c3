"""Build a bundle again from the catalogue as its manifest says, to see whether it is what it claims to be. Epsilon 0.

A rebuilt bundle is bit for bit the same where nothing rounds differently: same machine type, same libraries, same
batches. Elsewhere the last bits of a vector may differ, which is another digest; a run wants the one digest of the
federation, so the vectors are then compared within `TOLERANCE`, and the coordinator's own bytes are what is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from mmrec_model.config import MODALITIES, EncoderConfig, Modality, TransformConfig
from mmrec_model.config_reader import parse_config
from mmrec_model.errors import FeatureError, UsageError
from mmrec_model.features.bundle import Items, Progress, build_bundle
from mmrec_model.features.folder import TOKENS, FeatureBundle

TOLERANCE: Final = 1e-3
"""Largest difference of one number of a final vector, whose norm is 1, that counts as rounding."""


def rebuild_bundle(
    manifest: Mapping[str, Any],
    catalogue: Items,
    folder: Path,
    *,
    sources: Mapping[Modality, str],
    store: Path,
    progress: Progress | None = None,
) -> FeatureBundle:
    """Build the bundle of `manifest` from `catalogue`.

    Args:
        manifest: of the bundle that is to be checked.
        catalogue: the items.
        folder: where the new bundle goes.
        sources: of the encoders, by modality, where they are not the embedded ones.
        store: root of the raw vectors.
        progress: see `build_bundle`.

    Raises:
        EncoderError: an encoder cannot be loaded.
        FeatureError: nothing can be encoded, or the folder cannot be written.
    """
    encoders = [EncoderConfig(modality=name, source=sources.get(name, "embedded")) for name in manifest["modalities"]]
    return build_bundle(
        catalogue,
        folder,
        encoders=encoders,
        transform=_transform(manifest),
        store=store,
        tokens=TOKENS in manifest["files"],
        progress=progress,
    )


def sources_of(asked: Sequence[str]) -> dict[Modality, str]:
    """Sources of encoders by modality, from MEDIUM=SOURCE as a person wrote them.

    Raises:
        UsageError: one is not of that form, or a medium is named twice.
    """
    named = {name: one.partition("=")[2] for name in MODALITIES for one in asked if one.partition("=")[0] == name}
    if len(named) < len(asked) or not all(named.values()):
        raise UsageError(
            f"--encoder {' '.join(asked)} is not one MEDIUM=SOURCE for each medium",
            remedy=f"The media are {', '.join(MODALITIES)}; the sources are in docs/features.md",
        )
    return named


def largest_differences(theirs: FeatureBundle, own: FeatureBundle) -> dict[Modality, float]:
    """The largest difference of one number, by modality.

    Raises:
        FeatureError: the two were made by other encoders or of other items, so that there is nothing to compare.
    """
    for name in theirs.modalities:
        digests = [
            bundle.manifest["modalities"].get(name, {}).get("encoder", {}).get("digest", "none")
            for bundle in (theirs, own)
        ]
        if digests[0] != digests[1]:
            raise FeatureError(
                f"the bundle's {name} encoder is {digests[0][:12]}, the one here {digests[1][:12]}",
                remedy=f"Name the same encoder with --encoder {name}=SOURCE",
            )
    shapes = [{name: array.shape for name, array in bundle.vectors.items()} for bundle in (theirs, own)]
    if shapes[0] != shapes[1] or theirs.item_ids != own.item_ids:
        raise FeatureError(
            f"the bundle has the arrays {shapes[0]}, the one built here {shapes[1]}, or other items",
            remedy="Use the federation's catalogue, with its media, as it is",
        )
    return {
        name: float(np.max(np.abs(theirs.vectors[name] - own.vectors[name]), initial=0.0)) for name in theirs.modalities
    }


def _transform(manifest: Mapping[str, Any]) -> TransformConfig:
    values: dict[str, object] = dict(manifest["transform"])
    if "imputation" in manifest:
        values["impute"] = manifest["imputation"]["impute"]
    if "quality" in manifest:
        asked = {name: float(manifest["quality"][name]) for name in ("near_duplicate", "quarantine")}
        values |= {"quality": True, **asked}
    return parse_config(TransformConfig, values, source="the bundle's manifest")
