"""Laws of the film encoders: a mean knows no order, a recurrence does; stride and frames count; damage is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmrec_model.config import EncoderConfig
from mmrec_model.encoders.films import read_frames, spread
from mmrec_model.encoders.interface import recipe_digest
from mmrec_model.encoders.recurrent import RecurrentFilmEncoder, RecurrentSettings
from mmrec_model.encoders.video import VideoEncoder, load_video_encoder, save_film_network
from mmrec_model.errors import EncoderError

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


def video_config(**changes: object) -> EncoderConfig:
    return EncoderConfig(modality="video", **{"image_size": 32, "frames": 4, **changes})


def frame_mean(**changes: object) -> VideoEncoder:
    found = load_video_encoder(video_config(source="frame-mean", **changes))
    assert isinstance(found, VideoEncoder)
    return found


@pytest.fixture(scope="module")
def encoder() -> VideoEncoder:
    return frame_mean()


def test_a_film_is_the_mean_of_its_frames_in_any_order(encoder: VideoEncoder, tmp_path: Path) -> None:
    vectors, ok = encoder.encode([
        film(tmp_path / "forth.mov", COLOURS, each=5), film(tmp_path / "back.mov", COLOURS[::-1], each=5),
    ])  # fmt: skip
    assert ok.all()
    frames = encoder._image.encode_pictures([Image.new("RGB", (32, 32), colour) for colour in COLOURS])
    np.testing.assert_allclose(vectors[0], frames.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    assert np.abs(vectors[0] - frames[0]).max() > 0.01


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_recurrence_tells_a_film_from_the_same_film_backwards(
    cell: str, encoder: VideoEncoder, tmp_path: Path
) -> None:
    paths = [
        film(tmp_path / "forth.mov", COLOURS, each=3), film(tmp_path / "back.mov", COLOURS[::-1], each=3),
        film(tmp_path / "again.mov", COLOURS, each=3), film(tmp_path / "short.mov", COLOURS[:2]),
    ]  # fmt: skip
    recurrent = load_video_encoder(video_config(source=cell, batch_size=8))
    vectors, ok = recurrent.encode(paths)
    means, _ = encoder.encode(paths)
    assert ok.all()
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-6)
    np.testing.assert_allclose(means[0], means[1], atol=1e-5)
    assert np.abs(vectors[0] - vectors[1]).max() > 0.01
    alone = np.concatenate([recurrent.encode([path])[0] for path in paths])
    np.testing.assert_allclose(vectors, alone, atol=1e-5)
    assert cell in recurrent.name
    assert recurrent.digest != encoder.digest


def test_a_folder_of_a_trained_recurrence_knows_its_picture_network(tmp_path: Path, encoder: VideoEncoder) -> None:
    torch.manual_seed(0)
    network = RecurrentFilmEncoder(RecurrentSettings(width=encoder.dim, hidden=6))
    save_film_network(tmp_path / "net", network, image=encoder._image, note="trained on four colours")
    path = film(tmp_path / "film.mov", COLOURS)
    vectors, ok = load_video_encoder(video_config(source=str(tmp_path / "net"))).encode([path])
    frames = encoder._image.encode_pictures([Image.new("RGB", (32, 32), colour) for colour in COLOURS])
    with torch.inference_mode():
        expected = network(torch.from_numpy(frames)[None], torch.tensor([4]))
    assert ok.all()
    np.testing.assert_allclose(vectors, expected.numpy(), atol=1e-5)
    for change in ({"image_size": 40}, {"dtype": "bfloat16"}):
        with pytest.raises(EncoderError, match="was trained on") as refusal:
            load_video_encoder(video_config(source=str(tmp_path / "net"), **change))
        assert "image_size and dtype" in refusal.value.remedy
    (tmp_path / "net" / "README.md").write_text("---\nlicense: mit\n---\n")
    assert load_video_encoder(video_config(source=str(tmp_path / "net"))).licence == "mit, Apache-2.0"


@pytest.mark.parametrize("source", ["embedded", "gru"])
def test_a_shorter_number_format_is_another_encoder_with_nearly_the_same_vectors(source: str, tmp_path: Path) -> None:
    path = film(tmp_path / "film.mov", COLOURS)
    full, short = (load_video_encoder(video_config(source=source, dtype=one)) for one in ("float32", "bfloat16"))
    (expected, _), (found, ok) = full.encode([path]), short.encode([path])
    assert ok.all()
    assert short.digest == recipe_digest(short.recipe) != full.digest
    np.testing.assert_allclose(found, expected, rtol=0.1, atol=0.05)
    assert not np.array_equal(found, expected)


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


@pytest.mark.parametrize(("stride", "expected"), [(1, [0, 0, 0]), (3, [0, 1, 2]), (6, [0, 2]), (50, [0])])
def test_a_stride_takes_frames_from_the_beginning(tmp_path: Path, stride: int, expected: list[int]) -> None:
    path = film(tmp_path / "film.mov", ["black", "#010101", "#020202"], each=3)
    frames = read_frames(path, 3, stride)
    assert [int(frame[0, 0, 0]) for frame in frames] == expected


def test_films_are_decoded_alike_in_workers(tmp_path: Path) -> None:
    paths = [film(tmp_path / f"{shift}.mov", COLOURS[shift:] + COLOURS[:shift], each=2) for shift in range(4)]
    paths.append(tmp_path / "absent.mov")
    alone, together = (load_video_encoder(video_config(workers=workers)).encode(paths) for workers in (0, 1))
    assert alone[1].tolist() == together[1].tolist() == [True] * 4 + [False]
    assert alone[0].tobytes() == together[0].tobytes()


def test_frames_stride_and_the_image_encoder_are_part_of_the_digest(encoder: VideoEncoder) -> None:
    others = [video_config(frames=5), video_config(image_size=64), video_config(stride=2), video_config(stride=3)]
    digests = {load_video_encoder(other).digest for other in others}
    assert len(digests | {encoder.digest}) == 5
    assert frame_mean(stride=3).name.startswith("4-frames-3-apart-of-")
    assert encoder.name.startswith("4-frames-of-")


def moving(path: Path, steps: Sequence[tuple[int, int]], brightness: Sequence[float] | None = None) -> Path:
    """A white square on grey, at each of these places in turn."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 48, "rgb24"
        for number, (x, y) in enumerate(steps):
            light = 1.0 if brightness is None else brightness[number]
            picture = Image.new("RGB", (48, 48), tuple(round(light * 90) for _ in range(3)))
            picture.paste(tuple(round(light * 250) for _ in range(3)), (x, y, x + 12, y + 12))
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return path


