"""The step releases (clipped sum + noise) / constant, and nothing about the users decides anything else."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client.gradients import WAYS, gradients_by_name
from client.private_step import LocalStatistics, StepFacts, StepPlan, private_step
from mmrec_model.errors import PrivacyError
from mmrec_model.privacy.noise import GaussianNoise

PLAN = StepPlan(max_grad_norm=0.5, noise_multiplier=1.5, expected_users=8.0, sample_rate=0.25)
SILENT = replace(PLAN, noise_multiplier=0.0, mechanism="none")


@dataclass
class Recorded:
    """A noise source that remembers what it was asked and returns ones."""

    source: str = "recorded"
    asked: list[tuple[int, float]] = field(default_factory=list)

    def draw(self, count: int, standard_deviation: float):
        self.asked.append((count, standard_deviation))
        return np.ones(count)

    def poisson_sample(self, population: int, rate: float):
        return np.arange(0)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return (model(x) - y).square().flatten(1).mean(1)


def setting(users: int = 6) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), (
        torch.randn(users, 3, 4),
        torch.randn(users, 3, 2),
    )


def take_step(model: nn.Module, batches, plan=SILENT, noise=None, *, way="bookkeeping", optimizer=None) -> StepFacts:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = optimizer or torch.optim.SGD(trained, lr=1.0)
    return private_step(model, optimizer, batches, loss, plan, noise or Recorded(), gradients_by_name(way))


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().double().flatten() for p in model.parameters()])


@pytest.mark.parametrize("way", WAYS)
def test_the_weights_move_by_the_clipped_sum_over_the_public_constant(way: str) -> None:
    model, batch = setting()
    before, sums = weights(model), gradients_by_name(way).clipped_sum(model, loss, batch, 0.5).sums
    take_step(model, [batch], way=way)
    expected = torch.cat([s.double().flatten() for s in sums]) / 8.0
    torch.testing.assert_close(before - weights(model), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_micro_batches_and_the_whole_batch_make_the_same_step(way: str) -> None:
    moved = []
    for size in (6, 4, 1):
        model, (x, y) = setting()
        take_step(model, list(zip(x.split(size), y.split(size), strict=True)), way=way)
        moved.append(weights(model))
    torch.testing.assert_close(moved[0], moved[1])
    torch.testing.assert_close(moved[0], moved[2])


@pytest.mark.parametrize("batches", [[], [(torch.zeros(0, 3, 4), torch.zeros(0, 3, 2))]])
def test_an_empty_sample_is_a_step_of_noise(batches: list) -> None:
    model, _ = setting()
    before = weights(model)
    facts = take_step(model, batches, PLAN)
    assert torch.allclose(before - weights(model), torch.full_like(before, 1 / 8.0), atol=1e-6)
    assert facts.local.users == 0
    assert facts.local.norms_B.shape == (0,)


def test_every_weight_gets_noise_of_the_planned_deviation_and_the_facts_say_so() -> None:
    model, batch = setting()
    noise = Recorded()
    facts = take_step(model, [batch], PLAN, noise)
    assert sum(count for count, _ in noise.asked) == facts.noise_numbers == facts.trained_weights == len(weights(model))
    assert {deviation for _, deviation in noise.asked} == {0.75} == {facts.noise_standard_deviation}
    assert (facts.noise_multiplier, facts.max_grad_norm, facts.divisor) == (1.5, 0.5, 8.0)
    assert (facts.mechanism, facts.noise_source, facts.gradients) == ("gaussian", "recorded", "bookkeeping")


def test_facts_outside_local_do_not_depend_on_the_data() -> None:
    facts = []
    for users, size in ((6, 1.0), (0, 1.0), (3, math.nan), (5, 1e6)):
        model, (x, y) = setting(users)
        facts.append(take_step(model, [(x * size, y)], PLAN))
    public = [{item.name: getattr(f, item.name) for item in fields(f) if item.name != "local"} for f in facts]
    assert all(other == public[0] for other in public)
    assert [f.local.users for f in facts] == [6, 0, 3, 5]
    assert [int((~torch.isfinite(f.local.norms_B)).sum()) for f in facts] == [0, 0, 3, 0]


def test_a_run_without_privacy_draws_nothing_and_says_so() -> None:
    model, batch = setting()
    noise = Recorded()
    facts = take_step(model, [batch], SILENT, noise)
    assert noise.asked == []
    assert (facts.mechanism, facts.noise_multiplier, facts.noise_source) == ("none", 0.0, "none")


def test_frozen_weights_stay_and_gradients_are_gone_after_the_step() -> None:
    model, batch = setting()
    model[0].requires_grad_(requires_grad=False)
    before = model[0].weight.clone()
    take_step(model, [batch], PLAN)
    assert torch.equal(model[0].weight, before)
    assert all(p.grad is None for p in model.parameters())


def test_plain_optimizers_work_on_the_noised_gradient() -> None:
    for kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad):
        model, batch = setting()
        before = weights(model)
        take_step(model, [batch], PLAN, optimizer=kind(model.parameters(), lr=0.01))
        assert not torch.equal(before, weights(model))
        assert bool(torch.isfinite(weights(model)).all())


def variance_is(sigma: float, sample: np.ndarray) -> bool:
    """A chi-square test that errs once in 1.7 million times: five standard errors of the variance."""
    return bool(abs(sample.var() / sigma**2 - 1.0) < 5.0 * math.sqrt(2.0 / len(sample)))


@pytest.mark.parametrize("planned", [1.5, 0.95 * 1.5])
def test_the_noise_in_the_weights_has_the_planned_sigma_and_no_other(planned: float) -> None:
    model = nn.Linear(400, 250)
    before = weights(model)
    plan = StepPlan(max_grad_norm=2.0, noise_multiplier=planned, expected_users=4.0, sample_rate=0.5)
    take_step(model, [], plan, GaussianNoise(seed=b"sigma"))
    noise = ((before - weights(model)) * 4.0 / 2.0).numpy()
    assert variance_is(1.5, noise) == (planned == 1.5)
    assert abs(noise.mean()) < 5.0 * planned / math.sqrt(len(noise))


def test_two_steps_have_independent_noise() -> None:
    model, moves = nn.Linear(400, 250), []
    for _ in range(2):
        before = weights(model)
        take_step(model, [], PLAN, GaussianNoise())
        moves.append((before - weights(model)).numpy())
    assert abs(np.corrcoef(*moves)[0, 1]) < 5.0 / math.sqrt(len(moves[0]))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"noise_multiplier": math.inf}, "noise_multiplier"),
        ({"noise_multiplier": math.nan}, "noise_multiplier"),
        ({"mechanism": "none"}, "noise_multiplier"),
        ({"mechanism": "laplace"}, "mechanism"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"max_grad_norm": math.inf}, "max_grad_norm"),
        ({"expected_users": 0.5}, "expected_users"),
        ({"expected_users": math.nan}, "expected_users"),
        ({"sample_rate": 0.0}, "sample_rate"),
        ({"sample_rate": 1.1}, "sample_rate"),
    ],
)
def test_a_plan_outside_its_range_is_refused(change: dict[str, object], named: str) -> None:
    with pytest.raises(PrivacyError, match=named):
        replace(PLAN, **change)


def test_an_optimizer_over_other_parameters_is_refused() -> None:
    model, batch = setting()
    for parameters in (model[0].parameters(), [*model.parameters(), nn.Parameter(torch.zeros(2))]):
        with pytest.raises(PrivacyError, match="the optimizer steps"):
            take_step(model, [batch], optimizer=torch.optim.SGD(parameters, lr=1.0))


def test_noise_of_the_wrong_length_or_precision_is_refused() -> None:
    class Short(Recorded):
        def draw(self, count: int, standard_deviation: float):
            return np.ones(1)

    class Coarse(Recorded):
        def draw(self, count: int, standard_deviation: float):
            return np.ones(count, dtype=np.float32)

    for noise in (Short(), Coarse()):
        model, batch = setting()
        before = weights(model)
        with pytest.raises(PrivacyError, match="noise source"):
            take_step(model, [batch], PLAN, noise)
        assert torch.equal(before, weights(model))


def test_a_failing_batch_leaves_weights_and_gradients_alone() -> None:
    model, batch = setting()
    before = weights(model)

    def batches():
        yield batch
        raise OSError("the disk of the partner fails")

    with pytest.raises(OSError, match="disk"):
        take_step(model, batches(), PLAN)
    assert torch.equal(before, weights(model))
    assert all(p.grad is None for p in model.parameters())


def test_local_statistics_count_users_within_the_clip_against_those_beyond_it() -> None:
    local = LocalStatistics(users=4, norms_B=torch.tensor([0.1, 2.0, 3.0, math.nan]))
    assert local.centred_count(1.0) == (1 - 2) / 2
