"""Laws of the catalogue bundle: what is counted, what the digest pins, what is refused."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmrec_model.canonical import canonical_json, sha256_hex
from mmrec_model.config import EncoderConfig, TransformConfig
from mmrec_model.encoders.interface import recipe_digest
from mmrec_model.encoders.registry import load_encoder
from mmrec_model.errors import BundleSignatureError, FeatureError
from mmrec_model.features.bundle import (
    FeatureBundle,
    build_bundle,
    encoder_folder,
    item_text,
    open_bundle,
    open_transform,
)
from mmrec_model.features.folder import open_tokens, tokens_bytes
from mmrec_model.features.signature import check_signature
from mmrec_model.privacy.keys import SigningKey

Build = Callable[..., FeatureBundle]


@pytest.fixture
def build(shelf: object, encoders: object, transform: object, tmp_path: Path) -> Build:
    """Build the shelf's bundle, with any argument replaced."""

    def _build(name: str = "bundle", **changes: object) -> FeatureBundle:
        given = {"catalogue": shelf, "encoders": encoders, "transform": transform, "store": tmp_path / "store"}
        given |= changes
        return build_bundle(given.pop("catalogue"), tmp_path / name, **given)

    return _build


def test_a_bundle_holds_unit_rows_where_present_and_zeros_where_not(build: Build) -> None:
    bundle = build()
    assert bundle.modalities == ("text", "image", "audio")
    expected = [[1, 1, 0], [1, 1, 0], [1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert bundle.present_NM.astype(int).tolist() == expected
    for column, modality in enumerate(bundle.modalities):
        vectors = bundle.vectors[modality]
        assert isinstance(vectors, np.memmap)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), bundle.present_NM[:, column], atol=1e-5)
    assert bundle.spec.dims == {"text": 4, "image": 4, "audio": 1}
    assert (bundle.spec.items, bundle.spec.digest) == (8, bundle.digest)


def test_damaged_missing_and_bare_items_are_counted_by_name(build: Build) -> None:
    manifest = build().manifest
    image = manifest["modalities"]["image"]
    assert (image["encoded"], image["missing"], image["corrupt"]) == (5, 2, 1)
    assert image["corrupt_items"] == ["i3"]
    assert image["bytes_per_item"] == 16
    assert "random weights" in image["encoder"]["note"]
    assert manifest["without_features"] == 1
    assert manifest["modalities"]["audio"]["missing"] == 7
    assert "video" not in manifest["modalities"]


def test_a_second_build_encodes_nothing_and_is_the_same_bundle(build: Build) -> None:
    first, second = build(), build("copy")
    assert first.encoded == 6 + 6 + 1
    assert second.encoded == 0
    assert second.digest == first.digest
    assert build().digest == first.digest


def test_opening_gives_what_building_gave(build: Build, tmp_path: Path) -> None:
    built, opened = build(), open_bundle(tmp_path / "bundle")
    assert (opened.digest, opened.item_ids, opened.manifest) == (built.digest, built.item_ids, built.manifest)
    assert opened.encoded == 0
    assert opened.digest == sha256_hex((tmp_path / "bundle" / "manifest.json").read_bytes())
    for modality in built.modalities:
        assert opened.vectors[modality].tobytes() == built.vectors[modality].tobytes()


@pytest.mark.parametrize("name", ["text.npy", "present.npy", "items.json", "image.transform.safetensors"])
def test_one_changed_byte_is_refused_with_the_name_of_the_file(build: Build, tmp_path: Path, name: str) -> None:
    build()
    path = tmp_path / "bundle" / name
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(FeatureError, match=name) as refusal:
        open_bundle(tmp_path / "bundle")
    assert "again" in refusal.value.remedy
    path.unlink()
    with pytest.raises(FeatureError, match=name):
        open_bundle(tmp_path / "bundle")


def test_a_changed_vector_with_an_adjusted_manifest_has_another_digest(build: Build, tmp_path: Path) -> None:
    bundle, folder = build(), tmp_path / "bundle"
    content = bytearray((folder / "text.npy").read_bytes())
    content[-3] ^= 1
    (folder / "text.npy").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"]["text.npy"] = sha256_hex(bytes(content))
    (folder / "manifest.json").write_bytes(canonical_json(manifest))
    assert open_bundle(folder).digest != bundle.digest


@pytest.mark.parametrize("change", [{"files": {"../outside": "0"}}, {"format": 2}, {"files": []}, {"spare": 0.5}])
def test_a_manifest_that_is_not_one_is_refused(build: Build, tmp_path: Path, change: dict[str, object]) -> None:
    build()
    path = tmp_path / "bundle" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))
    with pytest.raises(FeatureError, match=r"manifest\.json"):
        open_bundle(tmp_path / "bundle")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(FeatureError, match=r"manifest\.json"):
        open_bundle(tmp_path / "bundle")
    with pytest.raises(FeatureError, match="nowhere"):
        open_bundle(tmp_path / "nowhere")


