"""Laws of alignment: pictures find their texts, folders carry the space, a recurrent encoder learns."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mmrec_model.config import EncoderConfig, TransformConfig
from mmrec_model.data.catalogue import open_catalogue
from mmrec_model.encoders.attested import CARD
from mmrec_model.encoders.interface import UNKNOWN_LICENCE
from mmrec_model.encoders.registry import load_encoder
from mmrec_model.errors import EncoderError, UsageError
from mmrec_model.features.bundle import build_bundle
from mmrec_model.pretraining.alignment import retrieval, symmetric_info_nce
from mmrec_model.pretraining.corpus import read_corpus
from mmrec_model.pretraining.run import run_pretraining
from mmrec_model.pretraining.settings import PretrainingSettings

BASES = {"text": "embedded", "image": "embedded"}


def run(data: Path, out: Path, **more: Any) -> Path:
    chosen: dict[str, Any] = {"task": "align", "width": 16, "held_out": 0.25, "epochs": 12, "learning_rate": 1e-2}
    run_pretraining(data, out, PretrainingSettings(**(chosen | more)), overwrite=False, progress=lambda *_: None)
    return out


def figures(folder: Path) -> dict[str, float]:
    return json.loads((folder / CARD).read_text())["held_out"]["after"]


@pytest.fixture(scope="module")
def aligned(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMREC_CACHE", str(tmp_path_factory.getbasetemp() / "pretraining-vectors"))
        return run(catalogue, tmp_path_factory.mktemp("align") / "out", bases=BASES)


def test_held_out_pictures_find_their_texts_far_more_often_than_by_chance(aligned: Path) -> None:
    found = figures(aligned)
    assert found["image->text chance_at_1"] <= 1 / 20
    assert found["image->text recall_at_1"] > 5 * found["image->text chance_at_1"]
    assert found["image->text mean_rank_share"] < 0.15
    assert found["text->image mean_rank_share"] < 0.15


def test_the_folders_give_the_space_that_was_measured(aligned: Path, catalogue: Path) -> None:
    corpus = read_corpus(catalogue)
    rows = np.flatnonzero(corpus.held_out(0, 0.25))
    vectors = {}
    for modality in BASES:
        encoder = load_encoder(EncoderConfig(modality=modality, source=str(aligned / modality)))
        inputs = corpus.inputs(modality)
        found, ok = encoder.encode([inputs[row] for row in rows])
        assert ok.all()
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)
        vectors[modality] = torch.from_numpy(found)
    again = retrieval(vectors["image"], vectors["text"])
    assert again["mean_rank_share"] == pytest.approx(figures(aligned)["image->text mean_rank_share"], abs=2e-3)


def test_a_bundle_is_built_from_the_folders(aligned: Path, catalogue: Path, tmp_path: Path) -> None:
    few = pq.read_table(catalogue / "items.parquet").slice(0, 12)
    pq.write_table(few, tmp_path / "items.parquet")
    for name in few["image"].to_pylist():
        shutil.copy(catalogue / name, tmp_path)
    encoders = [EncoderConfig(modality=modality, source=str(aligned / modality)) for modality in BASES]
    bundle = build_bundle(
        open_catalogue(tmp_path), tmp_path / "bundle", encoders=encoders, transform=TransformConfig(dims=8),
        store=tmp_path / "store",
    )  # fmt: skip
    assert bundle.present_NM.shape == (12, 2)
    assert bundle.present_NM.all()
    for modality, config in zip(BASES, encoders, strict=True):
        described = bundle.manifest["modalities"][modality]["encoder"]
        card = json.loads((aligned / modality / CARD).read_text())
        assert described["digest"] == load_encoder(config).digest
        assert described["recipe"]["base"] == card["base"][modality]["digest"]
        assert described["licence"] == card["licence"] != UNKNOWN_LICENCE
        assert described["dim"] == 16


def test_a_folder_of_another_modality_or_base_or_damaged_is_refused(aligned: Path, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="reads 'image'"):
        load_encoder(EncoderConfig(modality="text", source=str(aligned / "image")))
    copy = Path(shutil.copytree(aligned / "image", tmp_path / "image"))
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(EncoderError, match=r"model\.safetensors"):
        load_encoder(EncoderConfig(modality="image", source=str(copy)))
    (copy / CARD).unlink()
    with pytest.raises(EncoderError):
        load_encoder(EncoderConfig(modality="image", source=str(copy)))


def test_a_trained_gru_tells_the_topics_of_held_out_sounds_and_repeats(catalogue: Path, tmp_path: Path) -> None:
    first, second = (
        run(catalogue, tmp_path / name, bases={"text": "embedded"}, train_encoder="audio", epochs=6)
        for name in ("first", "second")
    )
    assert (first / CARD).read_bytes() == (second / CARD).read_bytes()
    assert figures(first)["audio->text mean_rank_share"] < 0.3
    sounds = [catalogue / f"{item}.wav" for item in range(4)]
    for source, width in ((first / "audio", 16), (first / "audio" / "base", 16)):
        vectors, ok = load_encoder(EncoderConfig(modality="audio", source=str(source))).encode(sounds)
        assert ok.all()
        assert vectors.shape == (4, width)


def test_what_the_items_lack_cannot_be_aligned(catalogue: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the least is two"):
        run(catalogue, tmp_path / "out", bases={"text": "embedded", "video": "embedded"})
    assert not (tmp_path / "out").exists()


def test_the_loss_is_the_log_of_the_batch_for_alike_rows_and_falls_with_agreement() -> None:
    alike_BK = torch.ones(8, 4) / 2
    assert float(symmetric_info_nce(alike_BK, alike_BK, 0.1)) == pytest.approx(math.log(8), abs=1e-6)
    own_BK = torch.eye(8)
    assert float(symmetric_info_nce(own_BK, own_BK, 0.1)) < 0.01
    assert float(symmetric_info_nce(own_BK, own_BK.roll(1, 0), 0.1)) > 9.0


def test_retrieval_counts_ranks_and_halves_ties() -> None:
    own_NK = torch.eye(20)
    assert retrieval(own_NK, own_NK)["recall_at_1"] == 1.0
    assert retrieval(own_NK, own_NK.roll(1, 0))["recall_at_1"] == 0.0
    assert retrieval(torch.ones(21, 4), torch.ones(21, 4))["mean_rank_share"] == 0.5
