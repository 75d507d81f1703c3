"""Build the catalogue bundle: from items and encoders to the folder that a run pins by digest.

Promises:
1. The manifest depends on items, encoders and transform alone, not on folders or on whether vectors came from the
   store. (A text's vector may differ in its last bits with the texts it shared a batch with, so a bundle is built
   once and copied to the partners; they do not each build their own.)
2. A modality that an item lacks is a row of zeros and False in `present_NM`, never a guess, unless the transform asks
   for estimates (`features.imputation`); the manifest then counts them. An item without any modality is kept with an
   all-False row, and counted.
3. A damaged medium counts as missing; how many and the first `NAMED_ITEMS` of them are in the manifest.
4. Duplicates and media that disagree with their item are named where the transform asks for it (`features.quality`).
5. The manifest holds each encoder's recipe (weights, transform, pooling), whose digest is the encoder's, and its
   licence. An encoder that learned from the catalogue lies in the bundle itself, under the bundle's digest.

Shapes: N items, M modalities, D raw width, K final width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from mmrec_model.canonical import JsonValue, canonical_json, sha256_hex
from mmrec_model.config import MODALITIES, EncoderConfig, Modality, TransformConfig
from mmrec_model.encoders.interface import CatalogueEncoder, Encoder, Mask, Vectors
from mmrec_model.encoders.registry import load_encoder
from mmrec_model.encoders.words import words_of
from mmrec_model.errors import FeatureError
from mmrec_model.features.folder import (
    IMPUTATION,
    TOKENS,
    FeatureBundle,
    encoder_file,
    encoder_folder,
    imputation_bytes,
    npy_bytes,
    open_bundle,
    open_transform,
    tokens_bytes,
    transform_bytes,
    transform_file,
    vectors_file,
    write_bundle,
)
from mmrec_model.features.imputation import fit_imputation
from mmrec_model.features.quality import NAMED_ITEMS, Encoded, assess
from mmrec_model.features.selection import select
from mmrec_model.features.signature import sign_bundle
from mmrec_model.features.store import FeatureStore
from mmrec_model.features.transform import CatalogueTransform, fit_transform
from mmrec_model.privacy.keys import SigningKey

__all__ = ["FeatureBundle", "Items", "build_bundle", "encoder_folder", "item_text", "open_bundle", "open_transform"]

Progress = Callable[[str, int, int, int], None]
_CHUNK: Mapping[Modality, int] = {"text": 256, "image": 256, "audio": 32, "video": 8}


class Items(Protocol):
    """What a bundle needs of a catalogue; `mmrec_model.data.catalogue.Catalogue` has it."""

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Distinct ids; their order is the item axis of every array."""

    @property
    def titles(self) -> tuple[str, ...]:
        """One per item, "" where missing."""

    @property
    def texts(self) -> tuple[str, ...]:
        """One per item, "" where missing."""

    @property
    def categories(self) -> tuple[str, ...]:
        """One per item, "" where missing; read only where dimensions are selected by category."""

    @property
    def media(self) -> Mapping[str, tuple[Path | None, ...]]:
        """One path or None per item, for "image", "audio" and "video"."""


@runtime_checkable
class TokenEncoder(Protocol):
    """An encoder that reads texts as token ids."""

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""


@dataclass(frozen=True)
class _Encoded(Encoded):
    """Raw vectors of one modality, one row per item, and where they come from."""

    encoder: Encoder
    corrupt_N: Mask
    encoded: int

    def fit(self, config: TransformConfig, catalogue: Items) -> CatalogueTransform:
        present_nD = self.raw_ND[self.present_N]
        by_category = config.select in {"importance", "l1"}
        categories = list(compress(catalogue.categories, self.present_N)) if by_category else []
        return fit_transform(present_nD, config, select(present_nD, config, categories))

    def apply(self, fit: CatalogueTransform) -> Vectors:
        final_NK = np.zeros((len(self.raw_ND), fit.dims), dtype=np.float32)
        final_NK[self.present_N] = fit.apply(self.raw_ND[self.present_N])
        return final_NK


