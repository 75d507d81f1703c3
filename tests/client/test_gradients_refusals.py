"""Each way of getting a wrong or unprotected gradient is refused, naming the module."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from client.gradients import WAYS, gradients_by_name, refuse_unsupported
from client.gradients.contract import count_users, select_users
from mmrec_model.errors import PrivacyError


def beside_linear(layer: nn.Module) -> nn.Module:
    return nn.ModuleDict({"good": nn.Linear(4, 4), "odd": layer})


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        self.out.weight = self.table.weight


class BareAtTheRoot(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.query = nn.Linear(4, 4), nn.Parameter(torch.zeros(4))


class BareWith(nn.Module):
    def __init__(self, child: nn.Module | None = None, buffer: bool = False) -> None:
        super().__init__()
        self.scale, self.child = nn.Parameter(torch.ones(4)), child
        if buffer:
            self.register_buffer("running", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def opacus_attention() -> nn.Module:
    from opacus.layers import DPMultiheadAttention

    return DPMultiheadAttention(4, 2, batch_first=True)


def without_gradient(layer: nn.Module) -> nn.Module:
    return layer.requires_grad_(requires_grad=False)


def replaced_forward(layer: nn.Module) -> nn.Module:
    layer.forward = lambda x: x
    return layer


def hooked(layer: nn.Linear) -> nn.Module:
    layer.weight.register_post_accumulate_grad_hook(lambda p: None)
    return layer


def recomputing(layer: nn.Module) -> nn.Module:
    layer.gradient_checkpointing = True
    return layer


def compiled(layer: nn.Module) -> nn.Module:
    layer.compile()
    return layer


def shared_storage() -> nn.Module:
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    model[1].weight.data = model[0].weight.data
    return model


STRUCTURES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "batch norm": (lambda: beside_linear(nn.BatchNorm1d(4)), "'odd'.*mixes the users"),
    "batch norm without weights": (lambda: beside_linear(nn.BatchNorm1d(4, affine=False)), "mixes the users"),
    "frozen batch norm": (lambda: beside_linear(without_gradient(nn.BatchNorm2d(4)).eval()), "mixes the users"),
    "synchronised batch norm": (lambda: beside_linear(nn.SyncBatchNorm(4)), "mixes the users"),
    "instance norm with statistics": (
        lambda: beside_linear(nn.InstanceNorm1d(4, track_running_stats=True)),
        "running statistics",
    ),
    "data parallel": (lambda: nn.DataParallel(nn.Linear(4, 4)), "splits the batch"),
    "tied weights": (Tied, "'table.weight' and 'out.weight'"),
    "shared storage": (shared_storage, "tied weight"),
    "padding_idx": (lambda: beside_linear(nn.Embedding(6, 4, padding_idx=0)), "padding_idx=0"),
    "scale_grad_by_freq": (lambda: beside_linear(nn.Embedding(6, 4, scale_grad_by_freq=True)), "counts over the whole"),
    "max_norm": (lambda: beside_linear(without_gradient(nn.Embedding(6, 4, max_norm=1.0))), "max_norm"),
    "embedding bag": (lambda: beside_linear(nn.EmbeddingBag(6, 4)), "no gradient rule"),
    "multi-head attention": (lambda: beside_linear(nn.MultiheadAttention(4, 2)), "outside their layers"),
    "transformer layer": (lambda: beside_linear(nn.TransformerEncoderLayer(4, 2, 8)), "outside their layers"),
    "opacus attention": (lambda: beside_linear(opacus_attention()), "wrong function"),
    "fused gru": (lambda: beside_linear(nn.GRU(4, 4)), "fused kernel"),
    "fused gru cell": (lambda: beside_linear(nn.GRUCell(4, 4)), "fused kernel"),
    "bare parameter at the root": (BareAtTheRoot, "'query' beside layers"),
    "dropout beside a bare parameter": (lambda: beside_linear(BareWith(nn.Dropout(0.1))), "dropout inside"),
    "buffer beside a bare parameter": (lambda: beside_linear(BareWith(buffer=True)), "buffers beside"),
    "compiled module": (lambda: beside_linear(compiled(nn.Linear(4, 4))), "compiled"),
    "gradient checkpointing": (lambda: beside_linear(recomputing(nn.Linear(4, 4))), "recomputes"),
    "parametrized weight": (
        lambda: beside_linear(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))),
        "parametrize|beside layers",
    ),
    "weight norm of old": (lambda: beside_linear(old_weight_norm()), "pre-hook"),
    "replaced forward": (lambda: beside_linear(replaced_forward(nn.Linear(4, 4))), "replaced forward"),
    "parameter hook": (lambda: beside_linear(hooked(nn.Linear(4, 4))), "hook on a parameter"),
    "lazy layer": (lambda: beside_linear(nn.LazyLinear(4)), "no shape yet"),
    "nothing to train": (lambda: without_gradient(nn.Linear(4, 4)), "at least 1"),
}


def old_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(nn.Linear(4, 4))


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_structure_is_refused(name: str) -> None:
    factory, message = STRUCTURES[name]
    with pytest.raises(PrivacyError, match=message):
        refuse_unsupported(factory())


def test_frozen_parts_may_be_what_trained_parts_may_not() -> None:
    for part in (nn.MultiheadAttention(4, 2), nn.GRU(4, 4), nn.Embedding(6, 4, padding_idx=0)):
        refuse_unsupported(beside_linear(without_gradient(part)))


class Uses(nn.Module):
    """One linear layer, used in a way that the hooks cannot see."""

    def __init__(self, use: Callable[[Uses, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.other, self.use = nn.Linear(4, 4), nn.LayerNorm(4), use
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.use(self, x))


def writes_buffer(model: Uses, x: Tensor) -> Tensor:
    model.seen += x.detach().mean((0, 1))
    return model.layer(x)


def assigns_buffer(model: Uses, x: Tensor) -> Tensor:
    model.seen = x.detach().mean((0, 1))
    return model.layer(x)


def unused_output(model: Uses, x: Tensor) -> Tensor:
    model.layer(x * 2)
    return model.layer(x)


OUTSIDE = "outside its own layer"
USES: dict[str, tuple[Callable[[Uses, Tensor], Tensor], str]] = {
    "tied product": (lambda m, x: m.layer(x) @ m.layer.weight.T, OUTSIDE),
    "functional call": (lambda m, x: nn.functional.linear(m.layer(x), m.layer.weight), OUTSIDE),
    "only a functional call": (lambda m, x: nn.functional.linear(x, m.layer.weight, m.layer.bias), OUTSIDE),
    "items in the place of users": (
        lambda m, x: m.layer(x.flatten(0, 1)).reshape(x.shape),
        "'layer' is fed.*dim 0 must be the 5 users",
    ),
    "positions shared by all users": (lambda m, x: x + m.layer(x[0]), "dim 0 must be"),
    "written buffer": (writes_buffer, "buffer 'seen'"),
    "replaced buffer": (assigns_buffer, "buffer 'seen'"),
}


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().flatten(1).mean(1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", USES)
def test_the_use_is_refused(name: str, way: str) -> None:
    use, message = USES[name]
    with pytest.raises(PrivacyError, match=message):
        gradients_by_name(way).clipped_sum(Uses(use), loss_of, torch.randn(5, 3, 4), 1.0)


@pytest.mark.parametrize("way", WAYS)
def test_an_l2_term_in_the_loss_is_refused(way: str) -> None:
    def loss(model: nn.Module, x: Tensor) -> Tensor:
        return loss_of(model, x) + 0.1 * sum(p.square().sum() for p in model.parameters())

    with pytest.raises(PrivacyError, match=OUTSIDE):
        gradients_by_name(way).clipped_sum(nn.Linear(4, 2), loss, torch.randn(5, 4), 1.0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "reduce", [lambda v: v.flatten(1).mean(1, keepdim=True), lambda v: v.mean(), lambda v: v.flatten(), lambda v: v > 0]
)
def test_a_loss_that_is_not_one_number_per_user_is_refused(way: str, reduce: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(PrivacyError, match="user loss has shape"):
        gradients_by_name(way).clipped_sum(nn.Linear(4, 2), lambda m, x: reduce(m(x)), torch.randn(5, 4), 1.0)


@pytest.mark.parametrize("way", ["hooks", "ghost"])
def test_an_output_without_a_backward_pass_is_refused_by_opacus_ways(way: str) -> None:
    with pytest.raises(PrivacyError, match=r"more forward than backward|ran twice"):
        gradients_by_name(way).clipped_sum(Uses(unused_output), loss_of, torch.randn(5, 3, 4), 1.0)


def test_an_output_without_a_backward_pass_counts_as_unused_in_bookkeeping() -> None:
    x = torch.randn(5, 3, 4)
    model = Uses(unused_output)
    found = gradients_by_name("bookkeeping").clipped_sum(model, loss_of, x, 1.0)
    model.use = lambda m, x: m.layer(x)
    expected = gradients_by_name("bookkeeping").clipped_sum(model, loss_of, x, 1.0)
    torch.testing.assert_close(found.sums, expected.sums)


def test_a_checkpointed_call_is_exact_in_bookkeeping_and_refused_by_opacus_ways() -> None:
    x = torch.randn(5, 3, 4)
    model = Uses(lambda m, x: checkpoint(m.layer, x, use_reentrant=False))
    for way in ("hooks", "ghost"):
        with pytest.raises(PrivacyError, match="backward"):
            gradients_by_name(way).clipped_sum(model, loss_of, x, 1.0)
    found = gradients_by_name("bookkeeping").clipped_sum(model, loss_of, x, 1.0)
    model.use = lambda m, x: m.layer(x)
    torch.testing.assert_close(found.sums, gradients_by_name("hooks").clipped_sum(model, loss_of, x, 1.0).sums)


@pytest.mark.parametrize("way", ["hooks", "ghost"])
def test_a_trained_layer_in_evaluation_mode_is_refused_by_opacus_ways(way: str) -> None:
    with pytest.raises(PrivacyError, match="evaluation mode"):
        gradients_by_name(way).clipped_sum(nn.Sequential(nn.Linear(4, 2)).eval(), loss_of, torch.randn(5, 4), 1.0)


def test_a_bare_parameter_module_with_chance_or_without_input_is_refused() -> None:
    class Chance(BareWith):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(x * self.scale, 0.5)

    class Free(BareWith):
        def forward(self) -> Tensor:
            return self.scale

    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.free = Free()

        def forward(self, x: Tensor) -> Tensor:
            return x * self.free()

    for model, message in ((Chance(), "one user at a time"), (Asks(), "fed no tensor")):
        with pytest.raises(PrivacyError, match=message):
            gradients_by_name("bookkeeping").clipped_sum(model, loss_of, torch.randn(5, 4), 1.0)


def test_dora_is_refused() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    config = peft.LoraConfig(r=2, target_modules=["0"], use_dora=True, init_lora_weights=False)
    model = peft.get_peft_model(nn.Sequential(nn.Linear(4, 4)), config)
    for way in WAYS:
        with pytest.raises(PrivacyError):
            gradients_by_name(way).clipped_sum(model, loss_of, torch.randn(5, 3, 4), 1.0)


@pytest.mark.parametrize("way", ["bookkeeping", "ghost"])
def test_reduced_precision_products_are_refused(way: str) -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(PrivacyError, match="'medium'"):
            gradients_by_name(way).clipped_sum(nn.Linear(4, 2), loss_of, torch.randn(5, 4), 1.0)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("clip", [0.0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("way", WAYS)
def test_a_clip_that_bounds_nothing_is_refused(way: str, clip: float) -> None:
    with pytest.raises(PrivacyError, match="max_grad_norm"):
        gradients_by_name(way).clipped_sum(nn.Linear(4, 2), loss_of, torch.randn(5, 4), clip)


@pytest.mark.parametrize("batch", [(), (torch.zeros(3), torch.zeros(2)), torch.tensor(1.0), {"a": 1}])
def test_a_batch_without_one_row_per_user_is_refused(batch: object) -> None:
    with pytest.raises(PrivacyError, match="one row per user"):
        count_users(batch)


def test_selecting_users_keeps_the_kind_of_the_batch() -> None:
    batch = {"a": torch.arange(4), "b": [torch.arange(8).reshape(4, 2)], "name": "public"}
    chosen = select_users(batch, torch.tensor([2, 0]))
    assert chosen["a"].tolist() == [2, 0]
    assert chosen["b"][0].tolist() == [[4, 5], [0, 1]]
    assert chosen["name"] == "public"


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(PrivacyError, match="no way 'fast'"):
        gradients_by_name("fast")
