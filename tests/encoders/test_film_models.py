"""Laws of published film models: their own frames and normalisation, digests of their files, and clear refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import VideoMAEConfig, VideoMAEImageProcessor, VideoMAEModel

from mmrec_model.config import EncoderConfig
from mmrec_model.encoders.clips import ClipEncoder
from mmrec_model.encoders.interface import recipe_digest
from mmrec_model.encoders.registry import load_encoder
from mmrec_model.errors import EncoderError

SIDE, FRAMES = 32, 4
COLOURS = ["red", "lime", "blue", "yellow"]
MEANS, DEVIATIONS = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny VideoMAE, saved as a published one is."""
    place = tmp_path_factory.mktemp("videomae")
    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=SIDE, patch_size=8, num_frames=FRAMES, tubelet_size=2, hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=32, license="cc-by-nc-4.0",
    )  # fmt: skip
    VideoMAEModel(config).save_pretrained(place)
    VideoMAEImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=MEANS,
        image_std=DEVIATIONS,
    ).save_pretrained(place)
    return place


def film(path: Path, colours: list[str]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 40, SIDE, "rgb24"
        for colour in colours:
            container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (40, SIDE), colour))))
        container.mux(stream.encode())
    return path


def load(folder: Path, **changes: object) -> ClipEncoder:
    values = {"modality": "video", "source": str(folder), "frames": FRAMES, **changes}
    found = load_encoder(EncoderConfig.model_validate(values))
    assert isinstance(found, ClipEncoder)
    return found


def test_a_film_is_the_mean_token_of_its_frames_as_the_models_own_processor_makes_them(
    folder: Path, tmp_path: Path
) -> None:
    vectors, ok = load(folder).encode([film(tmp_path / "film.mov", COLOURS), tmp_path / "absent.mov"])
    rgb_k3 = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], dtype=np.float32) / 255
    scaled_k3 = torch.from_numpy((rgb_k3 - np.array(MEANS, np.float32)) / np.array(DEVIATIONS, np.float32))
    pixels_1kCHW = scaled_k3[None, :, :, None, None].expand(1, FRAMES, 3, SIDE, SIDE)
    with torch.inference_mode():
        expected = VideoMAEModel.from_pretrained(folder)(pixel_values=pixels_1kCHW).last_hidden_state.mean(1)
    assert ok.tolist() == [True, False]
    np.testing.assert_allclose(vectors[0], expected[0].numpy(), atol=1e-4)
    assert not vectors[1].any()


def test_order_matters_and_a_short_film_is_filled_up(folder: Path, tmp_path: Path) -> None:
    paths = [
        film(tmp_path / "forth.mov", COLOURS), film(tmp_path / "back.mov", COLOURS[::-1]),
        film(tmp_path / "short.mov", COLOURS[:2]),
        film(tmp_path / "long.mov", [colour for colour in COLOURS[:2] for _ in range(2)]),
    ]  # fmt: skip
    vectors, ok = load(folder, batch_size=12).encode(paths)
    assert ok.all()
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    np.testing.assert_allclose(vectors[2], vectors[3], atol=1e-5)


def test_the_digest_covers_the_files_and_the_number_format_alone(folder: Path, tmp_path: Path) -> None:
    encoder = load(folder)
    assert encoder.digest == recipe_digest(encoder.recipe) == load(folder, batch_size=4).digest
    assert encoder.digest != load(folder, dtype="bfloat16").digest
    assert encoder.name.startswith("4-frames-videomae-")
    other = shutil.copytree(folder, tmp_path / "other")
    settings = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps({**settings, "image_std": [0.3, 0.3, 0.3]}))
    assert load(other).digest != encoder.digest
    assert encoder.licence == "cc-by-nc-4.0"


def test_another_number_of_frames_than_the_models_is_refused(folder: Path) -> None:
    with pytest.raises(EncoderError, match="frames is 8") as refusal:
        load(folder, frames=8)
    assert "frames to 4" in refusal.value.remedy


def test_a_folder_without_processor_or_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    refusals = {"preprocessor_config.json": "no readable picture processor", "model.safetensors": "cannot be read"}
    for missing, words in refusals.items():
        broken = shutil.copytree(folder, tmp_path / missing)
        (broken / missing).unlink()
        with pytest.raises(EncoderError, match=words):
            load(broken)
