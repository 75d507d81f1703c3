"""Laws of word vectors: what is missing, repeatable and refused, and that a fitted folder is the encoder."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.config import EncoderConfig
from mmrec_model.encoders.folder import write_encoder
from mmrec_model.encoders.interface import CatalogueEncoder, recipe_digest
from mmrec_model.encoders.registry import load_encoder
from mmrec_model.encoders.word2vec import read_published
from mmrec_model.encoders.wordvectors import WordVectorEncoder, document_weights, word_table
from mmrec_model.errors import EncoderError

WINE = ["a dry red wine from Spain", "red wine, dry", "a sweet white wine", "white wine from Spain"]
TEXTS = WINE * 12 + ["a diesel engine with cold oil", "oil for a diesel engine", "cold engine oil"] * 12
VECTORS = {"red": [1.0, 0.0], "Wine": [0.0, 2.0], "oil": [0.0, 0.0], "tea": [5.0, 5.0]}


def config(source: str = "word2vec", **changes: object) -> EncoderConfig:
    return EncoderConfig(modality="text", source=source, **changes)


def written(path: Path, vectors: dict[str, list[float]] = VECTORS) -> Path:
    """The word2vec text format, written by hand; binary and gzip by the file's name."""
    head = f"{len(vectors)} 2\n".encode()
    if ".bin" in path.suffixes:
        content = head + b"".join(
            word.encode() + b" " + np.array(one, dtype="<f4").tobytes() for word, one in vectors.items()
        )
    else:
        content = head + "".join(f"{word} {one[0]} {one[1]}\n" for word, one in vectors.items()).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.fixture(scope="module")
def trained() -> WordVectorEncoder:
    pytest.importorskip("gensim")
    encoder = load_encoder(config(), catalogue=TEXTS)
    assert isinstance(encoder, WordVectorEncoder)
    return encoder


def test_a_text_without_a_known_word_is_missing_and_others_are_not(trained: WordVectorEncoder) -> None:
    vectors, ok = trained.encode(["red WINE!", "zeppelin quark", "", "?!", "zeppelin wine"])
    assert ok.tolist() == [True, False, False, False, True]
    assert not vectors[~ok].any()
    assert np.linalg.norm(vectors[ok], axis=1).min() > 0
    np.testing.assert_array_equal(vectors[4], trained.encode(["wine"])[0][0])


def test_words_that_occur_together_are_near(trained: WordVectorEncoder) -> None:
    vectors, _ = trained.encode(["red", "white", "diesel", "oil"])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = unit @ unit.T
    assert min(likeness[0, 1], likeness[2, 3]) > max(likeness[0, 2], likeness[0, 3], likeness[1, 2], likeness[1, 3])


