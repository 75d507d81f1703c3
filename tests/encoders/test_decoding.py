"""Laws of decoding ahead: the same answers for any number of workers, in order, in bounded memory, whatever dies."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from PIL import Image

from mmrec_model.config import EncoderConfig
from mmrec_model.encoders import decoding
from mmrec_model.encoders.decoding import Decoder
from mmrec_model.encoders.reading import Arrays, Reading, parse_request, read, read_answer, write_answer, write_request
from mmrec_model.encoders.registry import load_encoder

PICTURE = Reading("picture")


def first(arrays: Arrays) -> np.ndarray:
    return arrays[0]


def decoder(workers: int, *, ahead: int = 2, reading: Reading = PICTURE) -> Decoder[np.ndarray]:
    return Decoder(reading, first, workers=workers, ahead=ahead)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{shade}.png" for shade in range(12)]
    for shade, path in enumerate(paths):
        Image.new("RGB", (8 + shade, 9), (shade, 0, 255)).save(path)
    paths[5].write_bytes(b"damaged")
    paths[7].unlink()
    return paths


def test_any_number_of_workers_gives_the_same_answers_in_order(pictures: list[Path]) -> None:
    alone, together = (list(decoder(workers).decode(pictures)) for workers in (0, 2))
    assert [one is None for one in alone] == [position in {5, 7} for position in range(12)]
    for here, there in zip(alone, together, strict=True):
        np.testing.assert_array_equal(here, there)
    assert together[11].shape == (9, 19, 3)


def test_no_more_than_the_look_ahead_is_taken_from_the_list(pictures: list[Path]) -> None:
    taken: list[Path] = []

    def watched() -> Iterator[Path]:
        for path in pictures:
            taken.append(path)
            yield path

    stream = decoder(1, ahead=3).decode(watched())
    next(stream)
    assert len(taken) == 1 + 1 + 3
    stream.close()


@pytest.mark.parametrize("how", ["killed", "hung"])
def test_a_worker_that_ends_costs_its_file_at_most(
    pictures: list[Path], how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The process is killed, or stopped for longer than anyone waits, whenever it is asked for one of the files."""
    pool, ask = decoder(1), decoding.write_request
    running: list[subprocess.Popen[bytes]] = []
    start = decoding._start

    def started() -> subprocess.Popen[bytes]:
        running.append(start())
        return running[-1]

    def attack(stream: io.BufferedIOBase, reading: Reading, path: Path) -> None:
        ends = path == pictures[2]
        monkeypatch.setattr(decoding, "PATIENCE_SECONDS", 0.2 if ends and how == "hung" else 60.0)
        if ends:
            os.kill(running[-1].pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        ask(stream, reading, path)

    monkeypatch.setattr(decoding, "_FAREWELL_SECONDS", 0.1)
    monkeypatch.setattr(decoding, "_start", started)
    monkeypatch.setattr(decoding, "write_request", attack)
    with caplog.at_level(logging.WARNING):
        found = list(pool.decode(pictures[:5]))
    assert [one is None for one in found] == [False, False, True, False, False]
    assert len(running) == 3
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert all(str(pictures[2]) in warning for warning in warnings)
    assert "counted as unreadable" in warnings[1]


def test_a_file_whose_worker_died_by_chance_is_read_after_all(
    pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, ask = decoder(1), decoding.write_request
    asked: list[Path] = []

    def attack(stream: io.BufferedIOBase, reading: Reading, path: Path) -> None:
        asked.append(path)
        if len(asked) == 2:
            raise BrokenPipeError
        ask(stream, reading, path)

    monkeypatch.setattr(decoding, "write_request", attack)
    assert [one is None for one in pool.decode(pictures[:3])] == [False, False, False]
    assert asked == [pictures[0], pictures[1], pictures[1], pictures[2]]


@settings(max_examples=60, deadline=None)
@given(st.lists(arrays_of.arrays(np.float32, arrays_of.array_shapes(min_dims=1, max_dims=3, min_side=0)), max_size=4))
def test_an_answer_comes_back_as_it_was_sent(sent: list[np.ndarray]) -> None:
    stream = io.BytesIO()
    write_answer(stream, sent or None)
    stream.seek(0)
    found = read_answer(stream)
    assert (found is None) == (not sent)
    for one, other in zip(sent, found or [], strict=True):
        assert other.dtype == np.float32
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", EOFError),
        (b'{"type":"uint8","shapes":[[4]]}\n123', EOFError),
        (b'{"type":"object","shapes":[[1]]}\n12345678', ValueError),
        (b'{"type":"uint8","shapes":[[-4]]}\n1234', ValueError),
        (b'{"type":"uint8","shapes":[[99999999999999]]}\n1', ValueError),
        (b"nonsense\n", ValueError),
    ],
)
def test_an_answer_that_is_none_is_refused(content: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_answer(io.BytesIO(content))


@pytest.mark.parametrize("name", ["plain", "line\nbreak", "quote\"'", "umläut", b"not-utf8-\xff"])
def test_a_request_holds_any_path(name: str | bytes) -> None:
    path = Path(os.fsdecode(name) if isinstance(name, bytes) else name)
    reading, stream = Reading("film", frames=3, stride=2), io.BytesIO()
    write_request(stream, reading, path)
    assert stream.getvalue().count(b"\n") == 1
    assert parse_request(stream.getvalue()) == (reading, path)


def test_decoding_needs_no_torch(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(4000.0)), 16_000)
    program = (
        "import sys; from pathlib import Path; import mmrec_model.encoders.decoding_worker;"
        "from mmrec_model.encoders.reading import Reading, read;"
        f"folder = Path({str(tmp_path)!r});"
        "[read(Reading(kind), folder / name) for kind, name in"
        " [('picture', 'a.png'), ('heard', 'a.wav'), ('levels', 'a.wav'), ('film', 'a.wav')]];"
        "sys.exit(bool({'torch', 'transformers', 'torchvision'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_workers_end_with_their_decoder(pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[subprocess.Popen[bytes]] = []
    start = decoding._start
    monkeypatch.setattr(decoding, "_start", lambda: running.append(start()) or running[-1])
    threads = threading.active_count()
    pool = decoder(2)
    list(pool.decode(pictures))
    del pool
    assert running
    assert all(process.wait(10) is not None for process in running)
    for thread in threading.enumerate():
        if thread.name.startswith("decoding"):
            thread.join(10)
    assert threading.active_count() <= threads


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_the_vectors_do_not_depend_on_the_workers(tmp_path: Path, pictures: list[Path], modality: str) -> None:
    inputs = pictures
    if modality == "audio":
        inputs = [tmp_path / f"{pitch}.wav" for pitch in range(1, 6)]
        for pitch, path in enumerate(inputs, start=1):
            soundfile.write(path, 0.3 * np.sin(np.arange(9000) * pitch / 9), 16_000)
    config = EncoderConfig(modality=modality, image_size=32, batch_size=4)
    (alone, alone_ok), (together, together_ok) = (
        load_encoder(config.model_copy(update={"workers": workers})).encode(inputs) for workers in (0, 2)
    )
    assert alone_ok.tolist() == together_ok.tolist()
    assert alone.tobytes() == together.tobytes()
    assert alone_ok.sum() == (10 if modality == "image" else 5)


def test_reading_in_the_caller_gives_what_the_reader_gives(pictures: list[Path]) -> None:
    found = read(PICTURE, pictures[3])
    assert found is not None
    assert found[0][0, 0].tolist() == [3, 0, 255]
    assert read(PICTURE, pictures[5]) is None
