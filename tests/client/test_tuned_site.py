"""A site tunes the text encoder with its own copy of it, or refuses before anything is spent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from client.policy import Policy
from client.release import answer
from client.site import Site, SiteConfig, enrol
from mmrec_model import MultimodalRecommender
from mmrec_model.config import (
    EncoderConfig,
    ModelConfig,
    PrivacyConfig,
    RunConfig,
    TrainingConfig,
    TransformConfig,
    TunedTextConfig,
)
from mmrec_model.data.catalogue import open_catalogue
from mmrec_model.data.writing import write_partner
from mmrec_model.features.bundle import build_bundle
from mmrec_model.features.folder import FeatureBundle, open_bundle
from mmrec_model.model import recommender
from mmrec_model.model.folder import save_model
from mmrec_model.model.items import Items
from mmrec_model.model.recommender import build_model
from mmrec_model.model.scoring import score_catalogue
from mmrec_model.model.texts import Texts
from mmrec_model.protocol import Arrays, Kind, Request, arrays_digest

N_ITEMS, N_USERS = 20, 30
WORDS = [f"w{number}" for number in range(12)]


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT, saved as published models are."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = {word: place for place, word in enumerate(["[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 - a word of a vocabulary
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    published = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", model_max_length=16)  # noqa: S106
    published.save_pretrained(folder)
    shape = BertConfig(
        vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=16,
    )  # fmt: skip
    BertModel(shape).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Path) -> Path:
    """`items` and two bundles of it: one with token ids, one without."""
    folder = tmp_path_factory.mktemp("public")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=4)) for _ in range(N_ITEMS)]
    items = pa.table({"item_id": [f"i{number}" for number in range(N_ITEMS)], "title": [""] * N_ITEMS, "text": texts})
    write_partner(folder / "items", interactions=interactions(1), items=items, users=None)
    for name in ("features", "plain"):
        build_bundle(
            open_catalogue(folder / "items"),
            folder / name,
            encoders=[EncoderConfig(modality="text", source=str(encoder_folder), max_tokens=16)],
            transform=TransformConfig(dims=4),
            store=folder / "store",
            tokens=name == "features",
        )
    return folder


def interactions(users: int) -> pa.Table:
    rng = np.random.default_rng(1)
    rows = [
        (f"u{user}", f"i{item}", float(1_600_000_000 + place))
        for user in range(users)
        for place, item in enumerate(rng.choice(N_ITEMS, size=5, replace=False))
    ]
    return pa.table({name: [row[at] for row in rows] for at, name in enumerate(("user_id", "item_id", "timestamp"))})


def plan(bundle: FeatureBundle, **encoder: object) -> RunConfig:
    """Tunes adapters of the bundle's encoder, which lies nowhere that the plan could name."""
    digest = bundle.manifest["modalities"]["text"]["encoder"]["digest"]
    settings = {"source": "/absent", "digest": digest, "max_tokens": 16, "rank": 2} | encoder
    return RunConfig(
        run_id="tuned",
        seed=0,
        features=bundle.spec,
        model=ModelConfig(hidden=4, trained_dims=4, scope="lora", text_encoder=TunedTextConfig(**settings)),
        training=TrainingConfig(rounds=2, max_history=3, negatives=2, sample_rate=0.5, micro_batch=4),
        privacy=PrivacyConfig(epsilon=4.0, delta=1e-3, noise_multiplier=2.0, popularity_noise_multiplier=3.0),
    )


@pytest.fixture
def site(tmp_path: Path, public: Path, encoder_folder: Path) -> Site:
    return enrolled(tmp_path, public / "features", encoder_folder)


def enrolled(root: Path, features: Path, encoder_folder: Path) -> Site:
    write_partner(root / "data", interactions=interactions(N_USERS), items=None, users=None)
    settings = SiteConfig(
        name="north",
        catalogue=str(features.parent / "items"),
        features=str(features),
        users=N_USERS,
        text_encoder=str(encoder_folder),
        simulation_seed=1,
    )
    return enrol(root, settings, Policy(max_delta=1e-3, require_approval=False))


def requested(config: RunConfig, encoder_folder: Path) -> tuple[Request, Arrays]:
    weights = build_model(config, encoder_source=str(encoder_folder)).trainable_state()
    arrays = {name: weight.numpy() for name, weight in weights.items()} | {"prior": np.zeros(N_ITEMS, np.float32)}
    return Request(config.run_id, 1, config.model_dump_json(), arrays_digest(arrays)), arrays


