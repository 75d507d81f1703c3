"""A catalogue of a few items with real pictures and sounds, and encoders that are quick to load."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mmrec_model.config import EncoderConfig, TransformConfig

TEXTS = ["dry red wine", "sweet white wine", "red wine from Spain", "cold beer", "dark beer", "apple juice", "", ""]
COLOURS = ["red", "white", "darkred", "yellow", "black", "orange", None, None]


@dataclass(frozen=True)
class Shelf:
    """The fields of a catalogue that a bundle reads."""

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    texts: tuple[str, ...]
    media: dict[str, tuple[Path | None, ...]] = field(default_factory=dict)
    categories: tuple[str, ...] = ()


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Eight items: six with text and picture, one with sound alone, one with nothing; one more picture is damaged."""
    folder = tmp_path / "media"
    folder.mkdir()
    pictures: list[Path | None] = []
    for number, colour in enumerate(COLOURS):
        path = folder / f"{number}.png"
        if colour is not None:
            Image.new("RGB", (40, 40), colour).save(path)
        pictures.append(None if colour is None else path)
    (folder / "3.png").write_bytes(b"damaged")
    sound = np.sin(np.arange(4000) / 9.0).astype(np.float32)
    soundfile.write(folder / "6.wav", sound, 16_000)
    sounds = tuple(folder / "6.wav" if number == 6 else None for number in range(8))
    return Shelf(
        item_ids=tuple(f"i{number}" for number in range(8)),
        titles=("", "Muscat", "", "", "", "", "", " "),
        texts=tuple(TEXTS),
        media={"image": tuple(pictures), "audio": sounds, "video": (None,) * 8},
    )


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with random weights over the shelf's words, saved as published models are."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny-bert")
    words = ["[UNK]", *sorted({word for text in TEXTS for word in text.split()})]
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=16, **shape)).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=words[0]).save_pretrained(folder)
    return folder


@pytest.fixture
def encoders(text_model: Path) -> tuple[EncoderConfig, ...]:
    """One encoder per modality."""
    return (
        EncoderConfig(modality="text", source=str(text_model)),
        EncoderConfig(modality="image", image_size=32),
        EncoderConfig(modality="audio"),
        EncoderConfig(modality="video", image_size=32),
    )


@pytest.fixture
def transform() -> TransformConfig:
    """Four dimensions."""
    return TransformConfig(dims=4, whiten=False)
