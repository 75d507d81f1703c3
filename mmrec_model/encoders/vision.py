"""Which network looks at pictures: torchvision weights by name, a local folder, a hub id, or one made by configuration.

    embedded                          first stages of a ResNet-18 (He et al. 2016) with seeded weights
    ResNet50_Weights.IMAGENET1K_V2    any torchvision classification weights, with their own transforms
    FOLDER with `weights` in config   the same, from a local `model.safetensors` (see docs/features.md)
    FOLDER or hub id of transformers  ViT, CLIP, ... through `AutoModel` and `AutoImageProcessor`

The configured network pools mean and spread of stem and first stage. On drawn pictures (6 colours, 4 shapes, 4
textures) that found all three right among the five nearest pictures 20 times as often as chance (22 % against 1 %),
the last stage 8 times (9 %): random depth forgets. Shapes: B pictures, C channels, H x W pixels, D width.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mmrec_model.config import EncoderConfig
from mmrec_model.encoders.hub import file_digests, freeze, load_network, offline, quiet_transformers, resolve_folder
from mmrec_model.encoders.image import ImageEncoder, VisionNetwork
from mmrec_model.encoders.interface import recipe_digest
from mmrec_model.encoders.seeded import fill_seeded, state_digest
from mmrec_model.errors import EncoderError

_RESIDUAL_SCALE = 0.3


def load_image_encoder(config: EncoderConfig) -> ImageEncoder:
    """The encoder that `config` names.

    Raises:
        EncoderError: the source cannot be loaded, or has no usable picture network.
    """
    source = config.source
    if source == "embedded":
        vision = configured_vision(config.image_size)
    elif "_Weights." in source and not Path(source).is_dir():
        vision = _torchvision_weights(source)
    else:
        folder = resolve_folder(source)
        named = _named_weights(folder)
        vision = _transformers_folder(folder) if named is None else _torchvision_folder(folder, named)
    try:
        return ImageEncoder(vision, config)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise EncoderError(
            f"{vision.name} gives no vector for a picture ({type(error).__name__}: {str(error)[:120]})",
            remedy="Choose a picture network such as ResNet50_Weights.IMAGENET1K_V2",
        ) from error


class _StagePool(nn.Module):
    """Mean and standard deviation over the picture of every channel after the stem and after the first stage."""

    def __init__(self, network: torchvision.models.ResNet) -> None:
        super().__init__()
        self.stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        self.stage = network.layer1

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        stem_BCHW = self.stem(pixels_BCHW)
        stages = (stem_BCHW, self.stage(stem_BCHW))
        pooled = [part for stage in stages for part in (stage.mean((2, 3)), stage.std((2, 3), correction=0))]
        return torch.cat(pooled, dim=1)


def configured_vision(size: int) -> VisionNetwork:
    """The network made by configuration, for pictures squeezed to `size` x `size` pixels."""
    network = _StagePool(torchvision.models.resnet18(weights=None))
    fill_seeded(network, gain=2.0**0.5)
    with torch.no_grad():
        for block in network.stage:
            block.bn2.weight.fill_(_RESIDUAL_SCALE)

    def prepare(picture: Image.Image) -> Tensor:
        pixels_HWC = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)
        return torch.from_numpy((pixels_HWC / 255.0 - 0.5) / 0.25).permute(2, 0, 1)

    digest = recipe_digest({
        "kind": "image", "size": size, "resize": "bilinear", "scale": "(x-.5)/.25", "pool": "mean+std of stem, stage 1",
        "weights": state_digest(network),
    })  # fmt: skip
    note = "random weights made by configuration: carries colour and texture, no meaning"
    return VisionNetwork(freeze(network), prepare, f"configured-resnet-stem-{size}", digest, note)


def _torchvision_weights(name: str) -> VisionNetwork:
    """Published weights by enum name; fetched into torch's own cache unless the environment says offline."""
    weights = _weights_enum(name)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    if offline() and not cached.is_file():
        raise EncoderError(
            f"the weights {name} are not in torch's cache and downloads are switched off",
            remedy="Fetch them once without HF_HUB_OFFLINE, or give a folder with model.safetensors",
        )
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # any type: network, hash and file errors have no common type
        raise EncoderError(
            f"the weights {name} cannot be loaded ({type(error).__name__})",
            remedy="Fetch them once with network access, or give a folder with model.safetensors",
        ) from error
    return _classifier_body(name, weights, state, note=f"published torchvision weights {name}")


