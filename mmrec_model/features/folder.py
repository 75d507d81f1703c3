"""The catalogue bundle on disk: one folder of final item vectors that a run pins by digest and partners open read-only.

Promises:
1. A bundle's digest is SHA-256 of `manifest.json`, which holds the digest of every other file: one changed byte
   anywhere is another bundle, and `open_bundle` refuses it.
2. Every file is whole or absent; the manifest is written last, so a half-written bundle never opens.

    FOLDER/manifest.json                      canonical JSON
    FOLDER/items.json                         item ids in order
    FOLDER/present.npy                        bool [N, M]
    FOLDER/<modality>.npy                     float32 [N, K]
    FOLDER/<modality>.transform.safetensors   mean, axes, selected numbers; for new items, queries
    FOLDER/<modality>.encoder/                an encoder that learned from the catalogue, for the same
    FOLDER/manifest.sig                       who made it (`mmrec_model.features.signature`); not in the digest
    FOLDER/imputation.safetensors             regressions for missing modalities, if the transform has them
    FOLDER/text.tokens.safetensors            token ids of the texts, for runs that tune the text encoder; optional

Shapes: N items, M modalities, K width.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mmrec_model.canonical import JsonValue, canonical_json, sha256_hex
from mmrec_model.config import MODALITIES, FeatureSpec, Modality
from mmrec_model.errors import FeatureError
from mmrec_model.features.imputation import Imputation
from mmrec_model.features.transform import CatalogueTransform
from mmrec_model.storage import sha256_of_file, write_atomically

BUNDLE_FORMAT = 1
TOKENS = "text.tokens.safetensors"
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
_ENCODER_FILE = re.compile(rf"({'|'.join(MODALITIES)})\.encoder/[a-z][a-z0-9]*\.[a-z]+")
IMPUTATION = "imputation.safetensors"
_REBUILD = "Build the bundle again from the catalogue, or copy it again from the coordinator"


@dataclass(frozen=True)
class FeatureBundle:
    """Final vectors of all items.

    Attributes:
        item_ids: N ids, in the order of every array.
        modalities: those with at least one present item, in the order of `MODALITIES`.
        vectors: float32 [N, K] per modality, memory-mapped; unit rows, zeros where missing and not estimated.
        present_NM: bool, over `modalities`; an estimate counts as present if the transform says so.
        manifest: encoders, transform, counts and file digests; holds no float.
        digest: SHA-256 of the canonical manifest.
        encoded: inputs encoded anew by the call that built this object; 0 for a bundle that was opened.
    """

    item_ids: tuple[str, ...]
    modalities: tuple[Modality, ...]
    vectors: dict[Modality, npt.NDArray[np.float32]]
    present_NM: npt.NDArray[np.bool_]
    manifest: dict[str, Any]
    digest: str
    encoded: int = 0

    @property
    def spec(self) -> FeatureSpec:
        """What a run configuration says about this bundle."""
        dims = {modality: int(self.vectors[modality].shape[1]) for modality in self.modalities}
        return FeatureSpec(digest=self.digest, items=len(self.item_ids), dims=dims)

    @property
    def tunable_encoder(self) -> str | None:
        """Digest of the text encoder whose token ids the bundle holds; None if it holds none."""
        if TOKENS not in self.manifest["files"]:
            return None
        digest: str = self.manifest["modalities"]["text"]["encoder"]["digest"]
        return digest


def open_bundle(folder: Path) -> FeatureBundle:
    """Open a bundle read-only, memory-mapped, after verifying every file.

    Raises:
        FeatureError: a file is absent, damaged or not the one that the manifest names.
    """
    content = _read(folder / MANIFEST)
    manifest = _parse_manifest(content, folder / MANIFEST)
    for name, expected in manifest["files"].items():
        _verify(folder / name, expected)
    modalities = tuple(name for name in MODALITIES if vectors_file(name) in manifest["files"])
    try:
        vectors = {name: np.load(folder / vectors_file(name), mmap_mode="r", allow_pickle=False) for name in modalities}
        present_NM = np.load(folder / "present.npy", allow_pickle=False)
        item_ids = tuple(json.loads(_read(folder / "items.json")))
    except (OSError, ValueError) as error:
        raise FeatureError(f"{folder}: the arrays cannot be read ({error})", remedy=_REBUILD) from error
    rows = {len(item_ids), manifest["items"], *(len(array) for array in vectors.values())}
    if len(rows) > 1 or present_NM.shape != (len(item_ids), len(modalities)):
        raise FeatureError(f"{folder}: the files disagree on the number of items {sorted(rows)}", remedy=_REBUILD)
    return FeatureBundle(item_ids, modalities, vectors, present_NM, manifest, sha256_hex(content))


def open_transform(folder: Path, modality: Modality) -> CatalogueTransform:
    """The fitted map of one modality, for new items and queries.

    Raises:
        FeatureError: the bundle has no such modality, or a file is damaged.
    """
    files = _parse_manifest(_read(folder / MANIFEST), folder / MANIFEST)["files"]
    path = folder / transform_file(modality)
    if path.name not in files:
        raise FeatureError(
            f"the bundle {folder} has no {modality}", remedy="Build it with an encoder for this modality"
        )
    _verify(path, files[path.name])
    try:
        arrays = load(_read(path))
        return CatalogueTransform(arrays["mean"], arrays["axes"], float(arrays["explained"][0]), arrays.get("kept"))
    except (SafetensorError, KeyError, IndexError) as error:
        raise FeatureError(f"{path} is damaged ({type(error).__name__})", remedy=_REBUILD) from error


def encoder_folder(folder: Path, modality: Modality) -> Path:
    """The folder of the encoder that learned from this bundle's catalogue: the `source` that encodes new items.

    Raises:
        FeatureError: the bundle's encoder is not of that kind, or a file is damaged.
    """
    files = _parse_manifest(_read(folder / MANIFEST), folder / MANIFEST)["files"]
    inside = {name: expected for name, expected in files.items() if name.startswith(encoder_file(modality, ""))}
    if not inside:
        raise FeatureError(
            f"the bundle {folder} brings no {modality} encoder along",
            remedy="Use the encoder that the bundle's manifest names",
        )
    for name, expected in inside.items():
        _verify(folder / name, expected)
    return folder / encoder_file(modality, "")


def open_imputation(folder: Path) -> Imputation:
    """The regressions for missing modalities, for new items.

    Raises:
        FeatureError: the bundle was built without them, or the file is damaged.
    """
    files = _parse_manifest(_read(folder / MANIFEST), folder / MANIFEST)["files"]
    if IMPUTATION not in files:
        raise FeatureError(f"the bundle {folder} estimates nothing", remedy="Build it with `impute` of the transform")
    _verify(folder / IMPUTATION, files[IMPUTATION])
    return Imputation(load(_read(folder / IMPUTATION)))


def open_tokens(folder: Path) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]] | None:
    """Token ids of all texts, one behind the other, and the N + 1 offsets of the items; None if the bundle has none.

    Raises:
        FeatureError: the file is damaged, or does not fit the number of items.
    """
    manifest = _parse_manifest(_read(folder / MANIFEST), folder / MANIFEST)
    if TOKENS not in manifest["files"]:
        return None
    path = folder / TOKENS
    _verify(path, manifest["files"][TOKENS])
    try:
        arrays = load(_read(path))
        ids_R, offsets = arrays["ids"], arrays["offsets"]
    except (SafetensorError, KeyError) as error:
        raise FeatureError(f"{path} is damaged ({type(error).__name__})", remedy=_REBUILD) from error
    rising = len(offsets) == manifest["items"] + 1 and offsets[0] == 0 and bool((np.diff(offsets) >= 0).all())
    if not rising or offsets[-1] != len(ids_R) or bool((ids_R < 0).any()):
        raise FeatureError(f"{path} does not hold the texts of {manifest['items']} items", remedy=_REBUILD)
    return ids_R, offsets


def write_bundle(folder: Path, files: Mapping[str, bytes], manifest: dict[str, JsonValue]) -> None:
    """Write `files`, then the manifest with their digests; an older bundle in `folder` is replaced.

    Raises:
        FeatureError: the folder cannot be written.
    """
    digests: dict[str, JsonValue] = {name: sha256_hex(content) for name, content in files.items()}
    try:
        for name in (MANIFEST, SIGNATURE, IMPUTATION):
            (folder / name).unlink(missing_ok=True)
        for modality in MODALITIES:
            shutil.rmtree(folder / encoder_file(modality, ""), ignore_errors=True)
            for name in (vectors_file(modality), transform_file(modality)):
                if name not in files:
                    (folder / name).unlink(missing_ok=True)
        if TOKENS not in files:
            (folder / TOKENS).unlink(missing_ok=True)
        for name, content in files.items():
            write_atomically(folder / name, content)
        write_atomically(folder / MANIFEST, canonical_json({**manifest, "format": BUNDLE_FORMAT, "files": digests}))
    except OSError as error:
        raise FeatureError(
            f"the bundle folder {folder} cannot be written: {error.strerror or error}",
            remedy="Give a folder on a local disk that this process may write, with room for the vectors",
        ) from error


def vectors_file(modality: Modality) -> str:
    """File name of a modality's final vectors."""
    return f"{modality}.npy"


