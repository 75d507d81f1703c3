"""Media that disagree with their item are found, few good ones among them, and only where media tell of each other."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.config import EncoderConfig, Modality, TransformConfig
from mmrec_model.data.catalogue import open_catalogue
from mmrec_model.features.agreement import judge
from mmrec_model.features.bundle import FeatureBundle, build_bundle
from mmrec_model.features.transform import unit_rows
from simulations.synthetic import write_synthetic

PICTURES = (
    EncoderConfig(modality="image", image_size=32),
    EncoderConfig(modality="video", image_size=32, frames=2),
)
Vectors = dict[Modality, np.ndarray]


def related(seed: int, items: int = 200, noise: float = 0.3) -> Vectors:
    """Text, picture and film of one latent vector per item; sound of nothing."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(items, 6))
    views = {}
    for name in ("text", "image", "audio", "video"):
        seen = rng.normal(size=(items, 6)) if name == "audio" else latent
        view = seen @ rng.normal(size=(6, 12)) + noise * rng.normal(size=(items, 12))
        views[name] = unit_rows(view).astype(np.float32)
    return views


def shuffled(vectors: Vectors, items: np.ndarray, name: Modality = "image") -> Vectors:
    spoilt = vectors[name].copy()
    spoilt[items] = vectors[name][np.roll(items, 1)]
    return {**vectors, name: spoilt}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    write_synthetic(folder / "set", users=30, items=400, seed=0)
    return folder


def build(folder: Path, name: str = "set", **settings: object) -> FeatureBundle:
    config = TransformConfig(**settings)
    store = folder / "store"
    return build_bundle(
        open_catalogue(folder / name), folder / "bundle", encoders=PICTURES, transform=config, store=store
    )


def test_shuffled_pictures_of_the_synthetic_set_are_found_at_the_stated_precision_and_recall(folder: Path) -> None:
    bundle = build(folder)
    vectors = {name: np.array(rows) for name, rows in bundle.vectors.items()}
    pictures = np.flatnonzero(bundle.present_NM[:, 0])
    wrong = round(0.05 * len(pictures))
    precision, recall, good = [], [], []
    for seed in range(5):
        items = np.random.default_rng(seed).choice(pictures, wrong, replace=False)
        flagged = np.flatnonzero(judge(shuffled(vectors, items), bundle.present_NM, 0.05)["image"].flagged_N)
        hits = len(np.intersect1d(flagged, items))
        precision.append(hits / len(flagged))
        recall.append(hits / wrong)
        good.append((len(flagged) - hits) / (len(pictures) - wrong))
    assert np.mean(precision) >= 0.7
    assert np.mean(recall) >= 0.5
    assert np.mean(good) <= 0.015
    nothing = judge(vectors, bundle.present_NM, 0.05)["image"].flagged_N
    assert nothing.sum() <= 0.05 * len(pictures)


def test_a_strong_relation_names_exactly_the_shuffled_ones() -> None:
    items = np.arange(0, 200, 20)
    found = judge(shuffled(related(0), items), np.ones((200, 4), dtype=bool), 0.05)
    assert np.flatnonzero(found["image"].flagged_N).tolist() == items.tolist()
    assert set(found["image"].sources) == {"text", "video"}
    assert found["image"].caught > 0.9


def test_media_that_tell_nothing_of_each_other_are_not_judged() -> None:
    sound = judge(related(1), np.ones((200, 4), dtype=bool), 0.05)["audio"]
    assert (sound.sources, sound.judged, sound.caught) == ((), 0, 0.0)
    assert not sound.flagged_N.any()


def test_no_item_vouches_for_itself() -> None:
    rng = np.random.default_rng(0)
    noise = {name: unit_rows(rng.normal(size=(60, 50))).astype(np.float32) for name in ("text", "image")}
    assert judge(noise, np.ones((60, 2), dtype=bool), 0.1)["image"].sources == ()


def test_a_clean_catalogue_with_a_strong_relation_is_hardly_touched() -> None:
    found = judge(related(2, noise=0.02), np.ones((200, 4), dtype=bool), 0.05)
    assert found["image"].judged == 200
    assert found["image"].flagged_N.sum() <= 2


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), rate=st.sampled_from([0.02, 0.05, 0.1, 0.2]), share=st.floats(0.3, 1.0))
def test_no_more_than_the_rate_is_flagged_and_nothing_that_is_missing(seed: int, rate: float, share: float) -> None:
    vectors = related(seed, items=120, noise=1.0)
    present = np.random.default_rng(seed).random((120, 4)) < share
    vectors = {name: rows * present[:, [place]] for place, (name, rows) in enumerate(vectors.items())}
    for place, name in enumerate(vectors):
        if name == "text":
            continue
        found = judge(vectors, present, rate)[name]
        assert found.flagged_N.sum() <= rate * found.judged
        assert not (found.flagged_N & ~present[:, place]).any()
        assert np.isfinite(found.score_N[found.flagged_N]).all()


def test_text_is_never_flagged() -> None:
    vectors = shuffled(related(3), np.arange(0, 200, 20), "text")
    assert "text" not in judge(vectors, np.ones((200, 4), dtype=bool), 0.05)


def test_quarantine_makes_missing_and_a_report_does_not(folder: Path) -> None:
    plain, report, drop = build(folder), build(folder, quality=True), build(folder, quality=True, quarantine=0.05)
    entry = report.manifest["quality"]["modalities"]["image"]
    assert entry["disagreeing"] > 0
    assert entry["quarantined"] == 0
    np.testing.assert_array_equal(report.present_NM, plain.present_NM)
    dropped = drop.manifest["quality"]["modalities"]["image"]
    gone = plain.present_NM[:, 0] & ~drop.present_NM[:, 0]
    assert dropped["quarantined"] == dropped["disagreeing"] == entry["disagreeing"] == gone.sum()
    assert {drop.item_ids[item] for item in np.flatnonzero(gone)} == set(dropped["disagreeing_items"])
    assert not drop.vectors["image"][gone].any()
    np.testing.assert_array_equal(drop.vectors["image"][~gone], plain.vectors["image"][~gone])
    assert drop.item_ids == plain.item_ids
    assert drop.manifest["quality"]["quarantine"] == "0.05"
    assert len({plain.digest, report.digest, drop.digest}) == 3
    filled = build(folder, quality=True, quarantine=0.05, impute="present")
    assert filled.present_NM[gone, 0].any()


def test_statistics_do_not_change_with_interactions(folder: Path) -> None:
    """Neither duplicates, selection nor quarantine: the bundle is the same byte for byte without any interaction."""
    settings = {"quality": True, "quarantine": 0.05, "select": "importance", "select_dims": 32}
    before = build(folder, **settings)
    shutil.copytree(folder / "set", folder / "alone")
    for name in ("interactions", "users"):
        (folder / "alone" / f"{name}.parquet").unlink()
    assert build(folder, "alone", **settings).digest == before.digest


def test_duplicates_are_named_in_the_manifest_and_kept(small_partner: Path, tmp_path: Path) -> None:
    bundle = build_bundle(
        open_catalogue(small_partner),
        tmp_path / "bundle",
        encoders=PICTURES[:1],
        transform=TransformConfig(quality=True),
        store=tmp_path / "store",
    )
    entry = bundle.manifest["quality"]["modalities"]["image"]
    assert entry["exact_duplicates"] == bundle.present_NM.sum() - 2  # two colours
    assert entry["exact_duplicate_items"][0] == ["i3", "i1"]
    assert entry["near_duplicates"] == 0
    assert len(bundle.item_ids) == 24
