"""Own media of users are encoded at the site, move the update, and appear in nothing that is sent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from client import plan_parts
from client.measurement import measure
from client.policy import Policy
from client.release import answer
from client.site import Site, SiteConfig, enrol
from mmrec_model import MultimodalRecommender
from mmrec_model.config import EncoderConfig, ModelConfig, PrivacyConfig, RunConfig, TrainingConfig, TransformConfig
from mmrec_model.data.catalogue import open_catalogue
from mmrec_model.data.writing import write_partner
from mmrec_model.encoders import text as text_encoders
from mmrec_model.errors import ModelError
from mmrec_model.features.bundle import build_bundle
from mmrec_model.features.own_media import loaded_encoder
from mmrec_model.model.folder import save_model
from mmrec_model.model.items import Items
from mmrec_model.model.recommender import initial_state
from mmrec_model.model.scoring import score_catalogue
from mmrec_model.privacy.noise import GaussianNoise
from mmrec_model.protocol import Arrays, Kind, Request, arrays_digest

N_ITEMS, N_USERS = 16, 24
SECRET = "a very private sentence about"  # noqa: S105 - planted, to be searched for


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Items with text and picture, and their bundle by the encoders that need no download."""
    folder = tmp_path_factory.mktemp("public")
    (folder / "items").mkdir()
    rng = np.random.default_rng(0)
    for item in range(N_ITEMS):
        Image.fromarray(rng.integers(0, 255, size=(32, 32, 3), dtype=np.uint8)).save(folder / "items" / f"{item}.png")
    texts = [" ".join(rng.choice(["red", "dry", "old", "sweet", "light", "oak"], size=4)) for _ in range(N_ITEMS)]
    items = pa.table({
        "item_id": [f"i{item}" for item in range(N_ITEMS)],
        "title": texts,
        "text": texts,
        "image": [f"{item}.png" for item in range(N_ITEMS)],
    })  # fmt: skip
    write_partner(folder / "items", interactions=interactions(1), items=items, users=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_encoders, "packaged_minilm", lambda: None)
        build_bundle(
            open_catalogue(folder / "items"),
            folder / "features",
            encoders=[EncoderConfig(modality="text"), EncoderConfig(modality="image")],
            transform=TransformConfig(dims=6),
            store=folder / "store",
        )
    return folder


@pytest.fixture(autouse=True)
def quick_text_encoder(monkeypatch):
    """The configured network stands in for MiniLM, at the site as in the bundle, and is forgotten afterwards."""
    monkeypatch.setattr(text_encoders, "packaged_minilm", lambda: None)
    loaded_encoder.cache_clear()
    yield
    loaded_encoder.cache_clear()


def interactions(users: int) -> pa.Table:
    rng = np.random.default_rng(1)
    rows = [
        (f"u{user:02d}", f"i{item}", float(1_600_000_000 + place))
        for user in range(users)
        for place, item in enumerate(rng.choice(N_ITEMS, size=5, replace=False))
    ]
    return pa.table({name: [row[at] for row in rows] for at, name in enumerate(("user_id", "item_id", "timestamp"))})


def site_of(root: Path, public: Path, *, with_media: bool = True) -> Site:
    """Every second user has a text, one a picture, one a damaged one; some are not in the file at all."""
    users = None
    if with_media:
        (root / "data").mkdir(parents=True)
        Image.new("RGB", (24, 24), (200, 20, 20)).save(root / "data" / "me.png")
        (root / "data" / "broken.png").write_bytes(b"no picture")
        known = range(N_USERS - 4)
        users = pa.table({
            "user_id": [f"u{user:02d}" for user in known],
            "text": [f"{SECRET} {'sweet' if user % 4 else 'oak'}" if user % 2 else "" for user in known],
            "image": ["me.png" if user == 2 else "broken.png" if user == 4 else "" for user in known],
        })  # fmt: skip
    write_partner(root / "data", interactions=interactions(N_USERS), items=None, users=users)
    settings = SiteConfig(
        name="north",
        catalogue=str(public / "items"),
        features=str(public / "features"),
        users=N_USERS,
        simulation_seed=1,
    )
    return enrol(root, settings, Policy(max_delta=1e-3, allow_without_privacy=True, require_approval=False))


