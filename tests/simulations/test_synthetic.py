"""The synthetic folder: the same bytes every time, in the partner format, with a truth that can be recomputed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrec_model.config import MODALITIES
from mmrec_model.data.dataset import open_partner
from mmrec_model.errors import DataError, UsageError
from simulations.partition import partition_by_column, read_users
from simulations.synthetic import KnownAnswer, true_utilities, write_synthetic
from simulations.synthetic.answer import answer_of, leave_last_out
from simulations.synthetic.attributes import ATTRIBUTES, REGIONS, SPARSE_ORIGIN, seen_in
from simulations.synthetic.outcomes import draw_outcomes
from simulations.synthetic.taste import SHORTEST_HISTORY, World, draw_world

USERS, ITEMS, SEED = 60, 24, 3


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    write_synthetic(folder, users=USERS, items=ITEMS, seed=SEED)
    return folder


@pytest.fixture(scope="module")
def world() -> World:
    """The world of the default size, without its files."""
    return draw_world(2400, 400, 0)


@pytest.fixture(scope="module")
def answer(world: World) -> KnownAnswer:
    return answer_of(world, draw_outcomes(world, 0), 0)


def test_the_same_arguments_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_synthetic(tmp_path, users=USERS, items=ITEMS, seed=SEED)
    assert digests(tmp_path) == digests(folder)


def test_another_seed_gives_other_tables_texts_and_media(folder: Path, tmp_path: Path) -> None:
    write_synthetic(tmp_path, users=USERS, items=ITEMS, seed=SEED + 1)
    old, new = digests(folder), digests(tmp_path)
    assert not [name for name in old.keys() & new.keys() if old[name] == new[name]]


def test_the_folder_is_a_partner_folder_without_a_single_complaint(folder: Path) -> None:
    dataset = open_partner(folder)
    assert len(dataset) == USERS
    assert len(dataset.catalogue) == ITEMS
    report = dataset.report.to_text()
    assert "quarantine" not in report
    assert len(report.splitlines()) == 3, report


def test_every_named_file_exists_and_every_file_is_named(folder: Path) -> None:
    items = pq.read_table(folder / "items.parquet").to_pylist()
    named = {row[medium] for row in items for medium in ("image", "audio", "video") if row[medium] is not None}
    assert named == {path.relative_to(folder).as_posix() for path in (folder / "media").rglob("*.*")}
    assert named


def test_the_tables_tell_the_histories_of_the_drawn_world(folder: Path) -> None:
    world = draw_world(USERS, ITEMS, SEED)
    events = pq.read_table(folder / "interactions.parquet").to_pylist()
    rows = [row for row in events if row["event"] == "click"]
    for user, (history, times) in enumerate(zip(world.histories, world.times, strict=True)):
        own = sorted((row["timestamp"], row["item_id"]) for row in rows if row["user_id"] == f"u{user:06d}")
        assert own == [(int(time), f"i{item:05d}") for time, item in zip(times, history, strict=True)]


def test_the_regions_are_partners_of_their_own(folder: Path) -> None:
    users = read_users(folder)
    assert {row["silo_region"] for row in users.values()} <= set(REGIONS)
    assert set(partition_by_column(users, "silo_region", minimum_users=1)) <= set(REGIONS)


def test_the_known_answer_is_read_back_as_it_was_written(folder: Path, tmp_path: Path) -> None:
    answer = KnownAnswer.load(folder)
    assert (answer.users, answer.items, answer.seed) == (USERS, ITEMS, SEED)
    answer.save(tmp_path)
    assert KnownAnswer.load(tmp_path) == answer


@pytest.mark.parametrize("content", [b"", b"[]", b'{"users": 1}', b"\xff"])
def test_a_damaged_known_answer_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "known_answer.json").write_bytes(content)
    with pytest.raises(DataError, match="not a known answer"):
        KnownAnswer.load(tmp_path)


def test_the_true_utilities_need_the_seed_alone() -> None:
    assert np.array_equal(true_utilities(50, 30, 9), draw_world(50, 30, 9).utilities())
    assert not np.array_equal(true_utilities(50, 30, 9), true_utilities(50, 30, 10))


def test_utilities_are_the_sum_of_their_attributes_and_the_appeal(world: World) -> None:
    parts = [world.utilities({attribute.name}, appeal=False) for attribute in ATTRIBUTES]
    assert np.allclose(sum(parts) + world.appeal_I, world.utilities())


def test_missing_media_hide_what_no_other_medium_shows(world: World) -> None:
    complete_I = world.present_IM.all(axis=1)
    seen, true = world.visible_utilities(), world.utilities()
    assert np.allclose(seen[:, complete_I], true[:, complete_I])
    assert np.abs(seen - true)[:, ~complete_I].max() > 1.0


def test_histories_hold_distinct_items_in_strict_order_of_time(world: World) -> None:
    assert all(len(set(history)) == len(history) >= SHORTEST_HISTORY for history in world.histories)
    assert all((np.diff(times) > 0).all() for times in world.times)
    assert 10 <= np.median([len(history) for history in world.histories]) <= 14


def test_each_medium_adds_and_content_lies_between_popularity_and_oracle(answer: KnownAnswer) -> None:
    ndcg = {name: values["ndcg_at_10"] for name, values in answer.metrics.items()}
    assert all(ndcg[medium] > 3 * ndcg["chance"] for medium in MODALITIES)
    assert all(ndcg["content"] > 2 * ndcg[medium] for medium in MODALITIES)
    assert ndcg["popularity"] > 2 * ndcg["chance"]
    assert ndcg["profile"] > 2 * ndcg["popularity"]
    assert ndcg["visible"] > 1.5 * ndcg["profile"]
    assert ndcg["oracle"] > ndcg["visible"]
    assert ndcg["oracle"] > ndcg["content"]


def test_no_medium_can_be_left_out(world: World, answer: KnownAnswer) -> None:
    for medium in MODALITIES:
        others = {name for other in MODALITIES if other != medium for name in seen_in(other)}
        without = leave_last_out(world.utilities(others), world.histories)
        assert without["ndcg_at_10"] < 0.9 * answer.metrics["oracle"]["ndcg_at_10"]


def test_chance_is_what_counting_says(world: World, answer: KnownAnswer) -> None:
    expected = float(np.mean([10 / (400 - len(history) + 1) for history in world.histories]))
    assert answer.metrics["chance"]["recall_at_10"] == pytest.approx(expected, abs=3 * (expected / 2400) ** 0.5)


def test_ranks_agree_with_sorting_by_hand() -> None:
    rng = np.random.default_rng(0)
    score_UI = rng.normal(size=(40, 60))
    histories = [rng.permutation(60)[: rng.integers(1, 9)] for _ in range(40)]
    hits, gains = [], []
    for user, history in enumerate(histories):
        order = [item for item in np.argsort(-score_UI[user]) if item not in set(history[:-1])]
        place = order.index(history[-1])
        hits.append(place < 10)
        gains.append(1 / np.log2(place + 2) if place < 10 else 0.0)
    metrics = leave_last_out(score_UI, histories)
    assert metrics["recall_at_10"] == pytest.approx(np.mean(hits))
    assert metrics["ndcg_at_10"] == pytest.approx(np.mean(gains))


def test_media_are_missing_at_random_and_mostly_at_one_origin(world: World) -> None:
    origin = [attribute.name for attribute in ATTRIBUTES].index("origin")
    sparse_I = world.values_IA[:, origin] == REGIONS.index(SPARSE_ORIGIN)
    text, image, audio, video = range(len(MODALITIES))
    present = world.present_IM
    assert present[:, text].all()
    assert 0.8 < present[:, image].mean() < 0.9
    assert all(0.8 < present[~sparse_I, medium].mean() < 0.9 for medium in (audio, video))
    assert all(present[sparse_I, medium].mean() < 0.4 for medium in (audio, video))


def test_partners_differ_in_taste_and_like_what_comes_from_home(world: World) -> None:
    for column, attribute in enumerate(ATTRIBUTES):
        shares_RV = np.zeros((len(REGIONS), len(attribute.values)))
        for region, history in zip(world.region_U, world.histories, strict=True):
            np.add.at(shares_RV[region], world.values_IA[history, column], 1.0)
        shares_RV /= shares_RV.sum(axis=1, keepdims=True)
        assert (shares_RV.max(axis=0) / shares_RV.min(axis=0)).max() > 1.3, attribute.name
        if attribute.name == "origin":
            assert (np.argmax(shares_RV / shares_RV.mean(axis=0), axis=1) == np.arange(len(REGIONS))).all()


def test_progress_counts_every_item_once(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_synthetic(tmp_path, users=2, items=20, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 20) for done in range(1, 21)]


@pytest.mark.parametrize(("name", "value"), [("users", 0), ("items", 19), ("seed", -1)])
def test_a_number_that_is_too_small_is_refused_with_its_limit(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(UsageError, match=rf"{name} is {value}"):
        write_synthetic(tmp_path / "new", **({"users": 5, "items": 20, "seed": 0} | {name: value}))
    assert not (tmp_path / "new").exists()


def test_a_folder_with_foreign_tables_is_left_as_it_is(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": ["mine"]}), tmp_path / "items.parquet")
    before = digests(tmp_path)
    with pytest.raises(DataError, match="not a synthetic set"):
        write_synthetic(tmp_path, users=5, items=20)
    assert digests(tmp_path) == before


def test_an_interrupted_set_has_no_tables_and_is_completed_by_the_next_call(folder: Path, tmp_path: Path) -> None:
    def interrupt(done: int, _total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path, users=USERS, items=ITEMS, seed=SEED, progress=interrupt)
    assert not list(tmp_path.glob("*.parquet"))
    write_synthetic(tmp_path, users=USERS, items=ITEMS, seed=SEED)
    assert digests(tmp_path) == digests(folder)


def test_the_known_answer_names_every_attribute_with_its_media(folder: Path) -> None:
    written = json.loads((folder / "known_answer.json").read_bytes())["attributes"]
    assert written == {attribute.name: list(attribute.media) for attribute in ATTRIBUTES}
    assert sum(len(media) == 2 for media in written.values()) >= 2