def test_the_digest_follows_ids_texts_encoder_and_transform(build: Build, shelf: object, text_model: Path) -> None:
    text = EncoderConfig(modality="text", source=str(text_model))
    digests = {
        build().digest,
        build(catalogue=replace(shelf, item_ids=(*shelf.item_ids[:-1], "other"))).digest,
        build(catalogue=replace(shelf, texts=("dry rose wine", *shelf.texts[1:]))).digest,
        build(encoders=[text]).digest,
        build(encoders=[text.model_copy(update={"max_tokens": 8})]).digest,
        build(transform=TransformConfig(dims=3, whiten=False)).digest,
        build(transform=TransformConfig(dims=4, whiten=True)).digest,
    }
    assert len(digests) == 7


def test_a_modality_that_is_gone_leaves_no_file_behind(build: Build, tmp_path: Path) -> None:
    build()
    bundle = build(encoders=[EncoderConfig(modality="audio")])
    assert bundle.modalities == ("audio",)
    assert not (tmp_path / "bundle" / "image.npy").exists()
    with pytest.raises(FeatureError, match="no image"):
        open_transform(tmp_path / "bundle", "image")


def test_a_new_item_gets_the_vector_it_would_have_in_the_catalogue(
    build: Build, encoders: tuple[EncoderConfig, ...], tmp_path: Path
) -> None:
    bundle = build()
    raw, _ = load_encoder(encoders[0]).encode(["cold beer"])
    vector = open_transform(tmp_path / "bundle", "text").apply(raw)
    np.testing.assert_allclose(vector[0], bundle.vectors["text"][3], atol=1e-4)


def test_progress_names_the_modality_and_ends_at_all_inputs(build: Build) -> None:
    told: list[tuple[str, int, int, int]] = []
    build(progress=lambda *step: told.append(step))
    assert [step for step in told if step[1] == step[2]] == [
        ("text", 6, 6, 0), ("image", 6, 6, 1), ("audio", 1, 1, 0),
    ]  # fmt: skip


def test_items_without_a_modality_do_not_move_its_statistics(build: Build, shelf: object) -> None:
    first = build()
    more = replace(
        shelf,
        item_ids=(*shelf.item_ids, "bare1", "bare2"),
        titles=(*shelf.titles, "", ""),
        texts=(*shelf.texts, "", ""),
        media={name: (*paths, None, None) for name, paths in shelf.media.items()},
    )
    second = build(catalogue=more)
    for modality in first.modalities:
        assert second.vectors[modality][:8].tobytes() == first.vectors[modality].tobytes()
    assert second.manifest["without_features"] == 3


def test_a_catalogue_without_anything_to_encode_is_refused(build: Build, shelf: object) -> None:
    bare = replace(shelf, titles=("",) * 8, texts=(" ",) * 8, media={})
    with pytest.raises(FeatureError, match="none of the 8 items"):
        build(catalogue=bare)


def test_the_manifest_says_what_every_encoder_is_and_under_which_licence(build: Build, text_model: Path) -> None:
    modalities = build().manifest["modalities"]
    for entry in modalities.values():
        encoder = entry["encoder"]
        assert set(encoder) == {"name", "digest", "recipe", "licence", "note", "dim"}
        assert recipe_digest(encoder["recipe"]) == encoder["digest"]
    weights = modalities["text"]["encoder"]["recipe"]["files"]["model.safetensors"]
    assert weights == sha256_hex((text_model / "model.safetensors").read_bytes())
    assert (modalities["text"]["encoder"]["licence"], modalities["image"]["encoder"]["licence"]) == (
        "unknown",
        "Apache-2.0",
    )


def test_an_encoder_that_learned_from_the_catalogue_travels_in_the_bundle(build: Build, tmp_path: Path) -> None:
    pytest.importorskip("gensim")
    bundle = build(encoders=[EncoderConfig(modality="text", source="word2vec")])
    entry = bundle.manifest["modalities"]["text"]
    assert (entry["encoded"], entry["corrupt"], entry["corrupt_items"]) == (5, 1, ["i5"])  # "apple juice" is all new
    partner = tmp_path / "partner"
    shutil.copytree(tmp_path / "bundle", partner)
    there = load_encoder(EncoderConfig(modality="text", source=str(encoder_folder(partner, "text"))))
    assert there.digest == entry["encoder"]["digest"]
    vector = open_transform(partner, "text").apply(there.encode(["cold beer"])[0])
    np.testing.assert_allclose(vector[0], bundle.vectors["text"][3], atol=1e-5)
    words = partner / "text.encoder" / "words.json"
    words.write_bytes(words.read_bytes().replace(b"beer", b"bear"))
    for opening in (open_bundle, lambda folder: encoder_folder(folder, "text")):
        with pytest.raises(FeatureError, match=r"words\.json"):
            opening(partner)
    assert build(encoders=[EncoderConfig(modality="audio")]).modalities == ("audio",)
    assert not (tmp_path / "bundle" / "text.encoder").exists()
    with pytest.raises(FeatureError, match="no text encoder"):
        encoder_folder(tmp_path / "bundle", "text")


