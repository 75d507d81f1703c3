"""Laws of the picture encoders: what is read, what is refused, what the digest names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from mmrec_model.config import EncoderConfig
from mmrec_model.encoders.image import ImageEncoder
from mmrec_model.encoders.pictures import read_picture
from mmrec_model.encoders.registry import load_encoder
from mmrec_model.encoders.torchvision_networks import architecture_of, take_classifier_off
from mmrec_model.encoders.vision import load_image_encoder
from mmrec_model.errors import EncoderError


def config(source: str = "embedded", **changes: object) -> EncoderConfig:
    return EncoderConfig(modality="image", source=source, **changes)


@pytest.fixture(scope="module")
def embedded() -> ImageEncoder:
    return load_image_encoder(config(batch_size=4))


def draw(path: Path, colour: str, *, offset: int = 0, stripes: bool = False) -> Path:
    picture = Image.new("RGB", (80, 80), "white")
    pen = ImageDraw.Draw(picture)
    pen.rectangle((15 + offset, 15 + offset, 55 + offset, 55 + offset), fill=colour)
    if stripes:
        for x in range(0, 80, 6):
            pen.line((x, 0, x, 80), fill="black", width=2)
    picture.save(path)
    return path


def test_pictures_alike_in_colour_and_texture_are_nearest(embedded: ImageEncoder, tmp_path: Path) -> None:
    kinds = [("red", False), ("blue", False), ("red", True), ("blue", True)]
    paths = [
        draw(tmp_path / f"{number}-{offset}.png", colour, offset=offset, stripes=stripes)
        for number, (colour, stripes) in enumerate(kinds)
        for offset in (0, 7)
    ]
    vectors, ok = embedded.encode(paths)
    assert ok.all()
    assert vectors.dtype == np.float32
    centred = vectors - vectors.mean(axis=0)
    likeness = centred @ centred.T / np.outer(*(np.linalg.norm(centred, axis=1),) * 2)
    np.fill_diagonal(likeness, -2)
    assert (likeness.argmax(axis=1) // 2 == np.arange(8) // 2).all()


def test_what_is_not_a_picture_is_missing_and_its_neighbours_are_not(embedded: ImageEncoder, tmp_path: Path) -> None:
    good = draw(tmp_path / "good.png", "red")
    truncated = tmp_path / "truncated.png"
    truncated.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    for name, content in {
        "empty.png": b"",
        "text.jpg": b"not a picture",
        "vector.eps": b"%!PS-Adobe-3.0 EPSF-3.0",
    }.items():
        (tmp_path / name).write_bytes(content)
    Image.open(good).save(tmp_path / "format.ppm")
    names = ["empty.png", "good.png", "text.jpg", "absent.png", "vector.eps", "format.ppm", "truncated.png", "good.png"]
    vectors, ok = embedded.encode([tmp_path / name for name in names])
    assert ok.tolist() == [name == "good.png" for name in names]
    np.testing.assert_allclose(vectors[1], vectors[7], atol=1e-6)
    assert not vectors[~ok].any()


def test_pictures_that_would_fill_the_memory_are_refused_before_decoding(tmp_path: Path) -> None:
    Image.new("1", (8_000, 8_000)).save(tmp_path / "large.png")
    Image.new("L", (4, 200)).save(tmp_path / "ribbon.png")
    assert read_picture(tmp_path / "large.png") is None
    assert read_picture(tmp_path / "ribbon.png") is None


def test_orientation_is_applied_and_transparent_means_white(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    turned, clear = read_picture(tmp_path / "turned.jpg"), read_picture(tmp_path / "clear.png")
    assert turned is not None
    assert turned.size == (20, 40)
    assert clear is not None
    assert clear.getpixel((3, 3)) == (255, 255, 255)


def test_the_configured_network_is_the_same_on_every_machine_and_its_size_is_part_of_it(embedded: ImageEncoder) -> None:
    assert embedded.digest == "7194af24588476dd4a89edbad4ffdde54ec03eef0216fd9978130996185bdf65"
    assert load_image_encoder(config(image_size=64)).digest != embedded.digest
    assert "no meaning" in embedded.note


def test_a_torchvision_state_in_a_folder_gives_what_its_last_layer_reads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"weights": "ResNet18_Weights.IMAGENET1K_V1"}))
    encoder = load_image_encoder(config(str(tmp_path)))
    path = draw(tmp_path / "red.png", "red")
    vectors, ok = encoder.encode([path])
    assert ok.all()
    assert encoder.dim == 512
    with torch.inference_mode():
        pixels = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()(Image.open(path))[None]
        expected = network(pixels)
        found = network.fc(torch.from_numpy(vectors))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("named", ["torchvision:resnet18", "torchvision:ResNet18_Weights.IMAGENET1K_V1"])
def test_a_torchvision_network_and_a_local_state_are_named_in_one_source(tmp_path: Path, named: str) -> None:
    torch.manual_seed(0)
    state = torchvision.models.resnet18(weights=None).state_dict()
    save_file({**state, "fc.weight": torch.ones(7, 512), "fc.bias": torch.ones(7)}, tmp_path / "model.safetensors")
    (tmp_path / "README.md").write_text("---\nlicense: bsd-3-clause\n---\n")
    encoder = load_image_encoder(config(f"{named}@{tmp_path / 'model.safetensors'}"))
    assert (encoder.dim, encoder.licence) == (512, "bsd-3-clause")
    assert load_image_encoder(config(f"{named}@{tmp_path}")).digest == encoder.digest
    assert "ImageClassification" in str(encoder.recipe["transform"])
    with pytest.raises(EncoderError, match="architecture") as refusal:
        load_image_encoder(config(str(tmp_path / "model.safetensors")))
    assert "torchvision:" in refusal.value.remedy
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(EncoderError, match="cannot be read"):
        load_image_encoder(config(f"{named}@{tmp_path}"))


@pytest.mark.parametrize(
    ("name", "width", "removed"),
    [
        ("resnet50", 2048, ["fc."]),
        ("vgg11", 512, ["classifier.0.", "classifier.6."]),
        ("alexnet", 256, ["classifier.1.", "classifier.6."]),
        ("vit_b_16", 768, ["heads.head."]),
        ("convnext_tiny", 768, ["classifier.2."]),
        ("efficientnet_b0", 1280, ["classifier.1."]),
        ("mobilenet_v3_small", 576, ["classifier.0.", "classifier.3."]),
        ("swin_t", 768, ["head."]),
        ("shufflenet_v2_x0_5", 1024, ["fc."]),
        ("densenet121", 1024, ["classifier."]),
    ],
)
def test_every_family_ends_in_the_global_pool_before_its_classifier(name: str, width: int, removed: list[str]) -> None:
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None).eval()
        weighted = {key for key in network.state_dict() if key.startswith(tuple(removed))}
        prefixes = take_classifier_off(network)
        assert network(torch.zeros(2, 3, 224, 224)).flatten(1).shape == (2, width)
    assert set(removed) <= set(prefixes)
    assert weighted
    assert not any(key.startswith(prefixes) for key in network.state_dict())
    assert architecture_of(torchvision.models.get_model_weights(name)["DEFAULT"]) == name


def test_a_network_without_a_linear_layer_is_refused() -> None:
    with torch.device("meta"), pytest.raises(EncoderError, match="no linear layer"):
        take_classifier_off(torchvision.models.squeezenet1_0(weights=None))


def test_a_torchvision_state_of_another_architecture_is_refused(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"weights": "ResNet18_Weights.IMAGENET1K_V1"}))
    with pytest.raises(EncoderError, match="do not fit"):
        load_image_encoder(config(str(tmp_path)))


def test_weights_that_are_unknown_or_not_at_hand_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(EncoderError, match="no weights named"):
        load_image_encoder(config("ResNet19_Weights.BEST"))
    with pytest.raises(EncoderError, match="no weights named"):
        load_image_encoder(config("torchvision:resnet19"))
    for source in ("ResNet18_Weights.IMAGENET1K_V1", "torchvision:resnet18", "torchvision:vit_b_16"):
        with pytest.raises(EncoderError, match="switched off") as refusal:
            load_image_encoder(config(source))
        assert "safetensors" in refusal.value.remedy


def test_the_small_cnn_is_the_same_on_every_machine_and_sees_colour(tmp_path: Path) -> None:
    encoder = load_image_encoder(config("small-cnn", image_size=64))
    assert encoder.digest == "b586fcdb198e4a0302cbdae613c6066cb5c7d185225c51470b3c4bc59e312027"
    paths = [draw(tmp_path / f"{number}.png", colour) for number, colour in enumerate(["red", "darkred", "blue"])]
    vectors, ok = encoder.encode([*paths, tmp_path / "absent.png"])
    assert ok.tolist() == [True, True, True, False]
    assert encoder.dim == 256
    assert np.linalg.norm(vectors[0] - vectors[1]) < np.linalg.norm(vectors[0] - vectors[2])
    assert load_image_encoder(config("small-cnn", image_size=32)).encode(paths)[1].all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_shorter_number_format_is_another_encoder_with_nearly_the_same_vectors(tmp_path: Path, dtype: str) -> None:
    path = draw(tmp_path / "red.png", "red")
    full, short = (load_image_encoder(config("small-cnn", dtype=one)) for one in ("float32", dtype))
    (expected, _), (found, ok) = full.encode([path]), short.encode([path])
    assert ok.all()
    assert short.digest != full.digest
    np.testing.assert_allclose(found, expected, rtol=0.1, atol=0.05)
    assert not np.array_equal(found, expected)


def test_a_transformers_folder_is_a_picture_encoder_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    ViTModel(shape, add_pooling_layer=False).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    encoder = load_encoder(config(str(tmp_path)))
    vectors, ok = encoder.encode([draw(tmp_path / "a.png", "red"), draw(tmp_path / "b.png", "blue")])
    assert ok.all()
    assert vectors.shape == (2, 16)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
