"""Small published-looking model folders and media, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    GPT2Model,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    SiglipConfig,
    SiglipModel,
    T5Config,
    T5Model,
    ViTImageProcessor,
)

WORDS = ["[PAD]", "[UNK]", "red", "dress", "crimson", "gown", "engine", "diesel", "oil", "wine", "[EOS]"]
EOS = WORDS.index("[EOS]")


def save_tokenizer(folder: Path, *, padded: bool = True) -> None:
    """Without `padded` as GPT-2 has it: no padding token, and the side of generation."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token=WORDS[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = dict(zip(["pad_token", "unk_token"], WORDS, strict=False))
    special |= {} if padded else {"pad_token": None, "padding_side": "left"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.save_pretrained(folder)


TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
PICTURES = {**TOWER, "image_size": 32, "patch_size": 8}
KINDS: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=12, **TOWER)),
    "roberta": lambda: RobertaModel(RobertaConfig(**_texts(pad_token_id=0))),
    "gpt2": lambda: GPT2Model(GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=12)),
    "t5": lambda: T5Model(T5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)),
    "clip": lambda: CLIPModel(CLIPConfig(text_config=_texts(), vision_config=PICTURES, projection_dim=8)),
    "siglip": lambda: SiglipModel(SiglipConfig(text_config=_texts(projection_size=16), vision_config=PICTURES)),
}


def _texts(**more: int) -> dict[str, int]:
    return {**TOWER, "vocab_size": len(WORDS), "max_position_embeddings": 12, "eos_token_id": EOS, **more}


@pytest.fixture
def tiny_model(tmp_path: Path) -> Callable[[str], Path]:
    """Save a tiny model of one of the `KINDS` with its tokenizer, and for pictures its processor; return the folder."""

    def _save(kind: str) -> Path:
        torch.manual_seed(0)
        folder = tmp_path / kind
        KINDS[kind]().save_pretrained(folder)
        save_tokenizer(folder, padded=kind != "gpt2")
        if kind in {"clip", "siglip"}:
            ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
        return folder

    return _save