def test_a_site_trains_adapters_with_its_own_copy_of_the_encoder(site, encoder_folder):
    request, arrays = requested(plan(site.bundle), encoder_folder)
    result = answer(site, Kind.TRAIN, request, arrays)
    assert result.reply.refusal == ""
    assert set(result.arrays) == set(arrays) - {"prior"} | {"witness"}
    adapters = [name for name in result.arrays if "lora_" in name]
    assert len(adapters) == 4
    assert all(np.abs(result.arrays[name]).max() > 0 for name in adapters)


def test_the_model_is_built_once_for_all_requests_of_a_plan_and_once_more_to_train(site, encoder_folder, monkeypatch):
    built = []
    real = recommender.build_text_tower
    monkeypatch.setattr(recommender, "build_text_tower", lambda *a, **k: (built.append(1), real(*a, **k))[1])
    config = plan(site.bundle)
    request, arrays = requested(config, encoder_folder)
    built.clear()
    for kind in (Kind.DESCRIBE, Kind.POPULARITY, Kind.DESCRIBE):
        free = Request(config.run_id, 0, config.model_dump_json())
        assert answer(site, kind, free, {}).reply.refusal == ""
    assert len(built) == 1
    assert answer(site, Kind.TRAIN, request, arrays).reply.refusal == ""
    assert len(built) == 2
    assert answer(site, Kind.TRAIN, request, arrays).arrays, "the stored reply"
    assert len(built) == 2
    other = config.model_copy(update={"run_id": "next", "seed": 1})
    answer(site, Kind.DESCRIBE, Request("next", 0, other.model_dump_json()), {})
    assert len(built) == 3, "another plan is another model"


def test_another_encoder_is_refused_by_name_before_anything_is_spent(tmp_path, public, site, encoder_folder):
    other = plan(site.bundle, digest="f" * 64)
    reply = answer(site, Kind.DESCRIBE, Request("tuned", 0, other.model_dump_json()), {}).reply
    assert (reply.refusal, reply.refusal_text.count("ffffffffffff")) == ("encoder", 1)
    bare = enrolled(tmp_path / "bare", public / "plain", encoder_folder)
    reply = answer(bare, Kind.DESCRIBE, Request("tuned", 0, plan(bare.bundle).model_dump_json()), {}).reply
    assert reply.refusal == "encoder"
    with site.open_ledger() as ledger:
        assert ledger.spent() == []


def test_an_encoder_whose_weights_were_changed_at_the_site_is_refused(site, tmp_path, encoder_folder, public):
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in encoder_folder.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    config = BertConfig.from_pretrained(changed)
    torch.manual_seed(9)
    BertModel(config).save_pretrained(changed)
    other = enrolled(tmp_path / "other", public / "features", changed)
    reply = answer(other, Kind.DESCRIBE, Request("tuned", 0, plan(other.bundle).model_dump_json()), {}).reply
    assert (reply.refusal, "ModelError" in reply.refusal_text) == ("site", True)


def test_an_export_of_adapters_serves_by_one_call(tmp_path, public, encoder_folder):
    config = plan(open_bundle(public / "features"), source=str(encoder_folder))
    model = build_model(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    state = {name: weight.numpy() for name, weight in model.trainable_state().items()}
    prior = np.linspace(0, 1, N_ITEMS).astype(np.float32)
    save_model(tmp_path / "model", config, {**state, "prior": prior}, card="# A model\n")
    assert (tmp_path / "model" / "model.safetensors").stat().st_size < 16_000, "the base weights stay outside"
    loaded = MultimodalRecommender.load(tmp_path / "model", features=public / "features")
    bundle = open_bundle(public / "features")
    catalogue = Items.from_arrays(
        bundle.vectors, np.asarray(bundle.present_NM), prior, texts=Texts.open(public / "features")
    )
    expected = score_catalogue(model, catalogue, [np.array([1, 7])])[0]
    np.testing.assert_allclose(loaded.score(["i1", "i7"]), expected, atol=1e-5)
    frozen = score_catalogue(build_model(config), catalogue, [np.array([1, 7])])[0]
    assert np.abs(expected - frozen).max() > 1e-2
