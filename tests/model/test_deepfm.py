"""The pairwise term of DeepFM is the sum over all pairs of fields."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.model.deepfm import DeepFM, pair_sum
from mmrec_model.model.heads.outcomes import Outcomes, Pairs


@settings(deadline=None)
@given(st.integers(1, 7), st.integers(1, 6), st.integers(0, 2**32), st.floats(1e-3, 1e3))
def test_square_of_sum_equals_the_brute_force_sum_over_pairs(fields: int, width: int, seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = size * torch.randn(3, fields, width, generator=generator, dtype=torch.float64)
    expected = torch.zeros(3, dtype=torch.float64)
    for one, other in itertools.combinations(range(fields), 2):
        expected += (rows[:, one] * rows[:, other]).sum(-1)
    torch.testing.assert_close(pair_sum(rows), expected, atol=1e-9 * size**2, rtol=1e-9)


def rows_with(hour: int, category: int) -> Outcomes:
    one = torch.zeros(1, 1, dtype=torch.int64)
    none = torch.zeros(1, 1, dtype=torch.bool)
    return Outcomes(
        one, ~none, none, none, none, none, one.float(), one + hour, one, one + category, one
    )  # fmt: skip


def test_every_field_reaches_the_logit() -> None:
    torch.manual_seed(0)
    model = DeepFM(4, 2, 3, scale=5.0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape))
    pairs = Pairs(torch.randn(1, 1, 4), torch.randn(1, 1, 4), torch.randn(1, 1, 2))
    other = torch.randn(1, 1, 4)
    base = model(pairs, rows_with(0, 0))
    for changed in (
        model(Pairs(other, pairs.items_BFH, pairs.terms_BFS), rows_with(0, 0)),
        model(Pairs(pairs.users_BFH, other, pairs.terms_BFS), rows_with(0, 0)),
        model(Pairs(pairs.users_BFH, pairs.items_BFH, pairs.terms_BFS + 1), rows_with(0, 0)),
        model(pairs, rows_with(7, 0)),
        model(pairs, rows_with(0, 2)),
        model(pairs, rows_with(0, -1)),
    ):
        assert not torch.isclose(changed, base).any()


def test_the_logit_is_its_three_parts_written_out() -> None:
    torch.manual_seed(1)
    model = DeepFM(4, 2, 3, scale=4.0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape))
    pairs = Pairs(torch.randn(1, 1, 4), torch.randn(1, 1, 4), torch.randn(1, 1, 2))
    user, item, terms = 2.0 * pairs.users_BFH[0, 0], 2.0 * pairs.items_BFH[0, 0], pairs.terms_BFS[0, 0]
    place = {"category": 1, "hour": 5, "weekday": 0}
    first = model.vectors.weight[0] @ torch.cat([user, item, terms]) + model.vectors.bias[0]
    first = first + sum(model.first_order[name].weight[at, 0] for name, at in place.items())
    vectors = [model.user_field.weight @ user, model.item_field.weight @ item]
    vectors += [model.embeddings[name].weight[at] for name, at in place.items()]
    products = sum(a @ b for a, b in itertools.combinations(vectors, 2))
    hidden = torch.relu(model.deep.weight @ torch.cat(vectors) + model.deep.bias)
    expected = first + model.pairs.weight[0, 0] * products + model.deep_out.weight[0] @ hidden
    torch.testing.assert_close(model(pairs, rows_with(5, 1))[0, 0], expected, atol=1e-4, rtol=1e-5)
