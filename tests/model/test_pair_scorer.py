"""The collaborative term is the sum on paper: over what a query may see, near places first, nothing for the rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmrec_model.config import ModelConfig, RunConfig
from mmrec_model.config_ladder import CollaborationConfig
from mmrec_model.errors import ModelError
from mmrec_model.model.items import Items
from mmrec_model.model.pair_scorer import PairScorer, recency
from mmrec_model.model.recommender import build_model
from mmrec_model.model.scoring import padded, score_catalogue

N_ITEMS = 30
SELECTED = [0, 3, 4, 9, 17, 29]
HISTORIES = [[3, 5, 9, 0], [17], [], [1, 2], [29, 4, 3]]


def weights() -> np.ndarray:
    found = np.random.default_rng(2).normal(size=(len(SELECTED), len(SELECTED))).astype(np.float32)
    np.fill_diagonal(found, 0.0)
    return found


def scorer() -> PairScorer:
    made = PairScorer()
    made.load(np.array(SELECTED, np.float32), weights())
    return made


def places(index: torch.Tensor) -> Items:
    """Items of which nothing but the place is known."""
    return Items({}, torch.zeros(*index.shape, 0, dtype=torch.bool), torch.zeros(index.shape), index)


def by_hand(seen: list[tuple[int, int]], item: int) -> float:
    """The formula of the module: `seen` has each visible item and the number of items between it and the query."""
    near = [(1.0 + between) ** -0.5 for _, between in seen]
    length = sum(weight**2 for weight in near) ** 0.5
    if item not in SELECTED or not seen:
        return 0.0
    rows = [(SELECTED.index(one), weight) for (one, _), weight in zip(seen, near, strict=True) if one in SELECTED]
    return sum(weight * float(weights()[row, SELECTED.index(item)]) for row, weight in rows) / length


def behind_the_end(histories: list[list[int]]) -> torch.Tensor:
    history, mask = padded([np.array(one, dtype=np.int64) for one in histories])
    everything = places(torch.arange(N_ITEMS)[None])
    return scorer()(places(history), mask[:, None], everything, leave_one_out=False)


def test_a_query_behind_the_history_has_the_term_of_the_formula() -> None:
    found = behind_the_end(HISTORIES)
    assert found.shape == (len(HISTORIES), 1, N_ITEMS)
    for row, history in enumerate(HISTORIES):
        seen = [(item, len(history) - 1 - place) for place, item in enumerate(history)]
        expected = [by_hand(seen, item) for item in range(N_ITEMS)]
        np.testing.assert_allclose(found[row, 0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_a_query_at_a_place_of_the_history_has_the_term_of_the_others(causal: bool) -> None:
    history, mask = padded([np.array(one, dtype=np.int64) for one in HISTORIES])
    candidates = torch.cat([history, torch.tensor([[9, 8]] * len(HISTORIES))], dim=1)
    length = history.shape[1]
    others = ~torch.eye(length, dtype=torch.bool)
    visible = mask[:, None] & (others.tril() if causal else others)
    found = scorer()(places(history), visible, places(candidates), leave_one_out=True)
    for row, own in enumerate(HISTORIES):
        for query in range(length):
            seen = [
                (item, abs(query - place) - 1)
                for place, item in enumerate(own)
                if place != query and not (causal and place > query)
            ]
            expected = [by_hand(seen, int(item)) for item in candidates[row]]
            np.testing.assert_allclose(found[row, query].numpy(), expected, atol=1e-6)


def test_a_query_does_not_see_the_item_at_its_own_place() -> None:
    history, other = torch.tensor([[3, 9, 17]]), torch.tensor([[3, 4, 17]])
    visible = ~torch.eye(3, dtype=torch.bool)[None]
    everything = places(torch.arange(N_ITEMS)[None])
    one, two = (scorer()(places(each), visible, everything, leave_one_out=True) for each in (history, other))
    torch.testing.assert_close(one[:, 1], two[:, 1])
    assert not torch.allclose(one[:, 0], two[:, 0])


def test_padding_changes_nothing() -> None:
    for row, history in enumerate(HISTORIES):
        torch.testing.assert_close(behind_the_end([history])[0], behind_the_end(HISTORIES)[row])


def test_items_that_were_not_selected_get_nothing_and_before_a_scorer_is_there_nobody_does() -> None:
    found = behind_the_end(HISTORIES)
    outside = [item for item in range(N_ITEMS) if item not in SELECTED]
    assert not found[..., outside].any()
    assert not found[2].any()
    assert found[0, 0, SELECTED].abs().min() > 0.0
    everything = places(torch.arange(N_ITEMS)[None])
    empty = PairScorer()(places(torch.tensor([[3, 9]])), torch.ones(1, 1, 2, dtype=torch.bool), everything,
                         leave_one_out=False)  # fmt: skip
    assert empty.shape == (1, 1, N_ITEMS)
    assert not empty.any()


def test_the_weights_of_what_a_query_sees_have_length_one() -> None:
    mask = torch.tensor([[True, True, False], [False, False, False]])
    lengths = recency(mask[:, None], leave_one_out=False).square().sum(-1).sqrt()
    torch.testing.assert_close(lengths, torch.tensor([[1.0], [0.0]]))


@pytest.mark.parametrize(
    ("selected", "matrix"),
    [
        ([0, 3], np.zeros((3, 3))),
        ([0, 3], np.zeros((2, 3))),
        ([3, 0], np.zeros((2, 2))),
        ([3, 3], np.zeros((2, 2))),
        ([-1, 3], np.zeros((2, 2))),
        ([0, 3], np.full((2, 2), np.nan)),
        ([0, 3], np.full((2, 2), np.inf)),
    ],
)
def test_a_scorer_that_is_none_is_refused(selected: list[int], matrix: np.ndarray) -> None:
    with pytest.raises(ModelError, match="scorer"):
        PairScorer().load(np.array(selected, np.float32), matrix.astype(np.float32))


@pytest.mark.parametrize("fusion", ["attention", "decision"])
def test_in_the_untrained_model_the_term_counts_with_its_public_weight_and_nothing_else_moves(
    config: RunConfig, catalogue: Items, fusion: str
) -> None:
    settings = ModelConfig.model_validate(dict(config.model) | {"fusion": fusion})
    with_pairs = settings.model_copy(update={"collaboration_weight": 0.3})
    plain = config.model_copy(update={"model": settings})
    paired = config.model_copy(update={"model": with_pairs, "collaboration": CollaborationConfig(items=len(SELECTED))})
    model = build_model(paired)
    assert model.pairs_scorer is not None
    model.pairs_scorer.load(np.array(SELECTED), weights())
    histories = [np.array(one, dtype=np.int64) for one in HISTORIES]
    difference = score_catalogue(model, catalogue, histories) - score_catalogue(
        build_model(plain), catalogue, histories
    )
    np.testing.assert_allclose(difference, 0.3 * behind_the_end(HISTORIES)[:, 0].numpy(), atol=1e-6)