def build_bundle(
    catalogue: Items,
    folder: Path,
    *,
    encoders: Sequence[EncoderConfig],
    transform: TransformConfig,
    store: Path,
    tokens: bool = False,
    progress: Progress | None = None,
    signing_key: SigningKey | None = None,
) -> FeatureBundle:
    """Encode what the store lacks, fit the transforms on the items, write the bundle and open it.

    Args:
        catalogue: the items.
        folder: where the bundle goes; an older bundle there is replaced.
        encoders: at most one per modality; media without an encoder are left out.
        transform: how raw vectors become final ones.
        store: root of the content-addressed raw vectors.
        tokens: also keep the token ids of the texts, which a run that tunes the text encoder reads.
        progress: called with (modality, settled inputs, all inputs of the modality, unreadable ones among the settled).
        signing_key: the coordinator's, which signs the manifest; None for a bundle without a signature.

    Raises:
        EncoderError: an encoder cannot be loaded.
        FeatureError: two encoders for one modality, no item with anything to encode, an unusable folder, or tokens of
            a catalogue or an encoder that has none.
    """
    results = _encode_all(catalogue, _by_modality(encoders), FeatureStore(store), progress)
    kept = {modality: result for modality, result in results.items() if result.present_N.any()}
    if not kept:
        raise FeatureError(
            f"none of the {len(catalogue.item_ids)} items has anything that the {len(encoders)} encoders can read",
            remedy="Give items a title, a text or media files, and an encoder for them",
        )
    fits = {modality: result.fit(transform, catalogue) for modality, result in kept.items()}
    present_NM = np.stack([result.present_N for result in kept.values()], axis=1)
    vectors = {modality: result.apply(fits[modality]) for modality, result in kept.items()}
    assessed = assess(kept, vectors, present_NM, catalogue.item_ids, transform)
    estimates = _estimate(assessed.vectors, assessed.present_NM, transform)
    files = {"items.json": canonical_json(list(catalogue.item_ids)), **_files(kept, fits, estimates)}
    if tokens:
        files[TOKENS] = _tokens(catalogue, kept.get("text"))
    accounts: dict[str, JsonValue] = {
        name: _account(result, fits.get(name), catalogue.item_ids) for name, result in results.items()
    }
    write_bundle(folder, files, {
        "items": len(catalogue.item_ids),
        "item_ids": sha256_hex(files["items.json"]),
        "without_features": int((~assessed.present_NM.any(axis=1)).sum()),
        "transform": {"dims": transform.dims, "whiten": transform.whiten, **_selection(transform)},
        "modalities": accounts,
        **assessed.account,
        **estimates.account,
    })  # fmt: skip
    if signing_key is not None:
        sign_bundle(folder, signing_key)
    return replace(open_bundle(folder), encoded=sum(result.encoded for result in results.values()))


@dataclass(frozen=True)
class _Estimates:
    """Final vectors and presence of all items, the files of the regressions, and their entry in the manifest."""

    vectors: dict[Modality, Vectors]
    present_NM: npt.NDArray[np.bool_]
    files: dict[str, bytes]
    account: dict[str, JsonValue]


def _files(
    kept: Mapping[Modality, _Encoded], fits: Mapping[Modality, CatalogueTransform], estimates: _Estimates
) -> dict[str, bytes]:
    """The arrays of the bundle, and the encoders that learned from the catalogue."""
    files = {"present.npy": npy_bytes(estimates.present_NM), **estimates.files}
    for modality, result in kept.items():
        files[vectors_file(modality)] = npy_bytes(estimates.vectors[modality])
        files[transform_file(modality)] = transform_bytes(fits[modality])
        if isinstance(result.encoder, CatalogueEncoder):
            files |= {encoder_file(modality, name): content for name, content in result.encoder.files().items()}
    return files


def _selection(config: TransformConfig) -> dict[str, JsonValue]:
    return {} if config.select == "none" else {"select": config.select, "select_dims": config.select_dims}


def _estimate(
    vectors: dict[Modality, Vectors], present_NM: npt.NDArray[np.bool_], config: TransformConfig
) -> _Estimates:
    if config.impute == "off":
        return _Estimates(vectors, present_NM, {}, {})
    fit = fit_imputation(vectors, present_NM)
    filled, estimated_NM = fit.fill(vectors, present_NM)
    counts: dict[str, JsonValue] = {
        name: int(column.sum()) for name, column in zip(vectors, estimated_NM.T, strict=True)
    }
    shown_NM = present_NM | estimated_NM if config.impute == "present" else present_NM
    account: dict[str, JsonValue] = {"imputation": {"impute": config.impute, "estimated": counts}}
    return _Estimates(filled, shown_NM, {IMPUTATION: imputation_bytes(fit)}, account)


