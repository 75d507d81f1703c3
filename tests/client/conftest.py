"""Real site folders over a small catalogue of random vectors: no encoder runs."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from client.policy import Policy
from client.release import Answer, answer
from client.site import Site, SiteConfig, enrol
from mmrec_model.canonical import canonical_json
from mmrec_model.config import ModelConfig, PrivacyConfig, RunConfig, TrainingConfig
from mmrec_model.config_ladder import CollaborationConfig, GateConfig
from mmrec_model.data.writing import write_partner
from mmrec_model.features.folder import open_bundle, write_bundle
from mmrec_model.features.signature import sign_bundle
from mmrec_model.model.recommender import initial_state
from mmrec_model.protocol import SCORER, SELECTED, Arrays, Kind, Reply, Request, arrays_digest, state_digest
from server.sites import Sites, coordinator_key, write_partners

N_ITEMS, N_USERS = 40, 60

MakeSite = Callable[..., Site]
MakeRequest = Callable[..., tuple[Request, Arrays]]


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Items file and feature bundle."""
    folder = tmp_path_factory.mktemp("public")
    ids = [f"i{number}" for number in range(N_ITEMS)]
    items = pa.table({"item_id": ids, "title": ids, "text": ids})
    write_partner(folder / "items", interactions=interactions(0, 1), items=items, users=None)
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(N_ITEMS, 10)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    files = {
        "items.json": canonical_json(list(ids)),
        "present.npy": npy(np.ones((N_ITEMS, 1), dtype=bool)),
        "text.npy": npy(vectors),
    }
    write_bundle(folder / "features", files, {"items": N_ITEMS, "modalities": {}})
    return folder


def interactions(first: int, users: int) -> pa.Table:
    rng = np.random.default_rng(first + 1)
    rows = [
        (f"u{first + user}", f"i{item}", float(1_600_000_000 + place))
        for user in range(users)
        for place, item in enumerate(rng.choice(N_ITEMS, size=6, replace=False))
    ]
    names = ("user_id", "item_id", "timestamp")
    return pa.table({name: [row[column] for row in rows] for column, name in enumerate(names)})


@pytest.fixture
def make_site(tmp_path: Path, catalogue: Path) -> MakeSite:
    """A newly enrolled site; `policy` overrides fields, `seed` None draws from the operating system.

    Without a `coordinator` (its public key) the site answers requests that nobody signed. With one it has a copy of the
    bundle of its own, for that coordinator to sign.
    """

    def make(
        name: str = "north",
        *,
        users: int = N_USERS,
        seed: int | None = 1,
        coordinator: str | None = None,
        **policy: object,
    ) -> Site:
        root = tmp_path / "sites" / name
        write_partner(root / "data", interactions=interactions(0, users), items=None, users=None)
        if coordinator is not None:
            shutil.copytree(catalogue / "features", root / "features")
        settings = SiteConfig(
            name=name,
            catalogue=str(catalogue / "items"),
            features=str(catalogue / "features") if coordinator is None else "features",
            users=users,
            coordinator_key=coordinator,
            simulation_seed=seed,
        )
        return enrol(root, settings, Policy(**{"max_delta": 1e-3, "require_approval": False, **policy}))

    return make


@pytest.fixture
def config(catalogue: Path) -> RunConfig:
    """A plan of three rounds, of epsilon well below 8."""
    return RunConfig(
        run_id="run-1",
        seed=0,
        features=open_bundle(catalogue / "features").spec,
        model=ModelConfig(hidden=4, trained_dims=6),
        training=TrainingConfig(rounds=3, local_steps=2, max_history=4, negatives=3, sample_rate=0.3, micro_batch=8),
        privacy=PrivacyConfig(epsilon=4.0, delta=1e-3, noise_multiplier=1.5, popularity_noise_multiplier=3.0),
    )


@pytest.fixture
def make_request(config: RunConfig) -> MakeRequest:
    """A well-formed request of a round, with its arrays; `plan` replaces the configuration."""

    def make(round_number: int, *, plan: RunConfig | None = None) -> tuple[Request, Arrays]:
        used = plan or config
        arrays: Arrays = {}
        if round_number:
            arrays = {**initial_state(used), "prior": np.zeros(used.features.items, dtype=np.float32)}
        digest = arrays_digest(arrays) if arrays else ""
        return Request(used.run_id, round_number, used.model_dump_json(), digest), arrays

    return make


