"""Laws of masked features: the hidden vector is predicted far better than by chance, and only from the visible ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmrec_model.config import EncoderConfig
from mmrec_model.encoders.attested import CARD
from mmrec_model.encoders.registry import load_encoder
from mmrec_model.errors import DataError, EncoderError, UsageError
from mmrec_model.pretraining.alignment import retrieval
from mmrec_model.pretraining.corpus import read_corpus
from mmrec_model.pretraining.loop import STAGE
from mmrec_model.pretraining.masked_features import MaskedFeatureObjective
from mmrec_model.pretraining.run import run_pretraining
from mmrec_model.pretraining.settings import PretrainingSettings
from mmrec_model.pretraining.towers import FrozenTower

BASES = {"text": "embedded", "image": "embedded"}
HELD_OUT = 0.25


def settings(**more: Any) -> PretrainingSettings:
    chosen: dict[str, Any] = {
        "task": "masked-feature", "width": 16, "held_out": HELD_OUT, "epochs": 20, "learning_rate": 1e-2,
        "bases": BASES,
    }  # fmt: skip
    return PretrainingSettings(**(chosen | more))


def run(data: Path, out: Path, **more: Any) -> Path:
    run_pretraining(data, out, settings(**more), overwrite=False, progress=lambda *_: None)
    return out


@pytest.fixture(scope="module")
def predicting(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMREC_CACHE", str(tmp_path_factory.getbasetemp() / "pretraining-vectors"))
        return run(catalogue, tmp_path_factory.mktemp("masked") / "out")


def objective(present_NM: list[list[bool]], seed: int = 0) -> MaskedFeatureObjective:
    """Modalities of which each is a rotation of the same vectors; the last third is held out."""
    rng = np.random.default_rng(0)
    count = len(present_NM)
    common_ND = rng.normal(size=(count, 6))
    held_out_N = np.arange(count) >= count * 2 // 3
    torch.manual_seed(0)
    towers = {}
    for place, modality in enumerate(("text", "image", "audio")):
        raw_ND = (common_ND @ np.linalg.qr(rng.normal(size=(6, 6)))[0]).astype(np.float32)
        towers[modality] = FrozenTower(raw_ND, np.array(present_NM)[:, place], held_out_N, 8)
    settings = PretrainingSettings(task="masked-feature", width=8, seed=seed)
    return MaskedFeatureObjective(towers, [f"i{row}" for row in range(count)], held_out_N, settings)


def test_held_out_vectors_are_predicted_far_better_than_from_shuffled_partners(predicting: Path) -> None:
    card = json.loads((predicting / CARD).read_text())
    before, after = card["held_out"]["before"], card["held_out"]["after"]
    assert card["epsilon"] == 0
    for modality in BASES:
        chance = max(after[f"{modality} cosine_of_shuffled"], after[f"{modality} cosine_of_mean"])
        assert after[f"{modality} cosine"] > chance + 0.2
        assert abs(before[f"{modality} cosine"]) < 0.2


def test_the_folders_hold_a_space_in_which_media_of_one_item_are_near(predicting: Path, catalogue: Path) -> None:
    corpus = read_corpus(catalogue)
    rows = np.flatnonzero(corpus.held_out(0, HELD_OUT))
    vectors = {}
    for modality in BASES:
        encoder = load_encoder(EncoderConfig(modality=modality, source=str(predicting / modality)))
        inputs = corpus.inputs(modality)
        found, ok = encoder.encode([inputs[row] for row in rows])
        assert ok.all()
        vectors[modality] = torch.from_numpy(found)
        assert json.loads((predicting / modality / CARD).read_text())["task"] == "masked-feature"
    assert retrieval(vectors["image"], vectors["text"])["mean_rank_share"] < 0.25


def test_the_same_seed_gives_the_same_card(predicting: Path, catalogue: Path, tmp_path: Path) -> None:
    assert (run(catalogue, tmp_path / "again") / CARD).read_bytes() == (predicting / CARD).read_bytes()


def test_a_stopped_training_goes_on_to_the_same_folder_and_other_settings_are_refused(
    predicting: Path, catalogue: Path, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    resumed: list[int] = []

    def stop_in_the_middle(stage: str, done: int, total: int, _unreadable: int) -> None:
        if stage == STAGE and done > total // 2:
            raise Stop

    def count(stage: str, done: int, _total: int, _unreadable: int) -> None:
        if stage == STAGE:
            resumed.append(done)

    out = tmp_path / "again"
    with pytest.raises(Stop):
        run_pretraining(catalogue, out, settings(), overwrite=False, progress=stop_in_the_middle)
    assert not out.exists()
    with pytest.raises(EncoderError, match="other settings"):
        run(catalogue, out, epochs=21)
    run_pretraining(catalogue, out, settings(), overwrite=False, progress=count)
    assert resumed[0] > resumed[-1] // 4
    assert (out / CARD).read_bytes() == (predicting / CARD).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again"]


def test_a_prediction_never_reads_what_is_hidden() -> None:
    first, second = (objective([[True] * 3] * 24) for _ in range(2))
    second.network.load_state_dict(first.network.state_dict())
    rows = np.arange(24)
    tower = second._towers["text"]
    tower._axes_NP = -tower._axes_NP
    assert torch.equal(first._predictor(rows, "text"), second._predictor(rows, "text"))
    assert not torch.allclose(first._predictor(rows, "image"), second._predictor(rows, "image"))


def test_every_epoch_hides_one_present_modality_of_an_item_whatever_the_others_are() -> None:
    present_NM = [[True, True, True], [True, False, True], [False, True, True]] * 8
    own, other = objective(present_NM), objective(present_NM, seed=1)
    rows = np.arange(24)
    drawn = np.array([own.hidden(rows, epoch) for epoch in range(40)])
    for row, present in enumerate(present_NM):
        assert set(drawn[:, row]) == set(np.flatnonzero(present))
    np.testing.assert_array_equal(own.hidden(rows[::-1], 3), drawn[3][::-1])
    assert (other.hidden(rows, 3) != drawn[3]).any()


def test_items_with_one_modality_neither_train_nor_count() -> None:
    lonely = objective([[True, True, True], [True, False, False]] * 18)
    assert lonely._training.tolist() == list(range(0, 24, 2))
    assert lonely._held_out.tolist() == list(range(24, 36, 2))


def test_what_the_items_lack_or_what_is_not_frozen_cannot_be_predicted(catalogue: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the least is two"):
        run(catalogue, tmp_path / "out", bases={"text": "embedded"})
    with pytest.raises(UsageError, match="frozen"):
        run(catalogue, tmp_path / "out", train_encoder="audio")
    with pytest.raises(DataError, match="no two of"):
        objective([[True, False, False], [False, True, False], [False, False, True]] * 8)