def plan(site: Site, *media: str) -> RunConfig:
    return RunConfig(
        run_id="own",
        seed=0,
        features=site.bundle.spec,
        model=ModelConfig(hidden=4, trained_dims=4, user_media=media),
        training=TrainingConfig(rounds=3, max_history=4, negatives=3, sample_rate=0.5),
        privacy=PrivacyConfig(mechanism="none", epsilon=None, noise_multiplier=0.0, popularity_noise_multiplier=0.0),
    )


def trained(site: Site, config: RunConfig) -> Arrays:
    arrays = {**initial_state(config), "prior": np.zeros(N_ITEMS, np.float32)}
    request = Request(config.run_id, 1, config.model_dump_json(), arrays_digest(arrays))
    result = answer(site, Kind.TRAIN, request, arrays)
    assert result.reply.refusal == "", result.reply.refusal_text
    return result.arrays


def test_own_media_are_unit_vectors_of_the_users_who_have_them(tmp_path, public):
    site = site_of(tmp_path, public)
    own = site.parts_of(plan(site, "text", "image")).own_media()
    assert own is not None
    text, image = own.present_M.numpy().T
    assert text.tolist() == [user % 2 == 1 and user < N_USERS - 4 for user in range(N_USERS)]
    assert image.tolist() == [user == 2 for user in range(N_USERS)], "a damaged picture is missing"
    for name, present in (("text", text), ("image", image)):
        np.testing.assert_allclose(np.linalg.norm(own.vectors[name].numpy(), axis=1), present, atol=1e-5)


def test_own_media_move_the_update_and_nothing_of_them_is_sent(tmp_path, public):
    with_media, without = site_of(tmp_path / "a", public), site_of(tmp_path / "b", public, with_media=False)
    config = plan(with_media, "text", "image")
    found, plain = trained(with_media, config), trained(without, config)
    assert {name: array.shape for name, array in found.items()} == {
        n: a.shape for n, a in initial_state(config).items()
    }
    assert np.abs(found["interaction.weight"] - plain["interaction.weight"]).max() > 1e-6
    sent = b"".join(array.tobytes() for array in found.values())
    own = with_media.parts_of(config).own_media()
    assert own is not None
    for user in np.flatnonzero(own.present_M.any(-1)):
        for rows in own.vectors.values():
            assert not rows[user].any() or rows[user].numpy().tobytes() not in sent
    assert SECRET.encode() not in sent


def test_without_the_setting_own_media_are_not_even_read(tmp_path, public, monkeypatch):
    site = site_of(tmp_path, public)
    monkeypatch.setattr("client.plan_parts.read_user_columns", lambda _folder: pytest.fail("users.* was read"))
    assert site.parts_of(plan(site)).own_media() is None
    trained(site, plan(site))


def test_own_media_are_encoded_once_for_all_requests_of_a_plan_and_again_where_a_picture_changed(
    tmp_path, public, monkeypatch
):
    site, loads, encoded = site_of(tmp_path, public), [], []
    load, encode = plan_parts.bundle_encoder, plan_parts.encode_own_media
    monkeypatch.setattr(plan_parts, "bundle_encoder", lambda *a: (loads.append(a[1]), load(*a))[1])
    monkeypatch.setattr(plan_parts, "encode_own_media", lambda *a, **k: (encoded.append(a[1]), encode(*a, **k))[1])
    config = plan(site, "text", "image")
    for run in range(3):
        state = {**initial_state(config), "prior": np.full(N_ITEMS, run, np.float32)}
        request = Request(config.run_id, run + 1, config.model_dump_json(), arrays_digest(state))
        assert answer(site, Kind.TRAIN, request, state).reply.refusal == ""
    assert (loads, encoded) == (["text", "image"], ["text", "image"])
    before = site.parts_of(config).own_media()
    Image.new("RGB", (24, 24), (20, 20, 200)).save(tmp_path / "data" / "me.png")
    after = site.parts_of(config).own_media()
    assert before is not None
    assert after is not None
    assert encoded == 2 * ["text", "image"]
    assert not torch.equal(before.vectors["image"][2], after.vectors["image"][2])
    assert site.parts_of(plan(site, "text")).own_media() is not None
    assert loads[2:] == ["text"], "another plan asks for its own"


