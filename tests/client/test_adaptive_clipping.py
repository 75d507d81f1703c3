"""Adaptive clipping at a partner: the count is a release like the gradients, and both together keep the bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client import plan_replay, training
from client.attestation import run_self_test
from client.gradients import gradients_by_name
from client.made_up_plan import PlanShape
from client.neighbour_replay import PrivateStep, SensitivityReport, recorded_step, replay_neighbours
from client.policy import Policy, check_run
from client.private_step import StepFacts, StepPlan, private_step
from client.release import answer
from client.sensitivity_cases import BROKEN_COUNTS
from client.site import Site
from client.training import train_round
from mmrec_model.config import PrivacyConfig, RunConfig
from mmrec_model.errors import PolicyRefusal, PrivacyError
from mmrec_model.planning import adaptive_clipping
from mmrec_model.privacy.clipping import gradient_noise_multiplier, next_clip, start_clip
from mmrec_model.privacy.noise import SYSTEM_SOURCE, GaussianNoise
from mmrec_model.privacy.records import Record
from mmrec_model.protocol import Arrays, Kind, Request, arrays_digest

PLAN = StepPlan(max_grad_norm=1.0, noise_multiplier=1.0, expected_users=8.0, sample_rate=0.5, count_noise=0.9)
BOOKKEEPING = gradients_by_name("bookkeeping")


class Recorded:
    """Noise of one state, and everything it was asked for."""

    source = "recorded"

    def __init__(self, level: float = 0.0) -> None:
        self.asked: list[tuple[int, float]] = []
        self._level = level

    def draw(self, count: int, standard_deviation: float) -> np.ndarray:
        self.asked.append((count, standard_deviation))
        return np.full(count, self._level * standard_deviation)

    def poisson_sample(self, population: int, rate: float) -> np.ndarray:
        return np.arange(int(population * rate))


def product(model: nn.Module, x_BD: Tensor) -> Tensor:
    """A loss whose gradient for each user is that user's row."""
    return model(x_BD).squeeze(-1)


