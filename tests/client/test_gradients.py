"""Every way of computing the clipped sum equals one autograd call per user, for every kind of layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks import reference_model
from client.gradients import WAYS, gradients_by_name
from client.gradients.contract import count_users, select_users, trainable_parameters
from client.gradients.token_products import TokenProducts, gram_square_norm

USERS = 5


class Pair(NamedTuple):
    """Inputs and targets of B users."""

    x: Tensor
    y: Tensor


def squared_error(model: nn.Module, batch: Pair) -> Tensor:
    return (model(batch.x) - batch.y).square().flatten(1).mean(1)


class Residual(nn.Module):
    """The same layer twice in one forward pass."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.layer(self.norm(self.layer(x).tanh())))


class OwnAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: Tensor) -> Tensor:
        users, tokens, width = x.shape
        query, key, value = self.qkv(x).reshape(users, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return x + self.out(mixed.transpose(1, 2).reshape(users, tokens, width))


class OwnGru(nn.Module):
    """A recurrent cell of two linear layers, each called once per step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ih, self.hh = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)

    def forward(self, x: Tensor) -> Tensor:
        state, states = torch.zeros_like(x[:, 0]), []
        for step in x.unbind(1):
            (r, z, n), (hr, hz, hn) = self.ih(step).chunk(3, -1), self.hh(state).chunk(3, -1)
            z = (z + hz).sigmoid()
            state = (1 - z) * (n + (r + hr).sigmoid() * hn).tanh() + z * state
            states.append(state)
        return torch.stack(states, 1)


class OpacusGru(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        from opacus.layers import DPGRU

        self.gru = DPGRU(width, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[0]


class Shift(nn.Module):
    """A scale and one vector per token: bare parameters alone in a module."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.log_scale, self.bias = nn.Parameter(torch.tensor(0.2)), nn.Parameter(torch.randn(tokens, width))

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        moved = x * self.log_scale.exp() + self.bias
        return moved if shift is None else moved * shift


class Skipping(nn.Module):
    """Holds a trained layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Lora(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        peft = pytest.importorskip("peft", reason="peft is not installed")
        base = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
        config = peft.LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False, lora_dropout=0.0)
        self.net = peft.get_peft_model(base, config)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def frozen(model: nn.Sequential, *layers: int) -> nn.Sequential:
    for index in layers:
        model[index].requires_grad_(requires_grad=False)
    return model


def bias_only(layer: nn.Linear) -> nn.Module:
    layer.weight.requires_grad_(requires_grad=False)
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(3, 2))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear on [B, d]": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), (4,)),
    "linear on [B, T, d]": (lambda: nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2)), (6, 4)),
    "linear on [B, T, M, d]": (lambda: nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2)), (3, 2, 4)),
    "wide linear on few tokens": (lambda: nn.Linear(40, 30), (2, 40)),
    "narrow linear on many tokens": (lambda: nn.Linear(4, 2), (50, 4)),
    "linear without bias": (lambda: nn.Linear(4, 3, bias=False), (6, 4)),
    "bias of a frozen weight": (lambda: bias_only(nn.Linear(4, 3)), (6, 4)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), (6, 4)),
    "layer norm on [B, d]": (lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), (4,)),
    "layer norm over two dimensions": (lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm((6, 4))), (2, 6, 4)),
    "layer norm without bias": (lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, bias=False)), (6, 4)),
    "rms norm": (lambda: nn.Sequential(nn.Linear(4, 4), nn.RMSNorm(4)), (6, 4)),
    "convolution": (lambda: nn.Conv1d(3, 2, 2), (3, 5)),
    "own attention": (lambda: nn.Sequential(nn.LayerNorm(4), OwnAttention(4, 2)), (6, 4)),
    "gru of linear layers": (lambda: OwnGru(4), (5, 4)),
    "gru of opacus": (lambda: OpacusGru(4), (5, 4)),
    "lora": (Lora, (6, 4)),
    "bare parameters": (lambda: nn.Sequential(nn.Linear(4, 4), Shift(6, 4), nn.Linear(4, 2)), (6, 4)),
    "a layer used twice": (lambda: Residual(4), (6, 4)),
    "a layer never used": (Skipping, (6, 4)),
    "frozen below": (lambda: frozen(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), 0), (6, 4)),
    "frozen above": (lambda: frozen(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), 2), (6, 4)),
}
REFUSED = {
    ("layer norm without bias", "hooks"): "without bias",
    ("layer norm without bias", "ghost"): "without bias",
    ("gru of linear layers", "ghost"): "ran twice",
    ("a layer used twice", "ghost"): "ran twice",
}


def build(case: str) -> tuple[nn.Module, Pair]:
    torch.manual_seed(3)
    factory, shape = CASES[case]
    model = factory().double()
    x = torch.randn(USERS, *shape, dtype=torch.float64)
    with torch.no_grad():
        y = torch.randn_like(model(x)) * torch.arange(1, USERS + 1).reshape(-1, *[1] * (model(x).dim() - 1))
    return model, Pair(x, y)


def brute_force(model, user_loss, batch, max_grad_norm) -> tuple[list[Tensor], Tensor]:
    parameters, norms = trainable_parameters(model), []
    sums = [torch.zeros_like(p) for p in parameters]
    for user in range(count_users(batch)):
        loss = user_loss(model, select_users(batch, torch.tensor([user]))).sum()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in found if g is not None)))
        for total, gradient in zip(sums, found, strict=True):
            if gradient is not None:
                total.add_(gradient * min(1.0, max_grad_norm / norms[-1]))
    return sums, torch.tensor(norms)


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-10) -> None:
    assert len(found) == len(expected)
    for left, right in zip(found, expected, strict=True):
        assert left.shape == right.shape
        assert float((left - right).abs().max()) <= tolerance


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_the_clipped_sum_equals_one_autograd_call_per_user(case: str, way: str) -> None:
    model, batch = build(case)
    if (case, way) in REFUSED:
        with pytest.raises(Exception, match=REFUSED[case, way]):
            gradients_by_name(way).clipped_sum(model, squared_error, batch, 1.0)
        return
    _, norms = brute_force(model, squared_error, batch, 1.0)
    for max_grad_norm in (float(norms.median()), 1e-3, 1e6):
        expected, _ = brute_force(model, squared_error, batch, max_grad_norm)
        found = gradients_by_name(way).clipped_sum(model, squared_error, batch, max_grad_norm)
        assert_close(found.sums, expected)
        torch.testing.assert_close(found.local_norms_B.float(), norms, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_an_embedding_adds_up_the_rows_that_a_user_looks_up_twice(way: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 2)).double()
    batch = Pair(torch.randint(0, 4, (USERS, 6)), torch.randn(USERS, 6, 2, dtype=torch.float64))
    for max_grad_norm in (0.1, 1e6):
        expected, _ = brute_force(model, squared_error, batch, max_grad_norm)
        assert_close(gradients_by_name(way).clipped_sum(model, squared_error, batch, max_grad_norm).sums, expected)


@pytest.mark.parametrize("way", WAYS)
def test_padding_a_ragged_user_does_not_change_the_gradient(way: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 1)).double()
    lengths = torch.tensor([1, 2, 3, 4, 5])
    x, y = torch.randn(USERS, 5, 4, dtype=torch.float64), torch.randn(USERS, 5, dtype=torch.float64)
    mask = (torch.arange(5) < lengths[:, None]).double()

    def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        x, y, mask = batch
        return ((model(x).squeeze(-1) - y).square() * mask).sum(1) / mask.sum(1).clamp(min=1)

    expected = [torch.zeros_like(p) for p in model.parameters()]
    for user, length in enumerate(lengths.tolist()):
        one = (x[user : user + 1, :length], y[user : user + 1, :length], mask[user : user + 1, :length])
        for total, part in zip(expected, brute_force(model, loss, one, 0.5)[0], strict=True):
            total.add_(part)
    assert_close(gradients_by_name(way).clipped_sum(model, loss, (x, y, mask), 0.5).sums, expected)


@pytest.mark.parametrize("way", WAYS)
def test_micro_batches_add_up_to_the_whole(way: str) -> None:
    model, batch = build("own attention")
    whole = gradients_by_name(way).clipped_sum(model, squared_error, batch, 1.0).sums
    parts = [
        gradients_by_name(way).clipped_sum(model, squared_error, select_users(batch, rows), 1.0).sums
        for rows in torch.arange(USERS).split(2)
    ]
    assert_close([sum(same) for same in zip(*parts, strict=True)], whole)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 1e200])
def test_a_user_without_a_finite_gradient_counts_as_absent(way: str, poison: float) -> None:
    model, batch = build("linear on [B, T, d]")
    bad = Pair(batch.x.clone(), batch.y.clone())
    bad.x[2, 0, 0] = poison
    bad.y[2, 1, 0] = poison
    rest = select_users(batch, torch.tensor([0, 1, 3, 4]))
    expected, _ = brute_force(model, squared_error, rest, 0.5)
    found = gradients_by_name(way).clipped_sum(model, squared_error, bad, 0.5)
    assert not torch.isfinite(found.local_norms_B[2])
    assert_close(found.sums, expected)


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_of_non_finite_users_gives_zero(way: str) -> None:
    model, batch = build("linear on [B, T, d]")
    found = gradients_by_name(way).clipped_sum(model, squared_error, Pair(batch.x * math.nan, batch.y), 0.5)
    assert_close(found.sums, [torch.zeros_like(p) for p in model.parameters()], 0.0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [1e3, 1e8, 1e15])
def test_one_user_contributes_at_most_the_clip_however_large(way: str, size: float) -> None:
    model, batch = build("own attention")
    model, one = model.float(), Pair(batch.x[:1].float(), batch.y[:1].float() * size)
    found = gradients_by_name(way).clipped_sum(model, squared_error, one, 0.5)
    assert math.sqrt(sum(float(s.double().square().sum()) for s in found.sums)) <= 0.5 * (1 + 1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_no_users_give_zero_and_touch_nothing(way: str) -> None:
    model, batch = build("own attention")
    found = gradients_by_name(way).clipped_sum(model, squared_error, select_users(batch, torch.arange(0)), 0.5)
    assert_close(found.sums, [torch.zeros_like(p) for p in model.parameters()], 0.0)
    assert len(found.local_norms_B) == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_on_the_model(way: str, fails: bool) -> None:
    model, batch = build("bare parameters")
    state = {path: set(vars(module)) for path, module in model.named_modules()}
    parameters = dict(model.named_parameters())

    def loss(model: nn.Module, batch: Pair) -> Tensor:
        loss_B = squared_error(model, batch)
        if fails:
            raise KeyError("the loss of the caller fails")
        return loss_B

    for _ in range(2):
        if fails:
            with pytest.raises(KeyError):
                gradients_by_name(way).clipped_sum(model, loss, batch, 0.5)
        else:
            gradients_by_name(way).clipped_sum(model, loss, batch, 0.5)
    assert {path: set(vars(module)) for path, module in model.named_modules()} == state
    assert all(not m._forward_hooks and not m._forward_pre_hooks and not m._backward_hooks for m in model.modules())
    assert dict(model.named_parameters()) == parameters
    assert all(p.grad is None and not hasattr(p, "grad_sample") for p in parameters.values())


@pytest.mark.parametrize("way", WAYS)
def test_dropout_clips_the_gradient_that_the_mask_really_gives(way: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    one = Pair(torch.randn(1, 6, 4), torch.randn(1, 6, 1) * 1e3)
    for _ in range(5):
        found = gradients_by_name(way).clipped_sum(model, squared_error, one, 1.0)
        assert math.sqrt(sum(float(s.square().sum()) for s in found.sums)) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_under_autocast_one_user_stays_within_the_clip(way: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4), Shift(6, 4))

    def loss(model: nn.Module, batch: Pair) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return squared_error(model, batch)

    for seed in range(8):
        torch.manual_seed(seed)
        one = Pair(torch.randn(1, 6, 16), torch.randn(1, 6, 4) * 100)
        found = gradients_by_name(way).clipped_sum(model, loss, one, 1.0)
        norm = math.sqrt(sum(float(s.double().square().sum()) for s in found.sums))
        assert 0.97 <= norm <= 1.0 + 1e-5
        assert all(total.dtype == torch.float32 for total in found.sums)


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_products_of_tokens_equal_the_gradients_they_stand_for(tokens, sizes, bias, seed) -> None:
    chance = torch.Generator().manual_seed(seed)
    outputs, inputs = sizes
    products = TokenProducts(weight=True, bias=bias)
    weight, shift = torch.zeros(3, outputs, inputs, dtype=torch.float64), torch.zeros(3, outputs, dtype=torch.float64)
    for count in tokens:
        x = torch.randn(3, count, inputs, generator=chance, dtype=torch.float64)
        g = torch.randn(3, count, outputs, generator=chance, dtype=torch.float64)
        products.add(x, g)
        weight, shift = weight + g.mT @ x, shift + g.sum(1)
    expected = weight.square().sum((1, 2)) + (shift.square().sum(1) if bias else 0.0)
    torch.testing.assert_close(products.square_norm(), expected, rtol=1e-9, atol=1e-9)
    factor = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    sums = products.weighted_sum(factor, torch.tensor([0, 2]))
    torch.testing.assert_close(sums["weight"], 0.5 * weight[0] + weight[2])
    assert ("bias" in sums) == bias


def test_tokens_that_cancel_cannot_hide_a_norm_above_the_clip() -> None:
    """In float32 the Gram form loses a norm of 2 among tokens of size 1e5; the bound must not."""
    torch.manual_seed(0)
    large, small = torch.randn(64, 1, 32) * 1e5, torch.randn(64, 1, 32)
    x = torch.ones(64, 2, 32)
    gradient = torch.cat([large, small / small.norm(dim=2, keepdim=True) * 0.1 - large], 1)
    exact = gradient.double().mT @ x.double()
    bound = gram_square_norm(x, gradient, bias=False)
    assert bool((bound >= exact.square().sum((1, 2))).all())


def test_the_ways_agree_on_the_model_of_the_benchmark_and_with_autograd() -> None:
    torch.manual_seed(0)
    model, batch = reference_model.ReferenceModel(), reference_model.made_up_clicks(3, 4, seed=0)
    assert sum(p.numel() for p in model.parameters()) == 1_746_946
    expected, norms = brute_force(model, reference_model.user_loss, batch, 0.1)
    assert float(norms.min()) > 0.1
    for way in WAYS:
        found = gradients_by_name(way).clipped_sum(model, reference_model.user_loss, batch, 0.1)
        assert_close(found.sums, expected, 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS)
def test_a_cuda_device_gives_the_gradients_of_the_processor(way: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for case in ("own attention", "bare parameters", "layer norm", "gru of opacus"):
        model, batch = build(case)
        expected = gradients_by_name(way).clipped_sum(model, squared_error, batch, 0.5)
        moved = Pair(batch.x.cuda(), batch.y.cuda())
        found = gradients_by_name(way).clipped_sum(model.cuda(), squared_error, moved, 0.5)
        assert_close([total.cpu() for total in found.sums], expected.sums, 1e-8)
