"""Small published-looking model folders and media, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, PreTrainedTokenizerFast

WORDS = ["[PAD]", "[UNK]", "red", "dress", "crimson", "gown", "engine", "diesel", "oil", "wine"]


def save_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token=WORDS[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = dict(zip(["pad_token", "unk_token"], WORDS, strict=False))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.save_pretrained(folder)


@pytest.fixture
def tiny_model(tmp_path: Path) -> Callable[[str], Path]:
    """Save a tiny `bert` or `gpt2` with its tokenizer and return the folder."""

    def _save(kind: str) -> Path:
        torch.manual_seed(0)
        folder = tmp_path / kind
        if kind == "bert":
            model: torch.nn.Module = BertModel(
                BertConfig(
                    vocab_size=len(WORDS),
                    hidden_size=16,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    intermediate_size=32,
                    max_position_embeddings=12,
                )
            )
        else:
            model = GPT2Model(GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=12))
        model.save_pretrained(folder)
        save_tokenizer(folder)
        return folder

    return _save