def step(batches: list[Tensor], plan: StepPlan = PLAN, noise: Recorded | GaussianNoise | None = None) -> StepFacts:
    model = nn.Linear(3, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    return private_step(model, optimizer, batches, product, plan, noise or Recorded(), BOOKKEEPING)


def rows(*norms: float) -> Tensor:
    return torch.tensor([[norm, 0.0, 0.0] for norm in norms])


def test_the_share_is_the_centred_count_over_the_public_number_of_users() -> None:
    assert step([rows(0.1, 0.9, 3.0), rows(0.5)]).clip_share == (3 - 1) / 2 / 8.0
    assert step([rows(5.0, 7.0, 3.0)]).clip_share == -3 / 2 / 8.0
    assert step([rows(0.999)], replace(PLAN, expected_users=2.0)).clip_share == 0.25


@pytest.mark.parametrize("batches", [[], [rows()[:0].reshape(0, 3)], [rows(math.nan, math.inf, 1e30)]])
def test_an_empty_step_and_users_without_a_norm_release_noise_alone(batches: list[Tensor]) -> None:
    assert step(batches).clip_share == 0.0
    assert step(batches, noise=Recorded(1.0)).clip_share == pytest.approx(0.9 / 8.0, rel=1e-12)


def test_a_user_without_a_finite_norm_counts_as_absent() -> None:
    assert step([rows(0.1, math.nan, 3.0, 4.0)]).clip_share == step([rows(0.1, 3.0, 4.0)]).clip_share


def test_gradients_and_count_get_the_noises_that_together_are_the_plans() -> None:
    noise = Recorded()
    facts = step([rows(0.3)], replace(PLAN, max_grad_norm=0.5), noise)
    assert noise.asked == [(3, gradient_noise_multiplier(1.0, 0.9) * 0.5), (1, 0.9)]
    assert (facts.noise_standard_deviation, facts.count_noise) == (noise.asked[0][1], 0.9)
    assert facts.noise_multiplier == 1.0


def test_without_a_count_nothing_is_counted() -> None:
    noise = Recorded()
    facts = step([rows(0.3)], replace(PLAN, count_noise=None), noise)
    assert (facts.clip_share, facts.count_noise, noise.asked) == (None, None, [(3, 1.0)])


@pytest.mark.parametrize(
    "change", [{"count_noise": 0.5}, {"count_noise": math.inf}, {"noise_multiplier": 1.8}], ids=str
)
def test_a_count_noise_that_leaves_nothing_for_the_gradients_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(PrivacyError, match="count_noise"):
        replace(PLAN, **change)
    with pytest.raises(PrivacyError, match="count_noise"):
        replace(PLAN, mechanism="none", noise_multiplier=0.0)


@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("start", [0.15, 6.0])
def test_the_clip_comes_to_the_quantile_of_the_norms(quantile: float, start: float) -> None:
    """Norms are lognormal around 1; 400 users in a step, noise of 20 users on the count."""
    privacy = PrivacyConfig(
        epsilon=1.0,
        noise_multiplier=1.0,
        popularity_noise_multiplier=1.0,
        max_grad_norm=start,
        clipping="adaptive",
        clip_quantile=quantile,
        clip_count_noise=20.0,
        clip_range=100.0,
    )
    noise, draw = GaussianNoise(seed=b"quantile"), np.random.default_rng(1)
    norms = np.exp(0.5 * draw.normal(size=2000)).astype(np.float32)
    clip_1, late = start_clip(privacy), list[float]()
    assert clip_1 is not None
    plan = StepPlan(start, 1.0, expected_users=400.0, sample_rate=0.2, count_noise=20.0)
    for round_ in range(120):
        found = step(
            [rows(*norms[noise.poisson_sample(2000, 0.2)])], replace(plan, max_grad_norm=float(clip_1[0])), noise
        )
        assert found.clip_share is not None
        clip_1 = next_clip(privacy, clip_1, found.clip_share)
        late += [float(clip_1[0])] if round_ >= 80 else []
    assert float(np.mean(late)) == pytest.approx(np.quantile(norms, quantile), rel=0.06)


USERS = torch.cat([rows(0.2, 0.7, 1.0, 40.0, 2.0, 0.9), torch.tensor([[math.nan, 0.0, 0.0]])])


def replay(plan: StepPlan = PLAN, take: PrivateStep = private_step) -> SensitivityReport:
    torch.manual_seed(0)
    model, noise = nn.Linear(3, 1, bias=False), partial(GaussianNoise, seed=b"r")
    made = recorded_step(model, product, plan, BOOKKEEPING, noise, micro_batch=3, take=take)
    return replay_neighbours(made, USERS, plan.max_grad_norm)


@pytest.mark.parametrize("clip", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("count_noise", [0.51, 0.9, 20.0, None])
def test_one_user_moves_gradients_and_count_together_by_what_the_plan_says(
    clip: float, count_noise: float | None
) -> None:
    report = replay(replace(PLAN, max_grad_norm=clip, count_noise=count_noise))
    assert report.holds, str(report)
    assert report.measured == pytest.approx(report.limit, rel=1e-3), "a clipped user reaches the bound"
    assert report.distances[-1] < 1e-4 * clip


BROKEN = {name: (take, least) for name, take, least in BROKEN_COUNTS}


@pytest.mark.parametrize("name", BROKEN)
def test_the_replay_catches_among_few_users(name: str) -> None:
    take, least = BROKEN[name]
    report = replay(take=take)
    assert not report.holds, str(report)
    assert math.isnan(report.measured) if math.isnan(least) else report.measured > 1.2


@pytest.mark.parametrize("name", ["the count without noise", "the count over the realised batch"])
def test_code_that_breaks_the_count_fails_its_own_test(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take, _ = BROKEN[name]
    run_self_test.cache_clear()
    monkeypatch.setattr(plan_replay, "recorded_step", partial(recorded_step, take=take))
    assert run_self_test("b" * 64, SYSTEM_SOURCE, PlanShape()).neighbour_replay == "passed", "flat plans count nobody"
    assert run_self_test("b" * 64, SYSTEM_SOURCE, PlanShape(adaptive=True)).neighbour_replay == "failed"
    run_self_test.cache_clear()


@pytest.fixture
def adaptive(config: RunConfig) -> RunConfig:
    privacy = adaptive_clipping(config.privacy, expected_users=0.3 * 60)
    return config.model_copy(update={"privacy": privacy})


@pytest.fixture
def ask(
    make_request: Callable[..., tuple[Request, Arrays]], adaptive: RunConfig
) -> Callable[..., tuple[Request, Arrays]]:
    """A training request of a round that carries this clip; none at all for None."""

    def make(round_number: int, clip: float | None) -> tuple[Request, Arrays]:
        request, arrays = make_request(round_number, plan=adaptive)
        if clip is not None:
            arrays = {**arrays, "clip": np.array([clip], np.float32)}
        return replace(request, model_digest=arrays_digest(arrays)), arrays

    return make


def records(site: Site, kind: str) -> list[Record]:
    with site.open_ledger() as ledger:
        return [record for record in ledger.records if record.type == kind]


def test_each_round_is_charged_and_committed_with_the_clip_that_was_used(make_site, ask) -> None:
    site = make_site(max_epsilon=50.0)
    for number, clip in enumerate((1.0, 0.37, 2.2), start=1):
        result = answer(site, Kind.TRAIN, *ask(number, clip))
        assert result.reply.refusal == "", result.reply.refusal_text
        assert result.arrays["clip_share"].shape == (1,)
        assert result.arrays["clip_share"].dtype == np.float32
        used = float(np.float32(clip))
        for record in (records(site, "reserve")[-1], records(site, "commit")[-1]):
            assert record.values["sensitivity"] == used
            assert record.table("mechanism")["noise_multiplier"] == 1.5
        assert 0.89 < records(site, "commit")[-1].table("witness")["deviation_ratio"] < 1.11
    (plan,) = records(site, "plan")
    assert (plan.values["clipping"], plan.values["max_grad_norm"], plan.values["adaptivity"]) == (
        "adaptive",
        1.0,
        "fixed",
    )
    assert plan.table("hyper_parameters")["clip_count_noise"] == "3.0"
    assert plan.table("hyper_parameters")["clip_quantile"] == "0.5"


@pytest.mark.parametrize("clip", [None, 0.0999, 10.01, math.nan, -1.0])
def test_a_clip_outside_the_plans_range_spends_nothing(clip: float | None, make_site, ask) -> None:
    site = make_site(max_epsilon=50.0)
    result = answer(site, Kind.TRAIN, *ask(1, clip))
    assert (result.reply.refusal, result.arrays) == ("protocol", {})
    assert "clip" in result.reply.refusal_text
    assert records(site, "reserve") == []


def test_a_round_that_comes_again_with_another_clip_is_another_round(make_site, ask) -> None:
    site = make_site(max_epsilon=50.0)
    first = answer(site, Kind.TRAIN, *ask(1, 1.0))
    assert answer(site, Kind.TRAIN, *ask(1, 0.9)).reply.refusal == "round-changed"
    again = answer(site, Kind.TRAIN, *ask(1, 1.0))
    assert arrays_digest(again.arrays) == arrays_digest(first.arrays)
    assert len(records(site, "reserve")) == 1


def test_a_flat_plan_takes_no_clip_and_sends_no_share(make_site, make_request) -> None:
    site = make_site(max_epsilon=50.0)
    request, arrays = make_request(1)
    assert "clip_share" not in answer(site, Kind.TRAIN, request, arrays).arrays
    arrays = {**arrays, "clip": np.ones(1, np.float32)}
    second = replace(request, round=2, model_digest=arrays_digest(arrays))
    assert answer(site, Kind.TRAIN, second, arrays).reply.refusal == "protocol"


def test_the_share_of_a_round_is_the_mean_over_its_steps(make_site, ask, adaptive, monkeypatch) -> None:
    site, shares = make_site(), list[float]()
    real = training.private_step

    def noted(*values: object) -> StepFacts:
        facts = real(*values)
        shares.append(facts.clip_share)
        return facts

    monkeypatch.setattr(training, "private_step", noted)
    _, arrays = ask(1, 0.5)
    found = train_round(adaptive, site.items, site.dataset.train, arrays, users=60, noise=GaussianNoise(seed=b"x"))
    assert len(shares) == adaptive.training.local_steps == 2
    assert found.clip_share == pytest.approx(sum(shares) / 2, rel=1e-12)
    assert (found.max_grad_norm, found.noise_multiplier) == (0.5, 1.5)


@pytest.mark.parametrize(
    "change", [{"count_noise": 3.01}, {"noise_multiplier": 1.49}, {"max_grad_norm": 0.499}], ids=str
)
def test_a_step_that_departs_from_either_noise_is_found(change, make_site, ask, adaptive, monkeypatch) -> None:
    site, real = make_site(), training.private_step

    def other(model, optimizer, batches, loss, plan, *rest) -> StepFacts:
        return real(model, optimizer, batches, loss, replace(plan, **change), *rest)

    monkeypatch.setattr(training, "private_step", other)
    with pytest.raises(PrivacyError, match="the plan says"):
        train_round(adaptive, site.items, site.dataset.train, ask(1, 0.5)[1], users=60, noise=GaussianNoise(seed=b"x"))


@pytest.mark.parametrize(
    ("code", "limits"),
    [
        ("clipping", {"allowed_clipping": ("flat",)}),
        ("clip-range", {"max_clip_range": 9.0}),
        ("clip", {"max_grad_norm": 9.99}),
    ],
)
def test_a_partner_may_forbid_adaptive_clipping_or_bound_it(code: str, limits: dict, config, adaptive) -> None:
    def check(policy: Policy, run: RunConfig) -> None:
        check_run(
            policy, run, users=60, installed_features=run.features.digest, trained_weights=10, installed_code="c" * 64
        )

    check(Policy(max_delta=1e-3), adaptive)
    check(Policy(max_delta=1e-3, **limits), config)
    with pytest.raises(PolicyRefusal) as refused:
        check(Policy(max_delta=1e-3, **limits), adaptive)
    assert refused.value.code == code
