"""Text to vectors: pooled token states of a frozen transformer (Reimers & Gurevych 2019), padding masked out.

Reads any encoder or decoder that `AutoModel` knows, the encoder of an encoder-decoder, and the text tower of a
text-picture model. Texts are sorted by length before batching, ties in input order, so padding is small and a run is
repeatable; the batch a text falls into may move its vector in the last bits. A text without any token is missing, not
a zero vector. Word vectors are in `mmrec_model.encoders.wordvectors`. Shapes: B texts of a batch, T tokens, D width.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import nn

from mmrec_model.config import EncoderConfig, Modality
from mmrec_model.config_types import Pooling
from mmrec_model.encoders.hub import (
    file_digests,
    freeze,
    load_network,
    load_tokenizer,
    packaged_minilm,
    place,
    resolve_folder,
)
from mmrec_model.encoders.interface import OWN_LICENCE, Mask, Recipe, Vectors, at_precision, recipe_digest
from mmrec_model.encoders.licence import published_licence
from mmrec_model.encoders.pooling import JointText, PooledStates
from mmrec_model.encoders.seeded import fill_seeded, state_digest
from mmrec_model.encoders.words import words_of
from mmrec_model.errors import EncoderError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_HASHED_WORDS = 16_384
_CONFIGURED_WIDTH = 128
_READ_PADDING = frozenset({"siglip", "siglip2"})
"""Models that were trained on texts filled up to full length, without a mask."""


@dataclass(frozen=True)
class Tokenizer:
    """Texts to token ids, and how a batch of them is filled up.

    Attributes:
        tokenize: texts to lists of at most `limit` ids.
        limit: most tokens of a text.
        padding: id that fills up a batch.
        fills: whether every text is filled up to `limit`.
    """

    tokenize: Callable[[Sequence[str]], list[list[int]]]
    limit: int
    padding: int = 0
    fills: bool = False


Pooled: TypeAlias = PooledStates | JointText


class TextEncoder:
    """A frozen transformer with its tokenizer and pooling."""

    modality: Modality = "text"

    def __init__(
        self, network: Pooled, tokenizer: Tokenizer, config: EncoderConfig, *, name: str, recipe: Recipe, note: str,
        licence: str,
    ) -> None:  # fmt: skip
        self.recipe = at_precision({**recipe, "limit": tokenizer.limit, "pool": network.pooling}, config.dtype)
        self.digest = recipe_digest(self.recipe)
        self.name = name.format(digest=self.digest[:12])
        self.note, self.licence = note, licence
        self._network = network
        self._tokenizer = tokenizer
        self._batch_size = config.batch_size
        self._device = torch.device(config.device)
        longest = tokenizer.tokenize(["text " * tokenizer.limit])[0] or [1]
        self.dim = self._vectors([longest]).shape[1]

    @property
    def network(self) -> nn.Module:
        """The transformer, frozen, without its pooling."""
        return self._network.network

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, as `encode` reads it; none of a text without any."""
        stripped = [text.strip() for text in texts]
        found = self._tokenizer.tokenize(stripped) if stripped else []
        return [ids if text else [] for text, ids in zip(stripped, found, strict=True)]

    def encode(self, inputs: Sequence[str | Path]) -> tuple[Vectors, Mask]:
        """Texts to float32 [n, dim] and bool [n]; see `Encoder.encode`."""
        tokens = self.tokens([str(text) for text in inputs])
        ok = np.array([bool(ids) for ids in tokens], bool)
        vectors = np.zeros((len(inputs), self.dim), dtype=np.float32)
        order = sorted(np.flatnonzero(ok).tolist(), key=lambda row: len(tokens[row]))
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            vectors[rows] = self._vectors([tokens[row] for row in rows])
        return vectors, ok

    @torch.inference_mode()
    def _vectors(self, tokens: list[list[int]]) -> Vectors:
        length = self._tokenizer.limit if self._tokenizer.fills else max(len(ids) for ids in tokens)
        padding = [self._tokenizer.padding]
        ids_BT = torch.tensor([ids + padding * (length - len(ids)) for ids in tokens], device=self._device)
        mask_BT = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids in tokens], device=self._device)
        vectors: Vectors = self._network(ids_BT, mask_BT).cpu().numpy()
        return vectors