def test_the_embedded_encoder_tells_directions_that_no_pool_over_single_frames_can_tell(tmp_path: Path) -> None:
    across = [(4 + 4 * step, 18) for step in range(8)]
    ways = {"right": across, "left": across[::-1], "down": [(y, x) for x, y in across]}
    again = [(x + 2, y + 3) for x, y in across]
    films = {name: moving(tmp_path / f"{name}.mov", steps) for name, steps in ways.items()}
    films["again"] = moving(tmp_path / "again.mov", again)
    sees, means = (
        dict(zip(films, load_video_encoder(config).encode(list(films.values()))[0], strict=True))
        for config in (
            video_config(frames=8, image_size=96),
            video_config(frames=8, image_size=96, source="frame-mean"),
        )
    )
    same = np.linalg.norm(sees["right"] - sees["again"])
    for other in ("left", "down"):
        assert np.linalg.norm(sees["right"] - sees[other]) > 3 * same
    assert np.linalg.norm(means["right"] - means["left"]) < 1e-4 * np.linalg.norm(means["right"])


def test_the_embedded_encoder_tells_dawn_from_dusk(tmp_path: Path) -> None:
    light = np.linspace(0.3, 1.0, 8)
    still = [(18, 18)] * 8
    dawn, dusk = moving(tmp_path / "dawn.mov", still, light), moving(tmp_path / "dusk.mov", still, light[::-1])
    vectors, ok = load_video_encoder(video_config(frames=8)).encode([dawn, dusk])
    assert ok.all()
    assert np.linalg.norm(vectors[0] - vectors[1]) > 0.05 * np.linalg.norm(vectors[0])


def test_a_short_film_has_a_vector_of_its_own_whatever_shares_its_batch(tmp_path: Path) -> None:
    short, long = film(tmp_path / "short.mov", COLOURS[:2]), film(tmp_path / "long.mov", COLOURS, each=2)
    seen = load_video_encoder(video_config())
    together, ok = seen.encode([short, long, tmp_path / "absent.mov"])
    twice = seen.encode([film(tmp_path / "twice.mov", COLOURS[:2], each=2)])[0]
    assert ok.tolist() == [True, True, False]
    np.testing.assert_allclose(seen.encode([short])[0][0], together[0], atol=1e-5)
    np.testing.assert_allclose(twice[0], together[0], atol=1e-5)


def test_the_embedded_encoder_reads_image_size_frames_and_stride() -> None:
    changes = [{}, {"image_size": 64}, {"frames": 5}, {"stride": 2}, {"dtype": "bfloat16"}]
    assert len({load_video_encoder(video_config(**change)).digest for change in changes}) == len(changes)
    assert load_video_encoder(video_config()).digest == load_video_encoder(video_config(batch_size=1)).digest
