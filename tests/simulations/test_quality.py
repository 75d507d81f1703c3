"""One pass over a panel: the figures are those of the parts computed apart, every user is scored once, pages escape."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from mmrec_model.errors import DataError
from mmrec_model.evaluation.baselines import EASE, Popularity, interaction_matrix
from mmrec_model.evaluation.beyond_accuracy import coverage, top_k
from mmrec_model.evaluation.ranking import RankingTask, per_user, ranks
from mmrec_model.evaluation.slices import popularity_band
from simulations.panels import TIES_SEED, HistoryScorer, Panel, baseline_on_histories, with_new_items
from simulations.quality import NEW_USER_EVENTS, Extras, ItemFacts, assess, measure
from simulations.quality_page import quality_fragment, write_quality_page
from simulations.quality_record import QualityRecord, quality_json

USERS, N = 160, 40


@pytest.fixture(scope="module")
def panel() -> Panel:
    """Users of three partners with one to three held-out items; item 39 is cold."""
    rng = np.random.default_rng(0)
    weight = 1.0 / np.arange(1, N)
    weight /= weight.sum()
    histories, targets = [], []
    for user in range(USERS):
        items = rng.choice(N - 1, size=rng.integers(3, 14), replace=False, p=weight)
        wanted = int(rng.integers(1, 4)) if len(items) > 4 else 1
        histories.append(items[wanted:])
        targets.append(np.array([N - 1]) if user % 20 == 0 else items[:wanted])
    users = np.repeat(np.arange(USERS), [len(items) for items in histories])
    rows = interaction_matrix(users, np.concatenate(histories), n_users=USERS, n_items=N)
    task = RankingTask.from_histories(histories, targets, n_items=N)
    return Panel(tuple(histories), np.arange(USERS) % 3, task, rows, rows, np.arange(USERS), np.arange(USERS) % 3)


@pytest.fixture(scope="module")
def ease(panel: Panel) -> HistoryScorer:
    return baseline_on_histories(EASE(l2=5.0).fit(panel.train), N)


@pytest.fixture(scope="module")
def items() -> ItemFacts:
    vectors = np.random.default_rng(1).normal(size=(N, 5)).astype(np.float32)
    return ItemFacts(np.arange(N) % 4, {"text": vectors}, {"text": np.ones(N, dtype=bool)})


@pytest.fixture(scope="module")
def record(panel: Panel, ease: HistoryScorer, items: ItemFacts) -> QualityRecord:
    other = measure(panel, baseline_on_histories(Popularity().fit(panel.train), N)).ranks
    extras = Extras(
        held_out=panel.sample(20, 1), alone=other, without={1: other}, others={"popularity": other},
        partner_names=("<b>north", "south", "west"),
    )  # fmt: skip
    return assess(panel, ease, items, system="ease", split="user-time", extras=extras)


def test_one_pass_gives_the_ranks_and_lists_of_two(panel: Panel, ease: HistoryScorer) -> None:
    found = measure(panel, ease)
    apart = ranks(panel.scorer(ease), panel.task, seed=TIES_SEED, chunk=7)
    np.testing.assert_array_equal(found.ranks.places, apart.places)
    lists = top_k(panel.scorer(ease), panel.task.excluded, n_items=N, k=10, seed=TIES_SEED, chunk=7)
    np.testing.assert_array_equal(found.lists_UK, lists)


def test_every_user_is_scored_once_and_new_users_besides(panel: Panel, ease: HistoryScorer, items: ItemFacts) -> None:
    scored: list[int] = []

    def counting(histories):
        scored.append(len(histories))
        return ease(histories)

    found = assess(panel, counting, items, system="ease")
    assert sum(scored) == USERS + len(NEW_USER_EVENTS) * found.new_users["all"].users
    scored.clear()
    again = assess(panel, counting, items, system="ease", measured=measure(panel, ease))
    assert sum(scored) == len(NEW_USER_EVENTS) * found.new_users["all"].users
    assert again == found


def test_the_figures_are_those_of_the_parts_computed_apart(
    panel: Panel, ease: HistoryScorer, record: QualityRecord
) -> None:
    found = measure(panel, ease)
    value_U = per_user(found.ranks, "ndcg_at_10")
    assert record.overall.metrics["ndcg_at_10"].value == pytest.approx(value_U.mean(), abs=1e-6)
    assert record.lists.coverage == coverage(found.lists_UK, n_items=N)
    assert record.partners is not None
    for number, one in enumerate(record.partners.each):
        assert one.value == pytest.approx(value_U[np.arange(USERS) % 3 == number].mean(), abs=1e-6)
    assert record.partners.worst == min(one.value for one in record.partners.each)
    assert record.partners.each[1].contribution is not None
    assert record.partners.each[0].contribution is None
    band = popularity_band(panel.counts_N)
    for number, (name, part) in enumerate(record.targets.items()):
        hits = {}
        for user in range(USERS):
            places = found.ranks.places[found.ranks.owners == user]
            mine = [p for p, item in zip(places, panel.task.of(user), strict=True) if band[item] == number]
            if mine:
                hits[user] = sum(place < 10 for place in mine) / len(mine)
        assert part.users == len(hits), name
        assert part.metrics["recall_at_10"].value == pytest.approx(sum(hits.values()) / len(hits), abs=1e-6)
    assert record.targets["cold"].users == USERS / 20
    assert sum(part.users for part in record.activity.values()) == USERS


def test_a_new_user_of_whom_nothing_is_known_gets_the_same_list_as_all_others(panel: Panel, items: ItemFacts) -> None:
    popular = baseline_on_histories(Popularity().fit(panel.train), N)
    found = assess(panel, popular, items, system="popularity").new_users
    assert len({part.model_dump_json() for part in found.values()}) == 1
    assert found["0"].users == sum(len(history) >= 5 for history in panel.histories)


def test_held_out_items_that_no_training_saw_are_at_nothing_for_a_system_of_item_numbers(
    panel: Panel, ease: HistoryScorer, record: QualityRecord
) -> None:
    assert record.targets["cold"].metrics["recall_at_10"].value == 0.0
    assert record.targets["cold"].metrics["recall_at_10"].chance > 0.2
    assert record.held_out is not None
    assert record.held_out.users == 20
    assert record.held_out_placed is None


def test_places_for_new_items_bring_back_held_out_items_that_popularity_buries(panel: Panel, items: ItemFacts) -> None:
    popular = baseline_on_histories(Popularity().fit(panel.train), N)
    held_out = panel.take(np.arange(0, USERS, 20))
    new_N = np.arange(N) == N - 1
    placed = with_new_items(popular, lambda histories: np.zeros((len(histories), N), np.float32), new_N)
    found = assess(panel, popular, items, system="popularity", extras=Extras(held_out=held_out, placed=placed))
    assert found.held_out is not None
    assert found.held_out_placed is not None
    assert found.held_out.metrics["recall_at_10"].value == 0.0
    assert found.held_out_placed.metrics["recall_at_10"].value == 1.0
    assert "with places for new items" in quality_fragment([found])


def test_the_record_is_strict_and_reads_what_it_wrote(record: QualityRecord) -> None:
    assert QualityRecord.model_validate_json(quality_json(record)) == record
    with pytest.raises(ValidationError):
        QualityRecord.model_validate_json(quality_json(record).replace('"split"', '"spilt"', 1))


def test_the_fragment_escapes_names_and_repeats_byte_for_byte(record: QualityRecord, tmp_path) -> None:
    hostile = record.model_copy(update={"system": "<script>x", "split": "<i>"})
    record = record.model_copy(update={"split": "<i>"})
    text = quality_fragment([hostile, record])
    assert "<script>" not in text
    assert "<i>" not in text
    assert "<b>north" not in text
    assert "&lt;b&gt;north" in text
    assert text == quality_fragment([hostile, record])
    write_quality_page([hostile], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "default-src 'none'" in page
    assert "<script" not in page


def test_systems_of_different_panels_are_not_shown_together(
    panel: Panel, ease: HistoryScorer, items: ItemFacts, record: QualityRecord
) -> None:
    with pytest.raises(DataError, match="2 panels"):
        quality_fragment([record, assess(panel.sample(50, 0), ease, items, system="ease")])
    with pytest.raises(DataError, match="0 panels"):
        quality_fragment([])


def test_ranks_of_another_panel_are_refused(panel: Panel, ease: HistoryScorer, items: ItemFacts) -> None:
    foreign = measure(panel.sample(50, 0), ease).ranks
    with pytest.raises(DataError, match="paired"):
        assess(panel, ease, items, system="ease", extras=Extras(alone=foreign))
    with pytest.raises(DataError, match="paired"):
        assess(panel, ease, items, system="ease", extras=Extras(others={"x": foreign}))