def _torchvision_folder(folder: Path, name: str) -> VisionNetwork:
    try:
        state = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise EncoderError(
            f"{folder.name}/model.safetensors cannot be read ({type(error).__name__})",
            remedy=f"Save the state of {name} there with safetensors.torch.save_file",
        ) from error
    return _classifier_body(name, _weights_enum(name), state, note=f"{name} architecture, weights of a local folder")


def _classifier_body(
    name: str, weights: torchvision.models.WeightsEnum, state: dict[str, Tensor], *, note: str
) -> VisionNetwork:
    """A torchvision classifier whose last linear layer is taken off: what it read is the vector."""
    network = torchvision.models.get_model(_architecture(name), weights=None)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise EncoderError(
            f"the weights do not fit {name}: {str(error).splitlines()[0][:120]}",
            remedy="Give the complete state of exactly this architecture",
        ) from error
    linear = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise EncoderError(f"{name} has no linear layer to take off", remedy="Choose a ResNet, VGG, ConvNeXt or ViT")
    weights_digest = state_digest(network)
    network.set_submodule(linear[-1], nn.Identity())
    transform = weights.transforms()
    digest = recipe_digest({
        "kind": "image", "transform": repr(transform), "pool": f"input of {linear[-1]}", "weights": weights_digest,
    })  # fmt: skip
    short = f"{_architecture(name)}-{weights_digest[:12]}"
    return VisionNetwork(freeze(network), transform, short, digest, note)


def _transformers_folder(folder: Path) -> VisionNetwork:
    from transformers import AutoImageProcessor  # noqa: PLC0415 - seconds to import

    network = load_network(folder)
    try:
        with quiet_transformers():
            processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
                folder, local_files_only=True
            )
    except Exception as error:  # any type: a damaged file may fail in any layer of the library
        raise EncoderError(
            f"{folder.name} has no readable picture processor ({type(error).__name__})",
            remedy="Give the folder of a published vision model, with preprocessor_config.json",
        ) from error

    def prepare(picture: Image.Image) -> Tensor:
        pixels_BCHW: Tensor = processor(images=picture, return_tensors="pt")["pixel_values"]
        return pixels_BCHW[0]

    digest = recipe_digest({"kind": "image", "files": file_digests(folder), "pool": "image features or token mean"})
    name = f"{getattr(network.config, 'model_type', 'vision')}-{digest[:12]}"
    return VisionNetwork(freeze(_TokenMean(network)), prepare, name, digest, "weights of a transformers vision model")


class _TokenMean(nn.Module):
    """The picture's vector in a text-picture space where the model has one, else the mean over tokens or pixels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        joint = getattr(self.network, "get_image_features", None)
        if callable(joint):
            features = joint(pixel_values=pixels_BCHW)
            vector_BD: Tensor = features if isinstance(features, Tensor) else features.pooler_output
            return vector_BD
        state: Tensor = self.network(pixel_values=pixels_BCHW).last_hidden_state
        return state.mean(1) if state.ndim == 3 else state.mean((2, 3))


def _weights_enum(name: str) -> torchvision.models.WeightsEnum:
    try:
        return torchvision.models.get_weight(name)
    except ValueError as error:
        raise EncoderError(
            f"torchvision has no weights named {name!r}",
            remedy="Write the enum and the member, as in ResNet50_Weights.IMAGENET1K_V2",
        ) from error


def _architecture(name: str) -> str:
    return name.split("_Weights.", 1)[0].lower()


def _named_weights(folder: Path) -> str | None:
    """The torchvision enum member that a folder's config.json names under `weights`, or None."""
    try:
        named = json.loads((folder / "config.json").read_text("utf-8")).get("weights")
    except (OSError, ValueError, AttributeError):
        return None
    return named if isinstance(named, str) else None