PAIR_ITEMS = 12


@pytest.fixture
def ladder(config: RunConfig) -> RunConfig:
    """The same plan with pairs of 12 items and a gate."""
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"collaboration_weight": 0.3}),
            "collaboration": CollaborationConfig(items=PAIR_ITEMS, history=5, noise_multiplier=2.0),
            "gate": GateConfig(metric="ndcg_at_10", noise_multiplier=3.0),
        }
    )


@pytest.fixture
def scorer() -> Arrays:
    """A scorer of the plan's size."""
    weights = np.random.default_rng(4).normal(size=(PAIR_ITEMS, PAIR_ITEMS)).astype(np.float32)
    np.fill_diagonal(weights, 0.0)
    return {SCORER: weights, SELECTED: np.arange(1, 3 * PAIR_ITEMS, 3, dtype=np.float32)}


@pytest.fixture
def make_ladder_request(ladder: RunConfig, scorer: Arrays) -> Callable[[Kind], tuple[Request, Arrays]]:
    """A well-formed request of the one round that PAIRS, SCORER or COMPARE has in the plan, or of TRAIN round 1."""

    def make(kind: Kind) -> tuple[Request, Arrays]:
        plan = ladder.model_dump_json()
        if kind in {Kind.PAIRS, Kind.SCORER}:
            arrays = {SELECTED: scorer[SELECTED]} if kind is Kind.PAIRS else dict(scorer)
            return Request(ladder.run_id, 0, plan, arrays_digest(arrays)), arrays
        arrays = {**initial_state(ladder), "prior": np.linspace(-1, 1, N_ITEMS).astype(np.float32)}
        number = ladder.training.rounds + 1 if kind is Kind.COMPARE else 1
        digest = arrays_digest(scorer)
        return Request(ladder.run_id, number, plan, state_digest(arrays, digest), digest), arrays

    return make


class Federation:
    """A coordinator and one partner; `ask` sends a message and hands the reply to the coordinator."""

    def __init__(self, folder: Path, make_site: MakeSite, make_request: MakeRequest) -> None:
        self.folder = folder
        key = coordinator_key(folder)
        self.site = make_site("north", coordinator=key.public.hexadecimal, seed=None)
        self.sign_features()
        write_partners(folder, {"north": self.site.public_key})
        self._make_request = make_request

    def sign_features(self) -> None:
        """The coordinator's signature of the partner's bundle, by the key now in force."""
        sign_bundle(self.site.root / "features", coordinator_key(self.folder))

    def request(self, kind: Kind, round_number: int = 0) -> tuple[Request, Arrays]:
        """A signed request and its arrays."""
        plain, arrays = self._make_request(round_number)
        with Sites.open(self.folder) as sites:
            if kind is Kind.DESCRIBE:
                return sites.describe(plain), arrays
            return sites.address(kind, plain, "north"), arrays

    def admit(self, reply: Reply) -> None:
        """Hand a reply to the coordinator."""
        with Sites.open(self.folder) as sites:
            sites.admit(reply)

    def ask(self, kind: Kind, round_number: int = 0) -> Answer:
        """The partner's answer, admitted unless it is a refusal."""
        result = answer(self.site, kind, *self.request(kind, round_number))
        if not result.reply.refusal:
            self.admit(result.reply)
        return result

    def start(self, rounds: int) -> None:
        """Everything up to and with so many training rounds."""
        codes = [self.ask(Kind.DESCRIBE), self.ask(Kind.POPULARITY)]
        codes += [self.ask(Kind.TRAIN, number) for number in range(1, rounds + 1)]
        assert [result.reply.refusal for result in codes] == [""] * (rounds + 2)


@pytest.fixture
def federation(tmp_path: Path, make_site: MakeSite, make_request: MakeRequest) -> Federation:
    """A coordinator with one enrolled partner."""
    return Federation(tmp_path / "coordinator", make_site, make_request)
