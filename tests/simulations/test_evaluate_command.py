"""`mmrec evaluate`: an export and a folder in, the record of one panel out; no partner is asked."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import typer
from typer.testing import CliRunner, Result

from mmrec_model.canonical import canonical_json
from mmrec_model.config import ModelConfig, PrivacyConfig, RunConfig
from mmrec_model.data.writing import write_partner
from mmrec_model.features.folder import open_bundle, write_bundle
from mmrec_model.library import MultimodalRecommender
from mmrec_model.model.folder import save_model
from mmrec_model.model.recommender import initial_state
from simulations import evaluate_command
from simulations.quality_record import QualityRecord

N = 20


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained export whose items lie in two groups, and a panel of users who like one of them."""
    folder, rng = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    vectors = np.eye(6, dtype=np.float32)[np.arange(N) % 2] + 0.2 * rng.normal(size=(N, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"i{number}" for number in range(N)]
    files = {
        "items.json": canonical_json(list(ids)),
        "present.npy": npy(np.ones((N, 1), bool)),
        "text.npy": npy(vectors),
    }
    write_bundle(folder / "features", files, {"items": N, "modalities": {}})
    config = RunConfig(
        run_id="mine",
        seed=0,
        features=open_bundle(folder / "features").spec,
        model=ModelConfig(hidden=4, trained_dims=4),
        privacy=PrivacyConfig(epsilon=8.0, noise_multiplier=1.0, popularity_noise_multiplier=2.0),
    )
    prior = rng.normal(size=N).astype(np.float32)
    save_model(folder / "model", config, {**initial_state(config), "prior": prior}, card="# A model\n")
    seen = [
        (f"u{user}", f"i{item}", 100 + place)
        for user in range(60)
        for place, item in enumerate(rng.choice(np.arange(user % 2, N, 2), size=6, replace=False))
    ]
    seen += [("u0", "unknown", 1)]
    columns = ("user_id", "item_id", "timestamp")
    rows = pa.table({name: [row[place] for row in seen] for place, name in enumerate(columns)})
    order = ids[::-1]
    items = pa.table(
        {"item_id": order, "title": order, "text": order, "category": [str(int(i[1:]) % 2) for i in order]}
    )
    write_partner(folder / "panel", interactions=rows, items=items)
    return folder


def evaluate(*words: object) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    evaluate_command.register(app)
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


def test_the_record_is_that_of_the_library_face_and_knows_categories(run: Path, tmp_path: Path) -> None:
    done = evaluate(run / "model", "--data", run / "panel", "--json", "--out", tmp_path / "q.json")
    assert done.exit_code == 0, done.exception
    record = QualityRecord.model_validate_json(done.stdout)
    assert (tmp_path / "q.json").read_text() == done.stdout
    assert "unknown_item: 1 rows" in done.stderr
    assert (record.overall.users, record.items, record.system) == (60, N, "mine")
    assert {pair.other for pair in record.against} == {"popularity_dp", "free_content", "free_content_with_prior"}
    assert record.lists.divergence is not None
    assert record.lists.divergence.value < 0.7
    assert set(record.lists.distance) == {"text"}
    model = MultimodalRecommender.load(run / "model")
    hits = 0
    for user in range(60):
        rng_rows = [row for row in _rows(run) if row[0] == f"u{user}" and row[1] != "unknown"]
        items = [row[1] for row in sorted(rng_rows, key=lambda row: row[2])]
        hits += items[-1] in {one.item_id for one in model.recommend(items[:-1], 10)}
    assert record.overall.metrics["recall_at_10"].value == pytest.approx(hits / 60, abs=1e-6)


def _rows(run: Path) -> list[tuple[str, str, int]]:
    import pyarrow.parquet as pq

    table = pq.read_table(run / "panel" / "interactions.parquet").to_pydict()
    return list(zip(table["user_id"], table["item_id"], table["timestamp"], strict=True))


def test_another_split_holds_out_more_and_the_page_is_written(run: Path, tmp_path: Path) -> None:
    done = evaluate(
        run / "model", "--data", run / "panel", "--split", "user-time:0.2,0.4+cold:0.1", "--page", tmp_path / "q.html"
    )
    assert done.exit_code == 0, done.exception
    assert "user-time:0.2,0.4+cold:0.1,0" in done.stdout.replace("\n", " ")
    assert "kept out of training" in done.stdout
    assert "Quality in detail" in (tmp_path / "q.html").read_text()


def test_a_split_that_holds_nothing_out_and_a_word_that_names_none_are_refused(run: Path) -> None:
    late = evaluate(run / "model", "--data", run / "panel", "--split", "global-time:2020-01-01,2020-02-01")
    assert "held-out item" in str(late.exception)
    assert "names no split" in str(evaluate(run / "model", "--data", run / "panel", "--split", "random").exception)
