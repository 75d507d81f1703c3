"""Laws of the raw vector store: encode once, survive any crash, never return a damaged vector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.canonical import sha256_hex
from mmrec_model.errors import FeatureError
from mmrec_model.features.store import FeatureStore, media_key


class CountingEncoder:
    """Length and first letter of a text; refuses texts that start with "!", and stops after `stop_after` inputs."""

    modality = "text"
    name = "counting"
    note = "for tests"
    dim = 3

    def __init__(self, digest: str = "a" * 64, stop_after: int = 10**9) -> None:
        self.digest = digest
        self.seen: list[str] = []
        self.stop_after = stop_after

    def encode(self, inputs: Sequence[str | Path]) -> tuple[np.ndarray, np.ndarray]:
        texts = [one.read_text() if isinstance(one, Path) else one for one in inputs]
        if len(self.seen) + len(texts) > self.stop_after:
            raise KeyboardInterrupt
        self.seen += texts
        vectors = np.array([[len(text), ord(text[0]), 1] for text in texts], dtype=np.float32)
        ok = np.array([text[0] != "!" for text in texts])
        vectors[[text[0] == "?" for text in texts]] = np.nan
        return vectors, ok


def words(count: int) -> list[str]:
    return [f"word {number}" for number in range(count)]


def test_a_second_call_encodes_nothing_and_returns_the_same_bytes(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    first, ok, encoded = FeatureStore(tmp_path).get_or_encode(encoder, words(10))
    assert (encoded, len(encoder.seen)) == (10, 10)
    again, ok_again, encoded_again = FeatureStore(tmp_path).get_or_encode(encoder, words(10))
    assert (encoded_again, len(encoder.seen)) == (0, 10)
    assert first.tobytes() == again.tobytes()
    assert ok.all()
    assert ok_again.all()


def test_only_new_inputs_are_encoded_and_equal_ones_once(tmp_path: Path) -> None:
    encoder, store = CountingEncoder(), FeatureStore(tmp_path)
    store.get_or_encode(encoder, words(3))
    vectors, _, encoded = store.get_or_encode(encoder, ["new", "word 1", "new", "word 2"])
    assert encoded == 1
    assert encoder.seen[3:] == ["new"]
    assert vectors[:, 0].tolist() == [3, 6, 3, 6]


def test_two_encoders_never_share_a_vector(tmp_path: Path) -> None:
    store, other = FeatureStore(tmp_path), CountingEncoder("b" * 64)
    store.get_or_encode(CountingEncoder(), words(2))
    assert store.get_or_encode(other, words(2))[2] == 2


def test_what_could_not_be_encoded_is_remembered_and_what_was_absent_is_not(tmp_path: Path) -> None:
    encoder, store, file = CountingEncoder(), FeatureStore(tmp_path / "store"), tmp_path / "medium.txt"
    inputs = ["!broken", "fine", "?not a number", file]
    vectors, ok, encoded = store.get_or_encode(encoder, inputs)
    assert ok.tolist() == [False, True, False, False]
    assert not vectors[~ok].any()
    assert encoded == 3
    file.write_text("back again")
    _, ok, encoded = store.get_or_encode(encoder, inputs)
    assert ok.tolist() == [False, True, False, True]
    assert encoded == 1


def test_an_interrupted_run_resumes_where_it_stopped(tmp_path: Path) -> None:
    interrupted = CountingEncoder(stop_after=25)
    with pytest.raises(KeyboardInterrupt):
        FeatureStore(tmp_path).get_or_encode(interrupted, words(40), chunk=10)
    resumed = CountingEncoder()
    vectors, ok, encoded = FeatureStore(tmp_path).get_or_encode(resumed, words(40), chunk=10)
    assert encoded == 20
    assert resumed.seen == words(40)[20:]
    assert ok.all()
    assert vectors[:, 0].tolist() == [len(word) for word in words(40)]


def test_progress_counts_settled_and_unreadable_inputs_up_to_all_of_them(tmp_path: Path) -> None:
    store, told = FeatureStore(tmp_path), []
    store.get_or_encode(CountingEncoder(), words(4))
    inputs = [*words(9), "!no", "!no", tmp_path / "absent"]
    store.get_or_encode(CountingEncoder(), inputs, progress=lambda *counts: told.append(counts), chunk=4)
    assert told == [(5, 1), (9, 1), (12, 3)]


@settings(max_examples=60, deadline=None)
@given(cut_vectors=st.integers(0, 12 * 8), cut_index=st.integers(0, 900), noise=st.binary(max_size=20))
def test_after_a_crash_at_any_byte_every_vector_is_right(
    tmp_path_factory: pytest.TempPathFactory, cut_vectors: int, cut_index: int, noise: bytes
) -> None:
    root = tmp_path_factory.mktemp("store")
    encoder = CountingEncoder()
    expected, ok, _ = FeatureStore(root).get_or_encode(encoder, ["!no", *words(7)])
    folder = root / encoder.digest
    for name, cut in (("vectors.f32", cut_vectors), ("index.jsonl", cut_index)):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: max(0, len(content) - cut)] + noise)
    for _ in range(2):
        found, found_ok, encoded = FeatureStore(root).get_or_encode(encoder, ["!no", *words(7)])
        assert found.tobytes() == expected.tobytes()
        assert found_ok.tolist() == ok.tolist()
    assert encoded == 0


def test_a_vector_with_a_flipped_bit_is_encoded_again(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    expected, _, _ = FeatureStore(tmp_path).get_or_encode(encoder, words(5))
    path = tmp_path / encoder.digest / "vectors.f32"
    content = bytearray(path.read_bytes())
    content[12 * 2 + 1] ^= 4
    path.write_bytes(content)
    for encoded_anew in (1, 0):
        found, ok, encoded = FeatureStore(tmp_path).get_or_encode(encoder, words(5))
        assert encoded == encoded_anew
        assert ok.all()
        assert found.tobytes() == expected.tobytes()


def test_the_key_follows_the_content_and_not_the_file_name(tmp_path: Path) -> None:
    for name, content in {"a": "same", "b": "same", "c": "other"}.items():
        (tmp_path / name).write_text(content)
    a, b, c = (media_key("d" * 64, tmp_path / name) for name in "abc")
    assert a == b != c
    assert a == media_key("d" * 64, "same") == sha256_hex(f"{'d' * 64}:{sha256_hex(b'same')}".encode())
    assert media_key("e" * 64, "same") != a
    assert media_key("d" * 64, tmp_path / "absent") is None


def test_a_store_that_cannot_be_used_is_a_feature_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FeatureError, match="file"):
        FeatureStore(tmp_path / "file").get_or_encode(CountingEncoder(), words(1))


def test_a_full_disk_is_a_feature_error_although_writing_is_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FeatureError, match="No space left"):
        FeatureStore(tmp_path).get_or_encode(CountingEncoder(), words(8), chunk=3)