def transform_file(modality: Modality) -> str:
    """File name of a modality's fitted map."""
    return f"{modality}.transform.safetensors"


def encoder_file(modality: Modality, name: str) -> str:
    """Name inside the bundle of a file of a modality's own encoder."""
    return f"{modality}.encoder/{name}"


def npy_bytes(array: npt.NDArray[np.generic]) -> bytes:
    """`array` as the content of an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def transform_bytes(fit: CatalogueTransform) -> bytes:
    """A fitted map as the content of a safetensors file."""
    selected = {} if fit.kept_W is None else {"kept": fit.kept_W}
    return save({"mean": fit.mean_D, "axes": fit.axes_DK, "explained": np.array([fit.explained]), **selected})


def imputation_bytes(fit: Imputation) -> bytes:
    """Fitted regressions as the content of a safetensors file."""
    return save(fit.maps)


def tokens_bytes(lists: Sequence[Sequence[int]]) -> bytes:
    """Token ids of every item as the content of a safetensors file."""
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    ids = np.fromiter((token for ids in lists for token in ids), dtype=np.int32, count=int(offsets[-1]))
    return save({"ids": ids, "offsets": offsets})


def _verify(path: Path, expected: str) -> None:
    found = sha256_of_file(path) if path.is_file() else "absent"
    if found != expected:
        raise FeatureError(f"{path} has SHA-256 {found[:12]}, the manifest says {expected[:12]}", remedy=_REBUILD)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FeatureError(f"{path} cannot be read: {error.strerror or error}", remedy=_REBUILD) from error


def _parse_manifest(content: bytes, path: Path) -> dict[str, Any]:
    """The manifest, if it is canonical, of this format, and names plain files of its own folder."""
    try:
        manifest: dict[str, Any] = json.loads(content)
        canonical = isinstance(manifest, dict) and canonical_json(manifest) == content
    except ValueError as error:
        raise FeatureError(f"{path} is not JSON ({error})", remedy=_REBUILD) from error
    if not canonical or manifest.get("format") != BUNDLE_FORMAT:
        raise FeatureError(f"{path} is not a canonical manifest of format {BUNDLE_FORMAT}", remedy=_REBUILD)
    files = manifest.get("files")
    known = {"items.json", "present.npy"}
    of_modalities = {name for modality in MODALITIES for name in (vectors_file(modality), transform_file(modality))}
    allowed = known | of_modalities | {IMPUTATION, TOKENS}
    names = set(files) if isinstance(files, dict) else set()
    if not known <= names or not all(_ENCODER_FILE.fullmatch(name) for name in names - allowed):
        raise FeatureError(f"{path} does not name the files of a bundle", remedy=_REBUILD)
    return manifest