def test_training_is_the_same_whatever_pythons_hash_seed(trained: WordVectorEncoder) -> None:
    program = (
        "import json, sys; from mmrec_model.config import EncoderConfig;"
        "from mmrec_model.encoders.word2vec import load_word_encoder;"
        "config = EncoderConfig(modality='text', source='word2vec');"
        "sys.stdout.write(load_word_encoder(config, json.loads(sys.argv[1])).digest)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "4242"}
    command = [sys.executable, "-c", program, json.dumps(TEXTS)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == trained.digest


def test_the_digest_covers_the_fitted_vectors(trained: WordVectorEncoder) -> None:
    assert load_encoder(config(), catalogue=[*TEXTS, "one more red wine"]).digest != trained.digest
    assert recipe_digest(trained.recipe) == trained.digest


def test_a_written_folder_is_the_same_encoder_without_a_catalogue(trained: WordVectorEncoder, tmp_path: Path) -> None:
    assert isinstance(trained, CatalogueEncoder)
    write_encoder(trained, tmp_path / "words")
    opened = load_encoder(config(str(tmp_path / "words")))
    assert (opened.digest, opened.name, opened.note, opened.licence) == (
        trained.digest, trained.name, trained.note, trained.licence,
    )  # fmt: skip
    np.testing.assert_array_equal(opened.encode(TEXTS)[0], trained.encode(TEXTS)[0])


@pytest.mark.parametrize("name", ["words.json", "vectors.safetensors", "encoder.json"])
def test_a_folder_with_one_changed_byte_is_refused(trained: WordVectorEncoder, tmp_path: Path, name: str) -> None:
    write_encoder(trained, tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[-4] ^= 1
    (tmp_path / name).write_bytes(content)
    if name == "encoder.json":
        content = json.dumps({**json.loads((tmp_path / name).read_bytes().decode("utf-8", "replace")), "kind": "x"})
        (tmp_path / name).write_text(content)
    with pytest.raises(EncoderError, match=tmp_path.name):
        load_encoder(config(str(tmp_path)))


@pytest.mark.parametrize("name", ["v.bin", "v.bin.gz", "v.txt", "v.txt.gz", "v.vec"])
def test_published_vectors_are_read_for_the_words_of_the_catalogue(tmp_path: Path, name: str) -> None:
    pytest.importorskip("gensim")
    file = written(tmp_path / name)
    (tmp_path / "README.md").write_text("---\nlicense: pddl\n---\n")
    texts = ["red wine", "red oil", "red", "blue"]
    encoder = load_encoder(config(str(file)), catalogue=texts)
    vectors, ok = encoder.encode(["red", "wine", "oil", "tea", "blue", "red wine"])
    assert ok.tolist() == [True, True, False, False, False, True]
    np.testing.assert_allclose(vectors[:2], [[1, 0], [0, 2]])
    rare, frequent = np.log(5 / 2) + 1, np.log(5 / 4) + 1
    np.testing.assert_allclose(vectors[5], [frequent / (rare + frequent), 2 * rare / (rare + frequent)], rtol=1e-6)
    assert encoder.licence == "pddl"
    assert load_encoder(config(str(tmp_path)), catalogue=texts).digest == encoder.digest


@pytest.mark.parametrize("name", ["v.model", "v.kv", "v.npy"])
def test_pickles_are_refused_with_a_remedy_and_never_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04never read")
    for source in (tmp_path / name, tmp_path):
        with pytest.raises(EncoderError, match="pickle") as refusal:
            load_encoder(config(str(source)), catalogue=TEXTS)
        assert "save_word2vec_format" in refusal.value.remedy


@pytest.mark.parametrize("content", [b"", b"noise", b"3 2\nred 1 0\n", b"2 2\nred one two\n", b"9999999999999 300\n"])
def test_damaged_vectors_are_refused(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("gensim")
    for name in ("v.txt", "v.bin"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(EncoderError, match=name):
            read_published(tmp_path / name, {"red"})


def test_what_cannot_be_fitted_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gensim")
    with pytest.raises(EncoderError, match="none is given"):
        load_encoder(config())
    with pytest.raises(EncoderError, match="no word occurs 2 times"):
        load_encoder(config(), catalogue=["red", "wine"])
    with pytest.raises(EncoderError, match="none of the catalogue's"):
        load_encoder(config(str(written(tmp_path / "a.txt"))), catalogue=["blau"])
    with pytest.raises(EncoderError, match="pooling"):
        load_encoder(config(pooling="cls"), catalogue=TEXTS)
    with pytest.raises(EncoderError, match="dtype is bfloat16"):
        load_encoder(config(dtype="bfloat16"), catalogue=TEXTS)
    written(tmp_path / "b.bin")
    with pytest.raises(EncoderError, match="2 files"):
        load_encoder(config(str(tmp_path)), catalogue=TEXTS)
    with pytest.raises(EncoderError, match="not finite"):
        word_table({"red": np.array([np.nan, 1], np.float32)}, {"red": 1.0})


def test_without_gensim_the_remedy_is_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gensim", None)
    with pytest.raises(EncoderError, match="gensim") as refusal:
        load_encoder(config(), catalogue=TEXTS)
    assert "wordvectors" in refusal.value.remedy


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(alphabet="ab ", max_size=8), max_size=6))
def test_a_word_weighs_at_least_one_and_more_the_fewer_texts_have_it(texts: list[str]) -> None:
    weights = document_weights(texts)
    held = {word: sum(word in text.split() for text in texts) for word in weights}
    assert all(weight >= 1.0 for weight in weights.values())
    for one in weights:
        for other in weights:
            assert (held[one] < held[other]) == (weights[one] > weights[other])
