"""Text to vectors: the mean of a transformer's token states (Reimers & Gurevych 2019), padding masked out.

Reads any encoder or decoder that `AutoModel` knows. Texts are sorted by length before batching, ties in input order,
so a run is repeatable; the batch a text falls into may move its vector in the last bits. A text without any token is
missing, not a zero vector. Shapes: B texts of a batch, T tokens, D width.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from mmrec_model.config import EncoderConfig, Modality
from mmrec_model.encoders.hub import (
    file_digests,
    freeze,
    load_network,
    packaged_minilm,
    place,
    quiet_transformers,
    resolve_folder,
)
from mmrec_model.encoders.interface import Mask, Vectors, recipe_digest
from mmrec_model.encoders.seeded import fill_seeded, state_digest
from mmrec_model.errors import EncoderError

Tokenizer: TypeAlias = Callable[[Sequence[str]], list[list[int]]]

_WORD = re.compile(r"\w+")
_HASHED_WORDS = 16_384
_CONFIGURED_WIDTH = 128


class TextEncoder:
    """A frozen transformer with masked mean pooling."""

    modality: Modality = "text"

    def __init__(
        self, network: nn.Module, tokenize: Tokenizer, config: EncoderConfig, *, name: str, digest: str, note: str
    ) -> None:
        self.name, self.digest, self.note = name, digest, note
        self._network = place(network, config.device)
        self._tokenize = tokenize
        self._batch_size = config.batch_size
        self._device = torch.device(config.device)
        self.dim = self._pool([[1]]).shape[1]

    @property
    def network(self) -> nn.Module:
        """The transformer, frozen; the mean of its last token states is a text's vector."""
        return self._network

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, as `encode` reads it; none of a text without any."""
        stripped = [text.strip() for text in texts]
        found = self._tokenize(stripped) if stripped else []
        return [ids if text else [] for text, ids in zip(stripped, found, strict=True)]

    def encode(self, inputs: Sequence[str | Path]) -> tuple[Vectors, Mask]:
        """Texts to float32 [n, dim] and bool [n]; see `Encoder.encode`."""
        tokens = self.tokens([str(text) for text in inputs])
        ok = np.array([bool(ids) for ids in tokens], bool)
        vectors = np.zeros((len(inputs), self.dim), dtype=np.float32)
        order = sorted(np.flatnonzero(ok).tolist(), key=lambda row: len(tokens[row]))
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            vectors[rows] = self._pool([tokens[row] for row in rows])
        return vectors, ok

    @torch.inference_mode()
    def _pool(self, tokens: list[list[int]]) -> Vectors:
        length = max(len(ids) for ids in tokens)
        ids_BT = torch.tensor([ids + [0] * (length - len(ids)) for ids in tokens], device=self._device)
        mask_BT = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids in tokens], device=self._device)
        state_BTD = self._network(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        weight_BT1 = mask_BT[..., None].to(state_BTD.dtype)
        mean_BD = (state_BTD * weight_BT1).sum(1) / weight_BT1.sum(1)
        vectors: Vectors = mean_BD.float().cpu().numpy()
        return vectors


def load_text_encoder(config: EncoderConfig) -> TextEncoder:
    """The encoder that `config` names.

    Raises:
        EncoderError: the source cannot be loaded, or is not what it claims to be.
    """
    if config.source != "embedded":
        return _from_folder(resolve_folder(config.source), config, origin=config.source)
    folder = packaged_minilm()
    return configured_text_encoder(config) if folder is None else _from_folder(folder, config, origin="")


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

    recipe = recipe_digest({
        "kind": "text", "tokens": "crc32-words", "limit": limit, "pool": "mean", "weights": state_digest(network),
    })  # fmt: skip
    note = "random weights made by configuration: carries which words are shared, no meaning"
    return TextEncoder(freeze(network), tokenize, config, name="configured-bert-2x128", digest=recipe, note=note)


def hashed_words(text: str) -> list[int]:
    """Ids in [1, 16384) of the words of `text`, case folded; the same on every machine."""
    return [1 + zlib.crc32(word.encode()) % (_HASHED_WORDS - 1) for word in _WORD.findall(text.casefold())]


def _from_folder(folder: Path, config: EncoderConfig, *, origin: str) -> TextEncoder:
    network = load_network(folder)
    files = file_digests(folder)
    tokenize, limit = _published_tokenizer(folder, network, config.max_tokens)
    digest = recipe_digest({"kind": "text", "files": files, "limit": limit, "pool": "mean"})
    if not origin:
        name, note = "all-MiniLM-L6-v2", "published all-MiniLM-L6-v2 weights"
    else:
        name = f"{getattr(network.config, 'model_type', 'transformer')}-{digest[:12]}"
        note = f"weights of {origin if not Path(origin).is_dir() else 'a local folder'}"
    try:
        return TextEncoder(network, tokenize, config, name=name, digest=digest, note=note)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise EncoderError(
            f"{name} gives no token states for a text ({type(error).__name__}: {str(error)[:120]})",
            remedy="Choose a text encoder (BERT class) or a decoder-only model (GPT class)",
        ) from error


def _published_tokenizer(folder: Path, network: nn.Module, max_tokens: int) -> tuple[Tokenizer, int]:
    """The folder's own tokenizer, cut at what the configuration, the tokenizer and the network all allow."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - seconds to import

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # any type: a damaged file may fail in any layer of the library
        raise EncoderError(
            f"{folder.name}: the tokenizer cannot be read ({type(error).__name__})",
            remedy="Copy the tokenizer files of the published model into the folder",
        ) from error
    positions = getattr(network.config, "max_position_embeddings", None) or max_tokens
    limit = int(min(max_tokens, tokenizer.model_max_length, positions))

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
        return ids

    return tokenize, limit
