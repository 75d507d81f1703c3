"""Word vectors with gensim: trained on the catalogue's own texts, or read from published ones (Mikolov et al. 2013).

    word2vec                    skip-gram with negative sampling over the catalogue's texts
    vectors.bin, .bin.gz        word2vec's binary format
    vectors.txt, .vec, .txt.gz  its text format: a line with count and width, then a word and its numbers per line
    FOLDER                      with exactly one such file, or a fitted encoder (`mmrec_model.encoders.wordvectors`)

Either way the encoder is fitted on the catalogue: it keeps the catalogue's words alone, weighted by their frequency
there. The catalogue is public and no interaction is read, so this costs no epsilon. Training is repeatable on one
machine: one thread, a fixed seed, no use of Python's randomised hashes; on another machine it may differ by rounding,
so a fitted encoder is copied, not fitted again. Small catalogues are read more often. gensim's own files are pickles,
which can run code, and are refused.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrec_model.config import EncoderConfig
from mmrec_model.encoders.interface import Vectors
from mmrec_model.encoders.licence import published_licence
from mmrec_model.encoders.words import words_of
from mmrec_model.encoders.wordvectors import (
    WordVectorEncoder,
    document_weights,
    is_word_vectors,
    open_word_vectors,
    word_table,
)
from mmrec_model.errors import EncoderError

if TYPE_CHECKING:
    from gensim.models import KeyedVectors

SOURCE = "word2vec"
WIDTH = 100
_WINDOW = 5
_WORDS_READ, _FEWEST_EPOCHS, _MOST_EPOCHS = 600_000, 20, 200
_RAREST = 2
_SEED = 20_240_601
_FORMATS = (".bin", ".bin.gz", ".txt", ".txt.gz", ".vec", ".vec.gz")
_PICKLES = (".kv", ".model", ".npy", ".pkl", ".pickle", ".w2v")


def reads_words(source: str) -> bool:
    """Whether `source` is one of the forms above."""
    path = Path(source).expanduser()
    if path.is_dir():
        return is_word_vectors(path) or (not (path / "config.json").is_file() and bool(_candidates(path)))
    return source == SOURCE or (path.is_file() and path.name.endswith((*_FORMATS, *_PICKLES)))


def load_word_encoder(config: EncoderConfig, catalogue: Sequence[str] | None) -> WordVectorEncoder:
    """The fitted encoder that `config` names.

    Args:
        config: its source is one of the forms above.
        catalogue: the texts to fit on; a folder of a fitted encoder needs none.

    Raises:
        EncoderError: no texts to fit on, unreadable or unsafe vectors, a pooling or number format, or gensim is not
            installed.
    """
    if config.dtype != "float32":
        raise EncoderError(
            f"dtype is {config.dtype}, but word vectors have no network and are always averaged in float32",
            remedy="Leave dtype at float32, or name a transformer as source",
        )
    if config.pooling != "auto":
        raise EncoderError(
            f"pooling {config.pooling!r} is asked of word vectors, which are averaged by their weights",
            remedy="Set pooling to 'auto', or choose a transformer",
        )
    path = Path(config.source).expanduser()
    if path.is_dir() and is_word_vectors(path):
        return open_word_vectors(path)
    if catalogue is None:
        raise EncoderError(
            f"source {config.source!r} is fitted on a catalogue, and none is given",
            remedy="Build a bundle with it, then name the bundle's text.encoder folder as source",
        )
    weights = document_weights(catalogue)
    if config.source == SOURCE and not path.exists():
        note = f"word2vec trained on the {len(catalogue)} texts of the catalogue: knows words that occur there twice"
        return WordVectorEncoder(
            word_table(train_word2vec(catalogue), weights), note=note, licence="as the catalogue's texts"
        )
    file = _only_file(path)
    note = f"published word vectors {file.name}, the catalogue's words alone"
    return WordVectorEncoder(
        word_table(read_published(file, set(weights)), weights), note=note, licence=published_licence(file.parent)
    )


def train_word2vec(texts: Sequence[str]) -> dict[str, Vectors]:
    """Vectors [100] of the words that occur at least twice in `texts`.

    Raises:
        EncoderError: no word does, or gensim is not installed.
    """
    sentences = [words_of(text) for text in texts]
    words = max(1, sum(map(len, sentences)))
    epochs = min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, _WORDS_READ // words))
    model = _gensim().Word2Vec(
        vector_size=WIDTH, window=_WINDOW, min_count=_RAREST, sg=1, epochs=epochs, workers=1, seed=_SEED, hashfxn=_hash
    )  # fmt: skip
    model.build_vocab(sentences)
    if not len(model.wv):
        raise EncoderError(
            f"no word occurs {_RAREST} times in the {len(texts)} texts of the catalogue",
            remedy="Give the items longer texts, or choose another text encoder",
        )
    model.train(sentences, total_examples=model.corpus_count, epochs=model.epochs)
    return _by_word(model.wv)


def read_published(file: Path, wanted: set[str]) -> dict[str, Vectors]:
    """Vectors of the wanted words; a word that is written with capitals alone counts as its lower case.

    Raises:
        EncoderError: the file is not of a word2vec format, or gensim is not installed.
    """
    keyed_vectors = _gensim().KeyedVectors
    try:
        vectors = keyed_vectors.load_word2vec_format(file, binary=".bin" in file.suffixes, unicode_errors="replace")
    except (OSError, ValueError, EOFError, MemoryError, IndexError, zlib.error) as error:
        raise EncoderError(
            f"{file.name} cannot be read as word vectors ({type(error).__name__}: {str(error)[:80]})",
            remedy="Write it with KeyedVectors.save_word2vec_format: binary=True for .bin, else text with a first line",
        ) from error
    found = _by_word(vectors)
    folded = {word.casefold(): vector for word, vector in reversed(found.items())}
    return {word: vector for word in wanted if (vector := found.get(word, folded.get(word))) is not None}


def _by_word(vectors: KeyedVectors) -> dict[str, Vectors]:
    return dict(zip(vectors.index_to_key, vectors.vectors, strict=True))


def _only_file(path: Path) -> Path:
    """The file with the vectors: `path`, or the only one in it.

    Raises:
        EncoderError: none, several, or a pickle.
    """
    files = _candidates(path) if path.is_dir() else [path]
    safe = [file for file in files if file.name.endswith(_FORMATS)]
    if not safe:
        raise EncoderError(
            f"{files[0].name} is a pickle, which can run code; only {', '.join(_FORMATS)} are read",
            remedy="Convert it where you trust it: KeyedVectors.load(FILE).save_word2vec_format('v.bin', binary=True)",
        )
    if len(safe) > 1:
        raise EncoderError(
            f"{path.name} holds {len(safe)} files with word vectors, the limit is one",
            remedy="Name the file as source",
        )
    return safe[0]


def _candidates(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and file.name.endswith((*_FORMATS, *_PICKLES)))


def _hash(word: str) -> int:
    return zlib.crc32(word.encode())


def _gensim() -> Any:
    """The module with gensim's models.

    Raises:
        EncoderError: it is not installed.
    """
    try:
        from gensim import models  # noqa: PLC0415 - optional, and slow
    except ImportError as error:
        raise EncoderError(
            "word vectors need gensim, which is not installed", remedy="Install it: pip install 'mmrec[wordvectors]'"
        ) from error
    return models
