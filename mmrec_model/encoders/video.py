"""Film to vectors: all frames through one network, or each through the image encoder and then a pool over time.

    embedded                   a seeded network over space and time, which sees motion (`mmrec_model.encoders.motion`)
    VideoMAE, folder or hub id a published one (`mmrec_model.encoders.film_models`)
    frame-mean                 mean over the frames, through the embedded picture network; their order does not matter
    any source of pictures     the same through that picture network
    gru, lstm                  seeded recurrence over the embedded picture network
    FOLDER of our own          pretrained recurrence, over `FOLDER/image` or the embedded picture network

Which frames are read, `frames` and `stride`, is in the digest and in the name. Shapes: N films, B films of a batch,
k frames, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmrec_model.canonical import JsonValue
from mmrec_model.config import EncoderConfig, Modality
from mmrec_model.config_reader import parse_config
from mmrec_model.encoders.clips import ClipEncoder
from mmrec_model.encoders.decoding import Decoder
from mmrec_model.encoders.film_models import load_film_model, names_film_model
from mmrec_model.encoders.films import MAX_FRAMES, Taken
from mmrec_model.encoders.hub import freeze, place, resolve_folder
from mmrec_model.encoders.image import ImageEncoder
from mmrec_model.encoders.interface import OWN_LICENCE, Mask, Recipe, Vectors, at_precision, recipe_digest
from mmrec_model.encoders.licence import published_licence
from mmrec_model.encoders.motion import configured_motion
from mmrec_model.encoders.network_folder import load_weights, names_network, read_card, save_network
from mmrec_model.encoders.reading import Arrays, Reading
from mmrec_model.encoders.recurrent import CELLS, RecurrentFilmEncoder, RecurrentSettings, pad_frames
from mmrec_model.encoders.seeded import fill_seeded, state_digest
from mmrec_model.encoders.streaming import Part, encode_parts
from mmrec_model.encoders.torchvision_networks import PREFIX
from mmrec_model.encoders.vision import load_image_encoder
from mmrec_model.errors import EncoderError

KIND = "recurrent-film"
IMAGE_FOLDER = "image"
FRAME_MEAN = "frame-mean"
FramePool: TypeAlias = Callable[[list[Vectors]], Vectors]
"""Vectors [k_i, D] of the frames of each film to [N, dim]."""


class VideoEncoder:
    """A frozen image encoder over frames, and a pool over time."""

    modality: Modality = "video"

    def __init__(
        self,
        image: ImageEncoder,
        pool: FramePool,
        config: EncoderConfig,
        *,
        dim: int,
        name: str,
        recipe: JsonValue,
        licence: str,
    ) -> None:
        self._image, self._pool, self.dim, self.licence = image, pool, dim, licence
        self._films = max(1, config.batch_size // config.frames)
        taken = Taken(config.frames, config.stride)
        self.name = f"{taken.name}-{name}of-{image.name}"
        self.note = f"{name.rstrip('-') or 'mean'} of {taken.note}; pictures: {image.note}"
        self.recipe: Recipe = {
            "kind": "video", "image": image.digest, "frames": config.frames, "limit": MAX_FRAMES, "pool": recipe,
            "spread": taken.rule,
        }  # fmt: skip
        self.digest = recipe_digest(self.recipe)
        reading = Reading("film", frames=config.frames, stride=config.stride)
        self._decoder: Decoder[list[Tensor]] = Decoder(
            reading, self._prepare, workers=config.workers, ahead=self._films
        )

    def encode(self, inputs: Sequence[str | Path]) -> tuple[Vectors, Mask]:
        """Films to float32 [n, dim] and bool [n]; see `Encoder.encode`."""
        return next(self.encode_parts([inputs]))

    def encode_parts(self, parts: Sequence[Part]) -> Iterator[tuple[Vectors, Mask]]:
        """`encode` of every part, decoding ahead; see `StreamingEncoder`."""
        return encode_parts(parts, self._decoder, self._encode_films, dim=self.dim, batch_size=self._films)

    def _encode_films(self, films: list[list[Tensor]]) -> Vectors:
        frames_KD = self._image.encode_prepared([pixels for film in films for pixels in film])
        ends = np.cumsum([len(film) for film in films])[:-1]
        return self._pool(np.split(frames_KD, ends))

    def _prepare(self, frames: Arrays) -> list[Tensor]:
        return [self._image.prepare(Image.fromarray(frame)) for frame in frames]


class RecurrentPool:
    """A frozen `RecurrentFilmEncoder` as a pool over frames."""

    def __init__(self, network: RecurrentFilmEncoder, config: EncoderConfig) -> None:
        self.dim = network.dim
        recipe: Recipe = {"kind": KIND, "network": network.settings.model_dump(), "weights": state_digest(network)}
        self.recipe = at_precision(recipe, config.dtype)
        self._network = place(freeze(network), config.device, config.dtype)
        self._device, self._dtype = torch.device(config.device), getattr(torch, config.dtype)

    @torch.inference_mode()
    def __call__(self, films: list[Vectors]) -> Vectors:
        """Vectors of the frames of each film to float32 [N, dim]."""
        frames_BkD, lengths_B = pad_frames([torch.from_numpy(film) for film in films])
        vectors: Vectors = self._network(frames_BkD.to(self._device, self._dtype), lengths_B).float().cpu().numpy()
        return vectors


def load_video_encoder(config: EncoderConfig) -> VideoEncoder | ClipEncoder:
    """The encoder that `config` names.

    Raises:
        EncoderError: the source or its image encoder cannot be loaded.
        ConfigError: a setting of a folder is outside its range.
    """
    if config.source == "embedded":
        return ClipEncoder(configured_motion(config.image_size), config)
    if config.source in CELLS:
        image = _image_encoder(config, "embedded")
        cell = next(cell for cell in CELLS if cell == config.source)
        network = RecurrentFilmEncoder(RecurrentSettings(cell=cell, width=image.dim))
        fill_seeded(network, gain=1.0)
        return _recurrent(image, network, config, name=f"configured-{cell}-", licence=OWN_LICENCE)
    folder = _folder(config.source)
    if names_network(folder):
        return _from_folder(folder, config)
    if names_film_model(folder):
        return load_film_model(folder, config)
    image = _image_encoder(config, "embedded" if config.source == FRAME_MEAN else config.source)
    return VideoEncoder(image, mean_pool, config, dim=image.dim, name="", recipe="mean", licence=image.licence)


def mean_pool(films: list[Vectors]) -> Vectors:
    """The mean over the frames of each film, [N, D]."""
    return np.stack([film.mean(axis=0, dtype=np.float64) for film in films]).astype(np.float32)


def save_film_network(folder: Path, network: RecurrentFilmEncoder, *, image: ImageEncoder, note: str) -> None:
    """Write `network`, trained on frames of `image`, as a folder that `EncoderConfig.source` accepts.

    A picture network other than the embedded one is copied by the caller into `folder/image`.

    Raises:
        EncoderError: the folder cannot be written.
    """
    settings: dict[str, JsonValue] = {**network.settings.model_dump(), "image_digest": image.digest}
    save_network(folder, network, kind=KIND, settings=settings, note=note)


def _from_folder(folder: Path, config: EncoderConfig) -> VideoEncoder:
    card = read_card(folder, KIND)
    expected = card.settings.get("image_digest")
    own = {name: value for name, value in card.settings.items() if name != "image_digest"}
    settings = parse_config(RecurrentSettings, own, source=f"{folder.name}/config.json")
    pictures = folder / IMAGE_FOLDER
    image = _image_encoder(config, str(pictures) if pictures.is_dir() else "embedded")
    if expected != image.digest or settings.width != image.dim:
        raise EncoderError(
            f"{folder.name} was trained on pictures encoded by {str(expected)[:12]}, the image encoder here is "
            f"{image.digest[:12]}",
            remedy=f"Use the image_size and dtype of its training, or put its picture network into "
            f"{folder.name}/{IMAGE_FOLDER}",
        )
    network = RecurrentFilmEncoder(settings)
    load_weights(folder, network)
    name = f"{settings.cell}-{state_digest(network)[:12]}-"
    return _recurrent(image, network, config, name=name, licence=published_licence(folder))


def _recurrent(
    image: ImageEncoder, network: RecurrentFilmEncoder, config: EncoderConfig, *, name: str, licence: str
) -> VideoEncoder:
    """Over time `network`, whose weights lie under `licence`; a differing one of the pictures is named too."""
    pool = RecurrentPool(network, config)
    both = ", ".join(dict.fromkeys([licence, image.licence]))
    return VideoEncoder(image, pool, config, dim=pool.dim, name=name, recipe=dict(pool.recipe), licence=both)


def _folder(source: str) -> Path:
    """Where a folder or a hub id of the form OWNER/NAME lies; a name of something else is no folder."""
    folder = Path(source).expanduser()
    is_hub_id = "/" in source and not folder.exists() and not source.startswith(PREFIX)
    return resolve_folder(source) if is_hub_id else folder


def _image_encoder(config: EncoderConfig, source: str) -> ImageEncoder:
    return load_image_encoder(config.model_copy(update={"modality": "image", "source": source, "workers": 0}))