def modality_inputs(catalogue: Items, modality: Modality) -> list[str | Path | None]:
    """What an encoder of `modality` reads of every item; None where the item has nothing."""
    if modality == "text":
        return [item_text(*pair) or None for pair in zip(catalogue.titles, catalogue.texts, strict=True)]
    return list(catalogue.media.get(modality, (None,) * len(catalogue.item_ids)))


def item_text(title: str, text: str) -> str:
    """What the text encoder reads: title and text, or the text alone if it already says every word of the title."""
    title, text = title.strip(), text.strip()
    if not title or not text:
        return title or text
    return text if set(words_of(text)).issuperset(words_of(title)) else f"{title}. {text}"


def _by_modality(encoders: Sequence[EncoderConfig]) -> dict[Modality, EncoderConfig]:
    chosen = {config.modality: config for config in encoders}
    if len(chosen) < len(encoders):
        raise FeatureError(
            f"{len(encoders)} encoders are given for {len(chosen)} modalities, the limit is one for each",
            remedy="Keep one encoder per modality",
        )
    return chosen


def _encode_all(
    catalogue: Items, chosen: Mapping[Modality, EncoderConfig], store: FeatureStore, progress: Progress | None
) -> dict[Modality, _Encoded]:
    """Raw vectors per modality that has both an encoder and an item with something to encode."""
    results: dict[Modality, _Encoded] = {}
    for modality in MODALITIES:
        inputs = modality_inputs(catalogue, modality)
        if modality in chosen and any(one is not None for one in inputs):
            results[modality] = _encode(inputs, chosen[modality], store, progress)
    return results


def _encode(
    inputs: Sequence[str | Path | None], config: EncoderConfig, store: FeatureStore, progress: Progress | None
) -> _Encoded:
    given_N = np.array([one is not None for one in inputs], dtype=bool)
    given = [one for one in inputs if one is not None]
    encoder = load_encoder(config, catalogue=given)

    def report(settled: int, unreadable: int) -> None:
        if progress is not None:
            progress(config.modality, settled, len(given), unreadable)

    vectors, ok, encoded = store.get_or_encode(encoder, given, progress=report, chunk=_CHUNK[config.modality])
    raw_ND = np.zeros((len(inputs), encoder.dim), dtype=np.float32)
    raw_ND[given_N] = vectors
    present_N = np.zeros(len(inputs), dtype=bool)
    present_N[given_N] = ok
    return _Encoded(inputs, raw_ND, present_N, encoder, given_N & ~present_N, encoded)


def _tokens(catalogue: Items, result: _Encoded | None) -> bytes:
    """The token ids of every item's text, as the encoder that made its vector reads them."""
    encoder: object = None if result is None else result.encoder
    if not isinstance(encoder, TokenEncoder):
        lacking = "a catalogue without texts" if result is None else "the text encoder"
        raise FeatureError(
            f"token ids are asked for, {lacking} has none",
            remedy="Give a transformer as text encoder, or build the bundle without tokens",
        )
    return tokens_bytes(encoder.tokens([str(one or "") for one in modality_inputs(catalogue, "text")]))


def _account(result: _Encoded, fit: CatalogueTransform | None, item_ids: Sequence[str]) -> dict[str, JsonValue]:
    """A modality's entry in the manifest; without a fit no item of it could be encoded."""
    encoder, dims = result.encoder, 0 if fit is None else fit.dims
    corrupt = np.flatnonzero(result.corrupt_N)
    selected: dict[str, JsonValue] = {} if fit is None or fit.kept_W is None else {"selected": int(fit.kept_W.sum())}
    return {
        "encoder": {
            "name": encoder.name,
            "digest": encoder.digest,
            "recipe": dict(encoder.recipe),
            "licence": encoder.licence,
            "note": encoder.note,
            "dim": encoder.dim,
        },
        "dims": dims,
        **selected,
        "bytes_per_item": 4 * dims,
        "explained_permille": 0 if fit is None else round(1000 * fit.explained),
        "encoded": int(result.present_N.sum()),
        "missing": int((~result.present_N & ~result.corrupt_N).sum()),
        "corrupt": len(corrupt),
        "corrupt_items": [item_ids[position] for position in corrupt[:NAMED_ITEMS]],
    }
