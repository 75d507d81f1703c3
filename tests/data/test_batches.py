"""User batches: constant shapes, draws of a user that no other user can change, exact uniformity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.data.batches import UserBatch, draw_batch
from mmrec_model.data.histories import Histories
from mmrec_model.errors import DataError

N_ITEMS = 12
histories_of = st.lists(st.lists(st.integers(0, N_ITEMS - 1), unique=True, max_size=N_ITEMS), min_size=1, max_size=8)
seeds = st.integers(-(2**70), 2**70)


def histories(lists: list[list[int]]) -> Histories:
    offsets = np.cumsum([0, *map(len, lists)])
    return Histories(offsets, np.array([item for one in lists for item in one], dtype=np.int64))


def draw(lists: list[list[int]], users: list[int], seed: int = 0, k: int = 5, n: int = 7) -> UserBatch:
    users_B = np.array(users, dtype=np.int64)
    return draw_batch(histories(lists), users_B, n_items=N_ITEMS, max_history=k, negatives=n, seed=seed)


def same_row(first: UserBatch, row: int, second: UserBatch, other: int) -> bool:
    names = ("history_BK", "mask_BK", "negatives_BN")
    return all(np.array_equal(getattr(first, name)[row], getattr(second, name)[other]) for name in names)


@settings(max_examples=80, deadline=None)
@given(histories_of, seeds, st.integers(1, 9), st.integers(0, 9))
def test_rows_are_bounded_subsequences_padded_with_zeros_and_negatives_are_no_train_items(lists, seed, k, n) -> None:
    batch = draw(lists, list(range(len(lists))), seed, k, n)
    assert batch.history_BK.shape == batch.mask_BK.shape == (len(lists), k)
    assert batch.negatives_BN.shape == (len(lists), n)
    for row, items in enumerate(lists):
        size = min(len(items), k)
        assert batch.mask_BK[row].tolist() == [True] * size + [False] * (k - size)
        assert not batch.history_BK[row, size:].any()
        places = [items.index(item) for item in batch.history_BK[row, :size]]
        assert places == sorted(set(places))
        negatives = batch.negatives_BN[row].tolist()
        assert all(0 <= item < N_ITEMS for item in negatives)
        assert len(items) == N_ITEMS or not set(negatives) & set(items)


@settings(max_examples=60, deadline=None)
@given(histories_of, seeds, st.data())
def test_a_users_row_depends_on_no_other_user(lists, seed, data) -> None:
    everyone = draw(lists, list(range(len(lists))), seed)
    user = data.draw(st.integers(0, len(lists) - 1))
    others = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=5))
    assert same_row(everyone, user, draw(lists, [*others, user], seed), len(others))
    removed = [items if number == user else [] for number, items in enumerate(lists)]
    assert same_row(everyone, user, draw(removed, list(range(len(lists))), seed), user)


def test_a_user_without_items_is_masked_out_and_a_user_with_all_items_still_gets_negatives() -> None:
    batch = draw([[], list(range(N_ITEMS)), list(range(1, N_ITEMS))], [0, 1, 2])
    assert not batch.mask_BK[0].any()
    assert batch.negatives_BN[1].max() < N_ITEMS
    assert batch.negatives_BN[2].tolist() == [0] * 7


def test_an_empty_batch_keeps_its_other_dimensions() -> None:
    batch = draw([[1]], [])
    assert (batch.history_BK.shape, batch.negatives_BN.shape) == ((0, 5), (0, 7))


def test_repeated_items_in_hand_made_histories_do_not_disturb_the_negatives() -> None:
    batch = draw([[3, 3, 5, 3], [0]], [0, 1], n=200)
    assert set(batch.negatives_BN[0].tolist()) == set(range(N_ITEMS)) - {3, 5}
    assert set(batch.negatives_BN[1].tolist()) == set(range(1, N_ITEMS))


def chi_square(observed: np.ndarray) -> float:
    expected = observed.sum() / observed.size
    return float(((observed - expected) ** 2).sum() / expected)


def test_negatives_are_uniform_over_the_items_that_the_user_lacks() -> None:
    owned = [2, 3, 11]
    lists = [owned] * 4000
    drawn = draw(lists, list(range(4000)), n=10).negatives_BN
    counts = np.bincount(drawn.ravel(), minlength=N_ITEMS)
    assert counts[owned].tolist() == [0, 0, 0]
    assert chi_square(np.delete(counts, owned)) < 26.1  # 8 degrees of freedom, p = .001
    pairs = np.bincount(drawn[:, 0] * N_ITEMS + drawn[:, 1], minlength=N_ITEMS**2)
    assert chi_square(pairs[pairs > 0]) < 124.8  # 81 pairs, 80 degrees of freedom, p = .001


@pytest.mark.parametrize("vary", ["users", "seeds"])
def test_every_place_of_a_long_history_is_as_likely_to_be_kept(vary) -> None:
    if vary == "users":
        kept = draw([list(range(10))] * 4000, list(range(4000)), k=3).history_BK
    else:
        kept = np.concatenate([draw([list(range(10))], [0], seed, k=3).history_BK for seed in range(1500)])
    assert chi_square(np.bincount(kept.ravel(), minlength=10)) < 27.9  # 9 degrees of freedom, p = .001
    subsets = np.unique(kept, axis=0, return_counts=True)[1]
    assert len(subsets) == 120
    assert chi_square(subsets) < 173.6  # 119 degrees of freedom, p = .001


def test_the_same_seed_draws_the_same_and_another_seed_another() -> None:
    lists = [list(range(10)), [1, 2]]
    first, again, other = (draw(lists, [0, 1], seed, k=4, n=20) for seed in (7, 7, 8))
    assert same_row(first, 0, again, 0)
    assert same_row(first, 1, again, 1)
    assert not same_row(first, 0, other, 0)
    assert not same_row(first, 1, other, 1)


def test_the_draws_are_pinned_because_a_resumed_run_must_repeat_them() -> None:
    batch = draw([list(range(10)), [4]], [0, 1], seed=2024, k=4, n=5)
    assert batch.history_BK.tolist() == [[1, 3, 5, 9], [4, 0, 0, 0]]
    assert batch.negatives_BN.tolist() == [[11, 11, 11, 11, 11], [10, 5, 5, 8, 5]]


@pytest.mark.parametrize(
    "arguments",
    [{"n_items": 0}, {"max_history": 0}, {"negatives": -1}, {"n_items": 2}, {"users": [1]}, {"users": [-1]}],
)
def test_arguments_outside_their_range_are_refused(arguments) -> None:
    whole = {"users": [0], "n_items": 3, "max_history": 2, "negatives": 1, "seed": 0} | arguments
    users_B = np.array(whole.pop("users"), dtype=np.int64)
    with pytest.raises(DataError):
        draw_batch(histories([[0, 2]]), users_B, **whole)


def hidden(lists: list[list[int]], users: list[int], seed: int = 0, rate: float = 0.4) -> UserBatch:
    users_B = np.array(users, dtype=np.int64)
    return draw_batch(
        histories(lists), users_B, n_items=N_ITEMS, max_history=5, negatives=7, seed=seed, modalities=3,
        modality_dropout=rate,
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(histories_of, seeds, st.data())
def test_hidden_modalities_of_a_user_depend_on_no_other_user_and_on_the_item_alone(lists, seed, data) -> None:
    everyone = hidden(lists, list(range(len(lists))), seed)
    user = data.draw(st.integers(0, len(lists) - 1))
    removed = [items if number == user else [] for number, items in enumerate(lists)]
    for other, row in ((hidden(lists, [0, user], seed), 1), (hidden(removed, list(range(len(lists))), seed), user)):
        assert np.array_equal(everyone.kept_BLM[user], other.kept_BLM[row])
    items = np.concatenate([everyone.history_BK, everyone.negatives_BN], axis=1)[user]
    for item in set(items.tolist()):
        assert len({tuple(kept) for kept in everyone.kept_BLM[user][items == item].tolist()}) == 1


def test_hiding_changes_no_other_draw_and_none_is_drawn_at_rate_zero() -> None:
    lists = [[1, 2, 3, 4, 5, 6, 7], [9]]
    bare, with_hiding = draw(lists, [0, 1], 3), hidden(lists, [0, 1], 3)
    assert all(same_row(bare, row, with_hiding, row) for row in (0, 1))
    assert bare.kept_BLM is None
    assert hidden(lists, [0, 1], 3, rate=0.0).kept_BLM is None


def test_the_share_of_hidden_modalities_is_the_rate_and_another_seed_hides_others() -> None:
    lists = [[user % N_ITEMS] for user in range(400)]
    first, second = (hidden(lists, list(range(400)), seed, 0.3).kept_BLM for seed in (1, 2))
    distinct = 400 * 3
    error = (0.3 * 0.7 / distinct) ** 0.5
    for modality in range(3):
        assert abs((~first[:, 0, modality]).mean() - 0.3) < 4 * error * 3**0.5
    assert 0.5 < (first[:, 0] == second[:, 0]).mean() < 0.66
    both = (~first[:, 0, 0] & ~first[:, 0, 1]).mean()
    assert abs(both - 0.09) < 0.06, "modalities are hidden independently of each other"


@pytest.mark.parametrize(("modalities", "rate"), [(3, 1.0), (3, -0.1), (0, 0.5)])
def test_a_rate_or_number_of_modalities_outside_its_range_is_refused(modalities: int, rate: float) -> None:
    with pytest.raises(DataError, match="modality_dropout"):
        draw_batch(
            histories([[1]]), np.array([0]), n_items=N_ITEMS, max_history=2, negatives=1, seed=0,
            modalities=modalities, modality_dropout=rate,
        )  # fmt: skip
