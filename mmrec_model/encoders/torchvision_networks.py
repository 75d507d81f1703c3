"""Torchvision's picture classifiers without their classifier: what remains ends in the global pool.

    torchvision:resnet50                        the architecture's best published weights, with their own transforms
    torchvision:ResNet50_Weights.IMAGENET1K_V1  these published weights; `torchvision:` may be left out
    torchvision:resnet50@PATH                   weights of a local safetensors file, or of `model.safetensors` in PATH
    FOLDER, `weights` in its config.json        the same from a folder that names its architecture itself

The classifier is everything from its first linear layer on; a pool of several cells (VGG, AlexNet) is made global. So
ResNet, ConvNeXt, EfficientNet, RegNet, Swin, VGG, ... give the mean over the picture, ViT its class token. Published
weights come from torch's own cache, or are fetched into it unless the environment says offline.
"""

from __future__ import annotations

import json
from itertools import takewhile
from pathlib import Path

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mmrec_model.encoders.hub import freeze, offline
from mmrec_model.encoders.image import VisionNetwork
from mmrec_model.encoders.interface import UNKNOWN_LICENCE, Recipe
from mmrec_model.encoders.licence import published_licence
from mmrec_model.encoders.seeded import state_digest
from mmrec_model.errors import EncoderError

PREFIX = "torchvision:"
_STATE = "model.safetensors"


def torchvision_network(source: str) -> VisionNetwork | None:
    """The network of one of the forms above, or None if `source` is of another kind.

    Raises:
        EncoderError: torchvision does not know it, its weights are not at hand, damaged or of another architecture.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        named = _named_weights(folder)
        return None if named is None else _from_file(named, folder)
    if folder.suffix == ".safetensors" and folder.is_file() and not source.startswith(PREFIX):
        raise EncoderError(
            f"{folder.name} does not say of which architecture its weights are",
            remedy=f"Write the source as {PREFIX}resnet50@{source}, with the architecture's name",
        )
    if not source.startswith(PREFIX) and "_Weights." not in source:
        return None
    name, _, place = source.removeprefix(PREFIX).partition("@")
    return _from_file(name, Path(place).expanduser()) if place else _published(name)


def _published(name: str) -> VisionNetwork:
    weights = _weights(name)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    if offline() and not cached.is_file():
        raise EncoderError(
            f"the weights {weights} are not in torch's cache and downloads are switched off",
            remedy=f"Fetch them once without HF_HUB_OFFLINE, or write {PREFIX}{name}@ and a local safetensors file",
        )
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # any type: network, hash and file errors have no common type
        raise EncoderError(
            f"the weights {weights} cannot be loaded ({type(error).__name__})",
            remedy=f"Fetch them once with network access, or write {PREFIX}{name}@ and a local safetensors file",
        ) from error
    note = f"published torchvision weights {weights}"
    return _without_classifier(weights, state, note=note, licence=_licence_of(weights))


def _from_file(name: str, place: Path) -> VisionNetwork:
    weights = _weights(name)
    file = place / _STATE if place.is_dir() else place
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise EncoderError(
            f"{file.parent.name}/{file.name} cannot be read ({type(error).__name__})",
            remedy=f"Save the state of {name} there with safetensors.torch.save_file",
        ) from error
    licence = published_licence(file.parent)
    return _without_classifier(weights, state, note=f"{name} architecture, weights of a local file", licence=licence)


def _without_classifier(
    weights: torchvision.models.WeightsEnum, state: dict[str, Tensor], *, note: str, licence: str
) -> VisionNetwork:
    architecture = architecture_of(weights)
    network = torchvision.models.get_model(architecture, weights=None)
    removed = take_classifier_off(network)
    if hasattr(network, "transform_input"):  # Inception and GoogLeNet bring pictures of their weights' kind back
        network.transform_input = True
    kept = {name: value for name, value in state.items() if not name.startswith(removed)}
    try:
        network.load_state_dict(kept)
    except RuntimeError as error:
        raise EncoderError(
            f"the weights do not fit {weights}: {' '.join(str(error).split())[:120]}",
            remedy="Give the complete state of exactly this architecture",
        ) from error
    transform = weights.transforms()
    digest = state_digest(network)
    recipe: Recipe = {
        "kind": "image", "architecture": architecture, "transform": " ".join(repr(transform).split()),
        "pool": f"input of {removed[0]}", "weights": digest,
    }  # fmt: skip
    return VisionNetwork(freeze(network), transform, f"{architecture}-{digest[:12]}", recipe, note, licence)


def take_classifier_off(network: nn.Module) -> tuple[str, ...]:
    """Replace a classifier by nothing, from its first linear layer on, and make the pool before it global.

    Returns:
        Prefixes of the names that the removed layers have in a complete state, at least one.

    Raises:
        EncoderError: the network has no linear layer.
    """
    linear = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise EncoderError(
            f"{type(network).__name__} has no linear layer to take off",
            remedy="Choose a ResNet, VGG, ConvNeXt, EfficientNet or ViT",
        )
    top = linear[-1].partition(".")[0]
    head = getattr(network, top)
    if isinstance(getattr(network, "avgpool", None), nn.AdaptiveAvgPool2d):
        network.avgpool = nn.AdaptiveAvgPool2d(1)
    if not isinstance(head, nn.Sequential):
        setattr(network, top, nn.Identity())
        return (f"{top}.",)
    kept = list(takewhile(lambda layer: not isinstance(layer, nn.Linear), head))
    names = [name for name, _ in head.named_children()][len(kept) :]
    setattr(network, top, nn.Sequential(*kept))
    return tuple(f"{top}.{name}." for name in names)


def architecture_of(weights: torchvision.models.WeightsEnum) -> str:
    """The name under which torchvision builds the network of these weights."""
    return type(weights).__name__.removesuffix("_Weights").lower()


def _weights(name: str) -> torchvision.models.WeightsEnum:
    try:
        if "_Weights." in name:
            return torchvision.models.get_weight(name)
        return torchvision.models.get_model_weights(name)["DEFAULT"]
    except (ValueError, KeyError) as error:
        raise EncoderError(
            f"torchvision has no weights named {name!r}",
            remedy="Write an architecture such as resnet50, or the enum and the member: ResNet50_Weights.IMAGENET1K_V2",
        ) from error


def _licence_of(weights: torchvision.models.WeightsEnum) -> str:
    named = weights.meta.get("license")
    return named if isinstance(named, str) else UNKNOWN_LICENCE


def _named_weights(folder: Path) -> str | None:
    """What a folder's config.json names under `weights`, or None."""
    try:
        named = json.loads((folder / "config.json").read_text("utf-8")).get("weights")
    except (OSError, ValueError, AttributeError):
        return None
    return named if isinstance(named, str) else None
