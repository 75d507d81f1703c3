"""Text to vectors without a transformer: the mean of its words' vectors, each weighted by how rare the word is.

The weight is the inverse document frequency log((1 + N) / (1 + n)) + 1 over the N texts of the catalogue, n of which
have the word (Spärck Jones 1972). A text none of whose words is known is missing, not a zero vector. Where the vectors
come from is in `mmrec_model.encoders.word2vec`; a fitted encoder is a folder, read here without gensim:

    encoder.json          canonical JSON: format, kind, note, licence, SHA-256 of the other two
    words.json            canonical JSON: the words, in order
    vectors.safetensors   float32 `vectors` [W, D] and `weights` [W]

Promises: the digest covers words, vectors and weights; a folder with one changed byte is refused; the same folder gives
the same vectors on every machine, up to rounding. Shapes: W words, D width.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mmrec_model.canonical import canonical_json, sha256_hex
from mmrec_model.config import Modality
from mmrec_model.encoders.interface import Mask, Recipe, Vectors, recipe_digest
from mmrec_model.encoders.words import words_of
from mmrec_model.errors import EncoderError

SETTINGS = "encoder.json"
_WORDS, _ARRAYS = "words.json", "vectors.safetensors"
_KIND = "word-vectors"
_FORMAT = 1


@dataclass(frozen=True)
class WordTable:
    """Words that have a vector.

    Attributes:
        words: W distinct words, case folded.
        vectors_WD: float32, finite, no row of zeros.
        weights_W: float32, above 0.
    """

    words: tuple[str, ...]
    vectors_WD: Vectors
    weights_W: Vectors


class WordVectorEncoder:
    """Weighted means of word vectors."""

    modality: Modality = "text"

    def __init__(self, table: WordTable, *, note: str, licence: str) -> None:
        self.note, self.licence = note, licence
        self.dim = table.vectors_WD.shape[1]
        self._table = table
        self._row = {word: row for row, word in enumerate(table.words)}
        self._words = canonical_json(list(table.words))
        self._arrays = save({"vectors": table.vectors_WD, "weights": table.weights_W})
        self.recipe: Recipe = {
            "kind": _KIND, "words": sha256_hex(self._words), "vectors": sha256_hex(self._arrays), "pool": "weighted",
        }  # fmt: skip
        self.digest = recipe_digest(self.recipe)
        self.name = f"{_KIND}-{self.digest[:12]}"

    def encode(self, inputs: Sequence[str | Path]) -> tuple[Vectors, Mask]:
        """Texts to float32 [n, dim] and bool [n]; False for a text without a known word. See `Encoder.encode`."""
        vectors = np.zeros((len(inputs), self.dim), dtype=np.float32)
        ok = np.zeros(len(inputs), dtype=bool)
        for place, text in enumerate(inputs):
            rows = [self._row[word] for word in words_of(str(text)) if word in self._row]
            if rows:
                weights = self._table.weights_W[rows]
                vectors[place], ok[place] = weights @ self._table.vectors_WD[rows] / weights.sum(), True
        return vectors, ok

    def files(self) -> dict[str, bytes]:
        """The folder's content; see `CatalogueEncoder.files`."""
        settings = canonical_json({
            "format": _FORMAT, "kind": _KIND, "note": self.note, "licence": self.licence,
            "files": {_WORDS: sha256_hex(self._words), _ARRAYS: sha256_hex(self._arrays)},
        })  # fmt: skip
        return {SETTINGS: settings, _WORDS: self._words, _ARRAYS: self._arrays}


def document_weights(texts: Sequence[str]) -> dict[str, float]:
    """Inverse document frequency of every word of `texts`, at least 1, in the order of first appearance."""
    counts = Counter(word for text in texts for word in dict.fromkeys(words_of(text)))
    return {word: log((1 + len(texts)) / (1 + count)) + 1.0 for word, count in counts.items()}


def word_table(vectors: dict[str, Vectors], weights: dict[str, float]) -> WordTable:
    """The words that have both a weight and a vector that is not zero, in the order of the weights.

    Raises:
        EncoderError: there is no such word, or a vector is not finite.
    """
    words = tuple(word for word in weights if word in vectors and vectors[word].any())
    if not words:
        raise EncoderError(
            f"none of the catalogue's {len(weights)} words is among the {len(vectors)} that have a vector",
            remedy="Give vectors of the language of the catalogue, with words in lower case",
        )
    vectors_WD = np.stack([vectors[word] for word in words]).astype(np.float32)
    if not np.isfinite(vectors_WD).all():
        raise EncoderError("a word vector is not finite", remedy="Give intact word vectors")
    return WordTable(words, vectors_WD, np.array([weights[word] for word in words], dtype=np.float32))


def open_word_vectors(folder: Path) -> WordVectorEncoder:
    """A fitted encoder from its folder.

    Raises:
        EncoderError: a file is absent, damaged or not the one that `encoder.json` names.
    """
    try:
        settings: dict[str, Any] = json.loads((folder / SETTINGS).read_bytes())
        contents = {name: (folder / name).read_bytes() for name in (_WORDS, _ARRAYS)}
        if (settings["format"], settings["kind"]) != (_FORMAT, _KIND):
            raise _damaged(folder, f"{SETTINGS} is not of kind {_KIND} and format {_FORMAT}")
        for name, content in contents.items():
            if sha256_hex(content) != settings["files"][name]:
                raise _damaged(folder, f"{name} is not the file that {SETTINGS} names")
        words, arrays = tuple(json.loads(contents[_WORDS])), load(contents[_ARRAYS])
        table = WordTable(words, arrays["vectors"], arrays["weights"])
        note, licence = str(settings["note"]), str(settings["licence"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise _damaged(folder, f"it cannot be read ({type(error).__name__})") from error
    _check(table, folder)
    return WordVectorEncoder(table, note=note, licence=licence)


def is_word_vectors(folder: Path) -> bool:
    """Whether a folder holds a fitted encoder of this kind, or claims to."""
    return (folder / SETTINGS).is_file()


def _check(table: WordTable, folder: Path) -> None:
    vectors_WD, weights_W = table.vectors_WD, table.weights_W
    count = len(table.words)
    shaped = vectors_WD.ndim == 2 and vectors_WD.shape[0] == count > 0 and weights_W.shape == (count,)
    typed = vectors_WD.dtype == weights_W.dtype == np.float32 and all(isinstance(word, str) for word in table.words)
    if not (shaped and typed and len(set(table.words)) == count):
        raise _damaged(folder, f"{count} words, vectors {vectors_WD.shape}, weights {weights_W.shape} do not fit")
    if not (np.isfinite(vectors_WD).all() and np.isfinite(weights_W).all() and (weights_W > 0).all()):
        raise _damaged(folder, "a number is not finite, or a weight not above 0")


def _damaged(folder: Path, problem: str) -> EncoderError:
    return EncoderError(f"{folder.name}: {problem}", remedy="Copy the encoder's folder again from the coordinator")