def test_a_site_with_another_encoder_than_the_bundles_refuses_before_it_spends(tmp_path, public, monkeypatch):
    site = site_of(tmp_path, public)
    config = plan(site, "text")
    config = config.model_copy(update={"run_id": "other"})
    monkeypatch.setitem(site.bundle.manifest["modalities"]["text"]["encoder"], "digest", "f" * 64)
    reply = answer(site, Kind.DESCRIBE, Request("other", 0, config.model_dump_json()), {}).reply
    assert (reply.refusal, "FeatureError" in reply.refusal_text) == ("site", True)
    with site.open_ledger() as ledger:
        assert ledger.spent() == []


def test_a_profile_counts_in_the_library_as_at_the_site(tmp_path, public):
    site = site_of(tmp_path / "site", public)
    config = plan(site, "text", "image")
    state = {name: array + np.float32(0.1) for name, array in initial_state(config).items()}
    save_model(tmp_path / "model", config, {**state, "prior": np.zeros(N_ITEMS, np.float32)}, card="# A model\n")
    model = MultimodalRecommender.load(tmp_path / "model", features=public / "features")
    own = site.parts_of(config).own_media()
    assert own is not None
    text = model.score(["i1"], profile={"text": f"{SECRET} sweet"})
    expected = score_catalogue(model.exported.model, model.items, [np.array([1])], own.take(torch.tensor([[1]])))[0]
    np.testing.assert_allclose(text, expected, atol=1e-5)
    assert np.abs(text - model.score(["i1"])).max() > 1e-3
    picture = model.recommend(["i1"], k=3, profile={"image": tmp_path / "site" / "data" / "me.png"})
    assert [score for _, score in picture] != [score for _, score in model.recommend(["i1"], k=3)]
    np.testing.assert_allclose(model.score(["i1"], profile={"text": ""}), model.score(["i1"]), atol=1e-6)


def test_a_profile_that_the_model_does_not_read_is_refused(tmp_path, public):
    config = plan(site_of(tmp_path / "site", public), "text")
    state = {**initial_state(config), "prior": np.zeros(N_ITEMS, np.float32)}
    save_model(tmp_path / "model", config, state, card="# A model\n")
    model = MultimodalRecommender.load(tmp_path / "model", features=public / "features")
    with pytest.raises(ModelError, match="image"):
        model.score([], profile={"image": "me.png"})


def test_released_metrics_read_own_media_as_training_does(tmp_path, public):
    site = site_of(tmp_path, public)
    config = plan(site, "text", "image")
    state = {**initial_state(config), "prior": np.zeros(N_ITEMS, np.float32)}
    state["interaction.weight"] = np.random.default_rng(2).normal(scale=50.0, size=(4, 4)).astype(np.float32)

    def measured(own: Items | None) -> np.ndarray:
        return measure(config, site.items, site.dataset, state, GaussianNoise(seed=b"ties"), own=own)

    own = site.parts_of(config).own_media()
    assert own is not None
    assert np.abs(measured(own) - measured(None)).max() > 1e-3
    nobody = replace(own, present_M=torch.zeros_like(own.present_M))
    np.testing.assert_array_equal(measured(nobody), measured(None))


def test_own_texts_are_read_at_the_length_and_pooling_of_the_bundle(tmp_path, public):
    site = site_of(tmp_path, public)
    build_bundle(
        open_catalogue(public / "items"),
        tmp_path / "other",
        encoders=[EncoderConfig(modality="text", max_tokens=8, pooling="cls")],
        transform=TransformConfig(dims=6),
        store=tmp_path / "store",
    )
    found = Site(site.root, site.config.model_copy(update={"features": str(tmp_path / "other")}))
    encoder = found.parts_of(plan(found, "text")).own_encoders["text"]
    assert encoder.digest == found.bundle.manifest["modalities"]["text"]["encoder"]["digest"]
    assert encoder.digest != site.bundle.manifest["modalities"]["text"]["encoder"]["digest"]
