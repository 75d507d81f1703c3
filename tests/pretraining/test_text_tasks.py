"""Laws of masked words and sentence pairs: better than counting, repeatable, resumable, whole or absent."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec_model.config import EncoderConfig
from mmrec_model.encoders.attested import CARD
from mmrec_model.encoders.registry import load_encoder
from mmrec_model.errors import DataError, EncoderError, UsageError
from mmrec_model.features.store import FeatureStore
from mmrec_model.pretraining.masked_language import unigram_entropy
from mmrec_model.pretraining.run import run_pretraining
from mmrec_model.pretraining.sentence_pairs import draw_pairs, sentences_of
from mmrec_model.pretraining.settings import PretrainingSettings

SMALL: dict[str, Any] = {"width": 32, "max_tokens": 32, "batch_size": 16, "held_out": 0.2, "learning_rate": 1e-2}


def run(data: Path, out: Path, *, overwrite: bool = False, **more: Any) -> Path:
    settings = PretrainingSettings(**(SMALL | more))
    run_pretraining(data, out, settings, overwrite=overwrite, progress=lambda *_: None)
    return out


def card_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / CARD).read_text())


@pytest.fixture(scope="module")
def both(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(catalogue, tmp_path_factory.mktemp("text") / "both", task="mlm+nsp", epochs=5)


def test_masked_words_are_predicted_better_than_any_count_of_words_can(both: Path) -> None:
    figures = card_of(both)["held_out"]["after"]
    assert figures["mlm_loss"] < figures["mlm_unigram_entropy"] - 0.5
    assert card_of(both)["held_out"]["before"]["mlm_loss"] > figures["mlm_unigram_entropy"] - 0.2


def test_held_out_pairs_are_told_apart_better_than_by_chance(stories: Path, tmp_path: Path) -> None:
    larger = {"width": 64, "max_tokens": 48, "batch_size": 32, "held_out": 0.1, "learning_rate": 4e-3}
    after = card_of(run(stories, tmp_path / "nsp", task="nsp", epochs=5, **larger))["held_out"]["after"]
    assert after["nsp_pairs"] >= 100
    assert after["nsp_accuracy"] > after["nsp_chance"] + 3 * math.sqrt(0.25 / (after["nsp_pairs"] / 4))


def test_the_feature_store_accepts_the_folder(both: Path, tmp_path: Path) -> None:
    encoder = load_encoder(EncoderConfig(modality="text", source=str(both)))
    vectors, ok, encoded = FeatureStore(tmp_path).get_or_encode(encoder, ["the ship of the sea", "", "a tower"])
    assert ok.tolist() == [True, False, True]
    assert vectors.shape == (3, 32)
    assert encoded == 3
    assert encoder.licence == "Apache-2.0"
    assert str(tmp_path) not in (both / "config.json").read_text() + (both / CARD).read_text()


def test_the_same_seed_gives_the_same_folder_also_after_an_interruption(catalogue: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop_in_the_second_epoch(_stage: str, done: int, total: int, _unreadable: int) -> None:
        if done > total // 2:
            raise Stop

    once = card_of(run(catalogue, tmp_path / "once", task="mlm", epochs=2))
    settings = PretrainingSettings(**(SMALL | {"task": "mlm", "epochs": 2}))
    out = tmp_path / "again"
    with pytest.raises(Stop):
        run_pretraining(catalogue, out, settings, overwrite=False, progress=stop_in_the_second_epoch)
    assert not out.exists()
    with pytest.raises(EncoderError, match="other settings"):
        run(catalogue, out, task="mlm", epochs=3)
    assert card_of(run(catalogue, out, task="mlm", epochs=2)) == once
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "once"]
    other = card_of(run(catalogue, tmp_path / "other", task="mlm", epochs=2, seed=1))
    assert other["files"]["model.safetensors"] != once["files"]["model.safetensors"]


def test_interactions_are_never_opened(catalogue: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(catalogue / "items.parquet", alone)
    (alone / "interactions.parquet").write_bytes(b"no table at all")
    (alone / "users.parquet").write_bytes(b"nor this")
    cards = [
        card_of(run(folder, tmp_path / f"out{n}", task="mlm", epochs=1)) for n, folder in enumerate((catalogue, alone))
    ]
    assert cards[0] == cards[1]
    assert cards[0]["epsilon"] == 0


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", CARD])
def test_a_damaged_folder_is_refused(both: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(both, tmp_path / "copy"))
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(EncoderError, match="pretraining"):
        load_encoder(EncoderConfig(modality="text", source=str(copy)))


def test_a_folder_is_replaced_on_request_alone_and_data_never(catalogue: Path, both: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists"):
        run(catalogue, both, task="mlm")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    with pytest.raises(UsageError, match="not written by pretraining"):
        run(catalogue, precious, overwrite=True, task="mlm")
    with pytest.raises(UsageError, match="holds the data"):
        run(catalogue, catalogue, overwrite=True, task="mlm")


def test_training_on_from_a_published_folder_keeps_its_licence_and_tokens(
    both: Path, catalogue: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(both, tmp_path / "base", ignore=shutil.ignore_patterns(CARD, "README.md")))
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    out = run(catalogue, tmp_path / "out", task="mlm", epochs=1, bases={"text": str(base)})
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert load_encoder(EncoderConfig(modality="text", source=str(out))).licence == "mit"
    assert card_of(out)["base"]["text"]["name"] == "base"
    assert (out / "model.safetensors").read_bytes() != (base / "model.safetensors").read_bytes()


def test_texts_of_one_sentence_make_no_pairs_and_are_refused(small_partner: Path, tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.mkdir()
    (one / "items.csv").write_text("item_id,title,text\n" + "".join(f"i{n},,word {n}\n" for n in range(30)))
    with pytest.raises(DataError, match="two sentences"):
        run(one, tmp_path / "out", task="nsp")
    assert not (tmp_path / "out").exists()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_the_entropy_of_labels_is_the_least_loss_of_a_constant_guess(labels: list[int]) -> None:
    counts = np.bincount(labels, minlength=6)
    share = counts / counts.sum()
    own = -np.mean(np.log(share[labels]))
    assert unigram_entropy(labels) == pytest.approx(own, abs=1e-9)
    other = (counts + 1) / (counts + 1).sum()
    assert unigram_entropy(labels) <= -np.mean(np.log(other[labels])) + 1e-9


def test_a_true_pair_joins_to_the_item_and_a_wrong_one_takes_the_second_part_of_another() -> None:
    documents = [[f"{item} one.", f"{item} two.", f"{item} three."] for item in "abcdef"] + [["alone"]]
    for epoch in range(5):
        pairs = draw_pairs(documents, 3, epoch, both=True)
        assert len(pairs) == 12
        for pair in pairs:
            assert (f"{pair.first} {pair.second}" == " ".join(documents[pair.item])) == pair.follows
            assert pair.second[0] != pair.first[0] or pair.follows
    assert draw_pairs(documents, 3, 1) == draw_pairs(documents, 3, 1) != draw_pairs(documents, 3, 2)


def test_the_title_is_the_first_sentence() -> None:
    assert sentences_of("A title", "One thing. Another!\nA third") == ["A title", "One thing.", "Another!", "A third"]
    assert sentences_of("", " ") == []