@pytest.mark.parametrize("name", ["text.encoder/../x.json", "/text.encoder/x.json", "text.encoder/a/b.json", "x.npy"])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(build: Build, tmp_path: Path, name: str) -> None:
    build()
    path = tmp_path / "bundle" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    path.write_bytes(canonical_json({**manifest, "files": {**manifest["files"], name: "0" * 64}}))
    with pytest.raises(FeatureError, match="does not name the files"):
        open_bundle(tmp_path / "bundle")


def test_a_signature_is_by_the_given_key_over_this_bundle_and_part_of_no_digest(build: Build, tmp_path: Path) -> None:
    key, stranger = SigningKey.from_seed(b"k" * 32), SigningKey.from_seed(b"s" * 32)
    unsigned, folder = build(), tmp_path / "bundle"
    with pytest.raises(BundleSignatureError, match="not signed"):
        check_signature(folder, unsigned, key.public)
    signed = build(signing_key=key)
    assert signed.digest == unsigned.digest
    check_signature(folder, signed, key.public)
    with pytest.raises(BundleSignatureError, match=stranger.public.key_id):
        check_signature(folder, signed, stranger.public)
    other = build("other", encoders=[EncoderConfig(modality="audio")])
    shutil.copy(folder / "manifest.sig", tmp_path / "other" / "manifest.sig")
    with pytest.raises(BundleSignatureError, match="does not fit"):
        check_signature(tmp_path / "other", other, key.public)
    for content in ("", "{}", "[]", '{"signature": 3}', '{"signature": "00"}'):
        (folder / "manifest.sig").write_text(content)
        with pytest.raises(BundleSignatureError):
            check_signature(folder, signed, key.public)
    forged = key.sign(bytes.fromhex(signed.digest), domain=b"mmrec-request/v1\0")
    (folder / "manifest.sig").write_text(json.dumps({"key_id": key.public.key_id, "signature": forged}))
    with pytest.raises(BundleSignatureError, match="does not fit"):
        check_signature(folder, signed, key.public)
    build()
    assert not (folder / "manifest.sig").exists()


def test_two_encoders_for_one_modality_are_refused(build: Build) -> None:
    with pytest.raises(FeatureError, match="2 encoders"):
        build(encoders=[EncoderConfig(modality="text")] * 2)


@pytest.mark.parametrize(
    ("title", "text", "expected"),
    [
        ("Chianti", "A dry red.", "Chianti. A dry red."),
        ("Chianti", " ", "Chianti"),
        ("", " A dry red. ", "A dry red."),
        ("Chianti - Rocca", "A dry CHIANTI by Rocca.", "A dry CHIANTI by Rocca."),
        ("", "", ""),
    ],
)
def test_the_text_of_an_item_says_the_title_once(title: str, text: str, expected: str) -> None:
    assert item_text(title, text) == expected


def test_token_ids_are_those_the_encoder_reads_and_the_digest_pins_them(
    build: Build, shelf: object, encoders: tuple[EncoderConfig, ...], tmp_path: Path
) -> None:
    plain, bundle = build("plain"), build(tokens=True)
    assert plain.digest != bundle.digest
    assert (plain.tunable_encoder, open_tokens(tmp_path / "plain")) == (None, None)
    encoder = load_encoder(next(config for config in encoders if config.modality == "text"))
    assert bundle.tunable_encoder == encoder.digest
    found = open_tokens(tmp_path / "bundle")
    assert found is not None
    ids, offsets = found
    texts = [item_text(*pair) for pair in zip(shelf.titles, shelf.texts, strict=True)]
    expected = encoder.tokens(texts)
    assert [ids[start:stop].tolist() for start, stop in itertools.pairwise(offsets)] == expected
    assert [bool(one) for one in expected] == bundle.present_NM[:, 0].tolist()
    np.testing.assert_array_equal(bundle.vectors["text"], plain.vectors["text"])
    (tmp_path / "bundle" / "text.tokens.safetensors").write_bytes(b"damaged")
    with pytest.raises(FeatureError, match=r"text\.tokens"):
        open_bundle(tmp_path / "bundle")


def test_token_ids_that_do_not_fit_the_items_are_refused(build: Build, tmp_path: Path) -> None:
    build(tokens=True)
    content = tokens_bytes([[1, 2], [3]])
    (tmp_path / "bundle" / "text.tokens.safetensors").write_bytes(content)
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_bytes())
    manifest["files"]["text.tokens.safetensors"] = sha256_hex(content)
    (tmp_path / "bundle" / "manifest.json").write_bytes(canonical_json(manifest))
    with pytest.raises(FeatureError, match="texts of 8 items"):
        open_tokens(tmp_path / "bundle")


def test_token_ids_without_a_text_encoder_are_refused(build: Build, encoders: tuple[EncoderConfig, ...]) -> None:
    with pytest.raises(FeatureError, match="catalogue without texts"):
        build(encoders=[config for config in encoders if config.modality != "text"], tokens=True)


def test_a_bundle_built_again_without_tokens_leaves_none_behind(build: Build, tmp_path: Path) -> None:
    build(tokens=True)
    build()
    assert not (tmp_path / "bundle" / "text.tokens.safetensors").exists()
