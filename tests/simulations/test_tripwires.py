"""Tripwires on the real pipeline: where there is nothing to learn nothing is found, and nothing comes from elsewhere.

Federations of real sites over the loopback grid. A published federated recommender passes sampled evaluation with .53
where chance is .10 on pure noise; these tests are what would have caught it. That one user moves an update by no more
than the clip is tested in tests/client/test_gradients.py, that no user vector is on the wire in
tests/federation/test_wire.py.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load

from client.app import app as client_app
from client.site import Site
from mmrec_model.canonical import canonical_json
from mmrec_model.config import ModelConfig, PrivacyConfig, RunConfig, TrainingConfig
from mmrec_model.data.split_rules import SplitRule
from mmrec_model.data.writing import write_partner
from mmrec_model.evaluation.partner_quality import gains
from mmrec_model.evaluation.ranking import Ranks, chance_level, per_user, ranking_metrics, standard_errors
from mmrec_model.features.folder import open_bundle, write_bundle
from mmrec_model.model.recommender import initial_state
from mmrec_model.protocol import PRIOR, Arrays
from server.app import coordinate
from simulations.assessment import baseline_ranks, floor_ranks, model_ranks
from simulations.loopback import LoopbackGrid
from simulations.panels import Panel, Part, matrix_of, panel_of
from simulations.workspace import Recipe, found

N, WIDTH, NAMES, EACH = 60, 8, ("be", "fr", "nl"), 110
METRICS = ("recall_at_10", "ndcg_at_10", "mrr")
Taste = Callable[[np.random.Generator, np.ndarray], np.ndarray]
"""A generator and the item vectors -> how much a user likes every item."""


def by_content(rng: np.random.Generator, vectors: np.ndarray) -> np.ndarray:
    return 8.0 * vectors @ rng.normal(size=WIDTH) / np.sqrt(WIDTH) + rng.gumbel(size=N)


def by_nothing(rng: np.random.Generator, vectors: np.ndarray) -> np.ndarray:
    return rng.random(len(vectors))


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def public(folder: Path, taste: Taste, *, shuffled: bool = False, names: Sequence[str] = NAMES) -> Path:
    """Interactions of all partners' users; each partner's depend on its own name alone."""
    vectors = np.random.default_rng(4).normal(size=(N, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = []
    for name in names:
        rng = np.random.default_rng(list(name.encode()))
        for user in range(EACH):
            liked = np.argsort(-taste(rng, vectors))[:8]
            liked = rng.permutation(liked)
            rows += [(f"{name}-{user}", f"i{item:02d}", 1.6e9 + place) for place, item in enumerate(liked)]
    ids = [f"i{number:02d}" for number in range(N)]
    columns = ("user_id", "item_id", "timestamp")
    table = pa.table({name: [row[place] for row in rows] for place, name in enumerate(columns)})
    write_partner(folder / "data", interactions=table, items=pa.table({"item_id": ids, "title": ids, "text": ids}))
    shown = np.random.default_rng(5).permutation(vectors) if shuffled else vectors
    present = np.ones((N, 1), dtype=bool)
    files = {"items.json": canonical_json(list(ids)), "present.npy": npy(present), "text.npy": npy(shown)}
    write_bundle(folder / "features", files, {"items": N, "modalities": {}})
    return folder


class Federation:
    """A workspace of enrolled sites that trains over the loopback grid, without noise so that runs can be compared."""

    def __init__(self, folder: Path, names: Sequence[str], split: SplitRule | None = None) -> None:
        self.out, self.names = folder / "run", names
        self.out.mkdir()
        (self.out / "features").symlink_to(folder / "features")
        bare = PrivacyConfig(
            mechanism="none", epsilon=None, delta=1e-4, noise_multiplier=0.0, popularity_noise_multiplier=0.0
        )
        self.config = RunConfig(
            run_id="tripwire",
            seed=0,
            features=open_bundle(folder / "features").spec,
            model=ModelConfig(hidden=4, trained_dims=6),
            training=TrainingConfig(rounds=3, max_history=6, negatives=5, micro_batch=512),
            privacy=bare,
            minimum_cohort=1,
        )
        (self.out / "plan.json").write_text(self.config.model_dump_json())
        groups = {name: [f"{name}-{user}" for user in range(EACH)] for name in names}
        recipe = Recipe(folder / "data", self.out, 16.0, 1e-4, 11, self.config.training, split=split)
        found(recipe, groups, self.config)

    def train(self, *answering: str) -> Arrays:
        """The final state when these partners take part."""
        roots = [self.out / "sites" / name for name in answering or self.names]
        coordinate(LoopbackGrid(client_app, roots, {}), self.out, initial_state)
        return load((self.out / "coordinator" / "final.safetensors").read_bytes())

    @property
    def sites(self) -> list[Site]:
        return [Site.open(self.out / "sites" / name) for name in self.names]

    def panel(self, part: Part = "test") -> Panel:
        return panel_of([site.dataset for site in self.sites], part)

    def ranks(self, panel: Panel, state: Arrays) -> Ranks:
        return model_ranks(self.config, self.sites[0].items, panel, state)

    def systems(self, state: Arrays) -> dict[str, Ranks]:
        """Every system of a report."""
        panel = self.panel()
        floors = floor_ranks(self.config, self.sites[0].items, panel, state)
        return {"federated": self.ranks(panel, state), **floors, **baseline_ranks(panel)}


def deviations(found: Ranks) -> dict[str, float]:
    """Distance from chance in standard errors, by metric."""
    mean, error, chance = ranking_metrics(found), standard_errors(found), chance_level(found)
    return {name: (mean[name] - chance[name]) / error[name] for name in METRICS}


def test_on_noise_every_system_stands_at_chance(tmp_path: Path) -> None:
    federation = Federation(public(tmp_path, by_nothing), NAMES)
    systems = federation.systems(federation.train())
    assert {"federated", "popularity_dp", "free_content", "popularity", "item_knn", "ease"} <= set(systems)
    far = {name: found for name, ranks in systems.items() if max(map(abs, (found := deviations(ranks)).values())) > 3}
    assert far == {}
    panel = federation.panel()
    answers = matrix_of(list(map(panel.task.of, range(len(panel.histories)))), N)
    noise = np.random.default_rng(0).random((len(panel.histories), N)).astype(np.float32)
    peeking = panel.rank(lambda users: noise[users] + 0.2 * answers[users].toarray())  # knows what was never a negative
    assert min(deviations(peeking).values()) > 3


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation(public(tmp_path_factory.mktemp("together"), by_content), NAMES)


@pytest.fixture(scope="module")
def trained(together: Federation) -> Arrays:
    return together.train()


def test_content_is_far_above_chance_and_falls_to_it_when_the_items_vectors_are_shuffled(
    together: Federation, trained: Arrays, tmp_path: Path
) -> None:
    federation = Federation(public(tmp_path, by_content, shuffled=True), NAMES)
    level = {PRIOR: np.zeros(N, dtype=np.float32)}
    right, wrong = (
        together.systems({**trained, **level}),
        federation.systems({**initial_state(federation.config), **level}),
    )
    assert min(deviations(right["free_content"]).values()) > 10
    for name in ("free_content", "federated"):  # the model before training is the free profile
        assert max(map(abs, deviations(wrong[name]).values())) < 3
    assert deviations(wrong["popularity"]) == deviations(right["popularity"])
    assert per_user(right["federated"], "ndcg_at_10").mean() > 2 * per_user(wrong["federated"], "ndcg_at_10").mean()


def test_with_the_federation_off_a_partner_has_what_it_would_have_alone(trained: Arrays, tmp_path: Path) -> None:
    beside = tmp_path / "beside"
    beside.mkdir()
    off = Federation(public(beside, by_content), NAMES)
    alone_folder = tmp_path / "alone"
    alone_folder.mkdir()
    alone = Federation(public(alone_folder, by_content, names=NAMES[:1]), NAMES[:1])
    state_off, state_alone = off.train(NAMES[0]), alone.train()
    assert set(state_off) == set(state_alone)
    for name, array in state_alone.items():
        np.testing.assert_array_equal(state_off[name], array, err_msg=name)
    assert any((trained[name] != state_alone[name]).any() for name in state_alone)
    panel = alone.panel()
    ranks_off, ranks_alone = off.ranks(panel, state_off), alone.ranks(panel, state_alone)
    (gain,) = gains(ranks_off, ranks_alone, panel.partner_U, "ndcg_at_10").values()
    assert (gain.mean, gain.error) == (0.0, 0.0)


def test_items_held_out_on_purpose_are_in_no_training_and_content_alone_finds_them(tmp_path: Path) -> None:
    rule = SplitRule.parse("user-time:0.2,0.4+cold:0.2,1")
    federation = Federation(public(tmp_path, by_content), NAMES, rule)
    state = federation.train()
    cold, test = federation.panel("cold"), federation.panel()
    assert np.diff(test.task.offsets).max() > 1
    held_out = np.unique(cold.task.flat_targets)
    assert len(held_out) == round(0.2 * N)
    assert not cold.counts_N[held_out].any()
    assert not np.isin(test.task.flat_targets, held_out).any()
    level = {**state, PRIOR: np.zeros(N, dtype=np.float32)}  # a popularity prior buries what nobody has touched
    assert min(deviations(federation.ranks(cold, level)).values()) > 5
    for name, ranks in baseline_ranks(cold).items():
        assert per_user(ranks, "recall_at_10").mean() < chance_level(ranks)["recall_at_10"], name
