"""Laws of the film encoder: the mean of its frames, whatever their order; damaged films are missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmrec_model.config import EncoderConfig
from mmrec_model.encoders.films import read_frames, spread
from mmrec_model.encoders.video import VideoEncoder, load_video_encoder

COLOURS = ["red", "lime", "blue", "yellow"]


def film(path: Path, colours: Sequence[str], *, each: int = 1) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "rgb24"
        for colour in colours:
            for _ in range(each):
                container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (32, 32), colour))))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def encoder() -> VideoEncoder:
    return load_video_encoder(EncoderConfig(modality="video", image_size=32, frames=4))


def test_a_film_is_the_mean_of_its_frames_in_any_order(encoder: VideoEncoder, tmp_path: Path) -> None:
    vectors, ok = encoder.encode([
        film(tmp_path / "forth.mov", COLOURS, each=5), film(tmp_path / "back.mov", COLOURS[::-1], each=5),
    ])  # fmt: skip
    assert ok.all()
    frames = encoder._image.encode_pictures([Image.new("RGB", (32, 32), colour) for colour in COLOURS])
    np.testing.assert_allclose(vectors[0], frames.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    assert np.abs(vectors[0] - frames[0]).max() > 0.01


@settings(max_examples=60, deadline=None)
@given(total=st.integers(0, 500), count=st.integers(1, 40))
def test_frames_are_spread_evenly_and_never_twice(total: int, count: int) -> None:
    taken = spread(total, count)
    assert len(taken) == min(total, count)
    assert taken == sorted(set(taken))
    assert all(0 <= frame < total for frame in taken)
    if len(taken) > 1:
        assert np.ptp(np.diff(taken)) <= 1


def test_a_film_shorter_than_the_frames_asked_for_gives_all_of_them(tmp_path: Path) -> None:
    frames = read_frames(film(tmp_path / "short.mov", COLOURS[:2]), 8)
    assert [tuple(frame[0, 0].tolist()) for frame in frames] == [(255, 0, 0), (0, 255, 0)]


def test_what_is_not_a_film_is_missing(encoder: VideoEncoder, tmp_path: Path) -> None:
    good = film(tmp_path / "good.mov", COLOURS)
    (tmp_path / "cut.mov").write_bytes(good.read_bytes()[:60])
    (tmp_path / "text.mp4").write_bytes(b"no film here")
    (tmp_path / "empty.mkv").write_bytes(b"")
    names = ["cut.mov", "good.mov", "text.mp4", "empty.mkv", "absent.avi"]
    vectors, ok = encoder.encode([tmp_path / name for name in names])
    assert ok.tolist() == [name == "good.mov" for name in names]
    assert not vectors[~ok].any()


def test_a_playlist_cannot_make_the_reader_open_another_file(tmp_path: Path) -> None:
    film(tmp_path / "secret.mov", COLOURS)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile secret.mov\n")
    segments = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mov\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(segments)
    assert read_frames(tmp_path / "list.mp4", 2) == []
    assert read_frames(tmp_path / "list.m3u8", 2) == []
    assert len(read_frames(tmp_path / "secret.mov", 2)) == 2


def test_the_number_of_frames_and_the_image_encoder_are_part_of_the_digest(encoder: VideoEncoder) -> None:
    more = load_video_encoder(EncoderConfig(modality="video", image_size=32, frames=5))
    wider = load_video_encoder(EncoderConfig(modality="video", image_size=64, frames=4))
    assert len({encoder.digest, more.digest, wider.digest}) == 3
