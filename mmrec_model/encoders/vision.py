"""Which network looks at pictures: made by configuration, torchvision's, or one of transformers.

    embedded, small-cnn               made by configuration (`mmrec_model.encoders.configured_vision`)
    torchvision:resnet50, ...         torchvision classifiers (`mmrec_model.encoders.torchvision_networks`)
    FOLDER or hub id of transformers  ViT, CLIP, SigLIP, ... through `AutoModel` and `AutoImageProcessor`

Shapes: B pictures, C channels, H x W pixels, D width.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from torch import Tensor, nn

from mmrec_model.config import EncoderConfig
from mmrec_model.config_types import Precision
from mmrec_model.encoders.configured_vision import configured_vision, small_cnn
from mmrec_model.encoders.hub import file_digests, freeze, load_image_processor, load_network, resolve_folder
from mmrec_model.encoders.image import ImageEncoder, VisionNetwork
from mmrec_model.encoders.interface import Recipe, recipe_digest
from mmrec_model.encoders.licence import published_licence
from mmrec_model.encoders.torchvision_networks import torchvision_network
from mmrec_model.errors import EncoderError

_CONFIGURED = {"embedded": configured_vision, "small-cnn": small_cnn}


def load_image_encoder(config: EncoderConfig) -> ImageEncoder:
    """The encoder that `config` names.

    Raises:
        EncoderError: the source cannot be loaded, or has no usable picture network.
    """
    if config.source in _CONFIGURED:
        vision = _CONFIGURED[config.source](config.image_size)
    else:
        found = torchvision_network(config.source)
        vision = _transformers_folder(resolve_folder(config.source), config.dtype) if found is None else found
    try:
        return ImageEncoder(vision, config)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise EncoderError(
            f"{vision.name} gives no vector for a picture ({type(error).__name__}: {str(error)[:120]})",
            remedy="Choose a picture network such as torchvision:resnet50",
        ) from error


def _transformers_folder(folder: Path, dtype: Precision) -> VisionNetwork:
    network, processor = load_network(folder, dtype), load_image_processor(folder)

    def prepare(picture: Image.Image) -> Tensor:
        pixels_BCHW: Tensor = processor(images=picture, return_tensors="pt")["pixel_values"]
        return pixels_BCHW[0]

    recipe: Recipe = {"kind": "image", "files": file_digests(folder), "pool": "image features or token mean"}
    name = f"{getattr(network.config, 'model_type', 'vision')}-{recipe_digest(recipe)[:12]}"
    note = "weights of a transformers vision model"
    return VisionNetwork(freeze(_TokenMean(network)), prepare, name, recipe, note, published_licence(folder))


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