def load_text_encoder(config: EncoderConfig) -> TextEncoder:
    """The transformer that `config` names.

    Raises:
        EncoderError: the source cannot be loaded, or is not what it claims to be.
    """
    if config.source != "embedded":
        return _from_folder(resolve_folder(config.source), config)
    folder = packaged_minilm()
    return configured_text_encoder(config) if folder is None else _from_folder(folder, config)


def configured_text_encoder(config: EncoderConfig) -> TextEncoder:
    """A small BERT over hashed words with seeded weights: shared words make texts close, meaning does not."""
    from transformers import BertConfig, BertModel  # noqa: PLC0415 - seconds to import

    limit = min(config.max_tokens, 512)
    shape = BertConfig(
        vocab_size=_HASHED_WORDS,
        hidden_size=_CONFIGURED_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * _CONFIGURED_WIDTH,
        max_position_embeddings=512,
    )
    network = BertModel(shape, add_pooling_layer=False)
    fill_seeded(network, gain=0.5)
    with torch.no_grad():  # where a word stands in a short product text says nothing with random weights
        network.embeddings.position_embeddings.weight.zero_()

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        return [hashed_words(text)[:limit] for text in texts]

    recipe: Recipe = {"kind": "text", "tokens": "crc32-words", "weights": state_digest(network)}
    note = "random weights made by configuration: carries which words are shared, no meaning"
    pooled = _pooled(freeze(network), config)
    return TextEncoder(
        pooled, Tokenizer(tokenize, limit), config, name="configured-bert-2x128", recipe=recipe, note=note,
        licence=OWN_LICENCE,
    )  # fmt: skip


def hashed_words(text: str) -> list[int]:
    """Ids in [1, 16384) of the words of `text`, case folded; the same on every machine."""
    return [1 + zlib.crc32(word.encode()) % (_HASHED_WORDS - 1) for word in words_of(text)]


def _from_folder(folder: Path, config: EncoderConfig) -> TextEncoder:
    network = load_network(folder, config.dtype)
    shape: PretrainedConfig = network.config  # type: ignore[assignment]
    tokenizer = _published_tokenizer(folder, shape, config.max_tokens)
    if config.source == "embedded":
        name, note = "all-MiniLM-L6-v2", "published all-MiniLM-L6-v2 weights"
    else:
        name = f"{shape.model_type}-{{digest}}"
        note = "weights of a local folder" if Path(config.source).is_dir() else f"weights of {config.source}"
    recipe: Recipe = {"kind": "text", "files": file_digests(folder)}
    licence = published_licence(folder)
    try:
        pooled = _pooled(network, config)
        return TextEncoder(pooled, tokenizer, config, name=name, recipe=recipe, note=note, licence=licence)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise EncoderError(
            f"{folder.name} gives no vector for a text of {tokenizer.limit} tokens "
            f"({type(error).__name__}: {str(error)[:120]})",
            remedy="Choose a text encoder (BERT class) or a decoder-only model (GPT class), or lower max_tokens",
        ) from error


def _pooled(network: nn.Module, config: EncoderConfig) -> Pooled:
    """The part of a network that reads texts, on its device, with the pooling that suits it."""
    pooling: Pooling = config.pooling
    placed = place(network, config.device, config.dtype)
    shape: PretrainedConfig = placed.config  # type: ignore[assignment]
    if callable(getattr(placed, "get_text_features", None)):
        return JointText(placed, pooling, reads_padding=shape.model_type in _READ_PADDING)
    encoder = placed.get_encoder() if shape.is_encoder_decoder else placed  # type: ignore[operator]
    return PooledStates(encoder, pooling)


def _published_tokenizer(folder: Path, shape: PretrainedConfig, max_tokens: int) -> Tokenizer:
    """The folder's own tokenizer, cut at what the configuration, the tokenizer and the network all allow."""
    tokenizer = load_tokenizer(folder)
    positions = getattr(shape.get_text_config(), "max_position_embeddings", None) or max_tokens
    limit = int(min(max_tokens, tokenizer.model_max_length, positions))

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
        return ids

    known = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    padding = next((token for token in known if token is not None), 0)
    return Tokenizer(tokenize, limit, padding, fills=shape.model_type in _READ_PADDING)
