"""One private training step: clip each user, sum, add Gaussian noise, divide by a public constant, step.

The guarantee (Abadi et al. 2016, arXiv 1607.00133, with the user as the unit; neighbours: one user's data replaced by
nothing, the number of users being public):
  1. the released gradient is (sum over sampled users of clipped gradients + noise) / expected_users, with noise of
     standard deviation noise_multiplier * max_grad_norm per weight, drawn from `noise` and added in float64;
  2. `expected_users` is a constant of the plan; no count of the users at hand enters anything that leaves;
  3. an empty sample is an ordinary step that consists of noise; a non-finite user counts as absent; no step ends
     early because of data;
  4. `StepFacts` holds what was really used, read back from the calls that used it, for the ledger;
  5. with `count_noise` the step also releases how many users were within the clip (each counts +1/2, one beyond it
     -1/2, an absent one 0), with noise of that deviation, divided by `expected_users`. The gradients then have the
     larger `gradient_noise_multiplier`, so that both together cost `noise_multiplier` (Andrew et al. 2021, arXiv
     1905.03871, Theorem 1; `mmrec_model.privacy.clipping`).

With each user sampled independently with probability `sample_rate`, the step is a Poisson-subsampled Gaussian mechanism
with sensitivity 1 and standard deviation `noise_multiplier`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from client.gradients import Batch, PerUserGradients, UserLoss, refuse_unsupported
from client.gradients.contract import trainable_parameters, zero_sums
from mmrec_model.errors import PrivacyError
from mmrec_model.privacy.clipping import gradient_noise_multiplier

CHUNK = 1 << 16
"""Weights that are noised at once: small enough that the float64 numbers stay in the cache."""


class Noise(Protocol):
    """Where randomness comes from; `mmrec_model.privacy.noise.GaussianNoise` in production."""

    @property
    def source(self) -> str:
        """Name of the generator, recorded in the ledger."""

    def draw(self, count: int, standard_deviation: float) -> npt.NDArray[np.float64]:
        """`count` independent centred normal numbers."""

    def poisson_sample(self, population: int, rate: float) -> npt.NDArray[np.int64]:
        """Positions of those of `population` that join when each joins with probability `rate`."""


@dataclass(frozen=True)
class StepPlan:
    """The public constants of a private step; the same at every partner and for every batch.

    Attributes:
        max_grad_norm: C, the L2 bound of one user's gradient, > 0.
        noise_multiplier: sigma, noise of the whole release in units of C; above 0 for `gaussian`, 0 for `none`.
        expected_users: what the noised sum is divided by: sample_rate times the public number of users, >= 1.
        sample_rate: probability with which each user joins the step, in (0, 1].
        mechanism: `none` only for runs without privacy, which a partner's policy must allow.
        count_noise: deviation of the noise on the count of users within the clip, in users, above
            `noise_multiplier` / 2; None if no count is released.

    Raises:
        PrivacyError: a value outside its range, or noise that does not fit the mechanism.
    """

    max_grad_norm: float
    noise_multiplier: float
    expected_users: float
    sample_rate: float
    mechanism: Literal["gaussian", "none"] = "gaussian"
    count_noise: float | None = None

    def __post_init__(self) -> None:
        _require("max_grad_norm", self.max_grad_norm, "above 0 and finite", holds=0.0 < self.max_grad_norm < math.inf)
        _require("sample_rate", self.sample_rate, "in (0, 1]", holds=0.0 < self.sample_rate <= 1.0)
        _require("expected_users", self.expected_users, "at least 1", holds=1.0 <= self.expected_users < math.inf)
        _require("mechanism", self.mechanism, "'gaussian' or 'none'", holds=self.mechanism in {"gaussian", "none"})
        if self.mechanism == "gaussian":
            noisy = 0.0 < self.noise_multiplier < math.inf
            _require("noise_multiplier", self.noise_multiplier, "above 0 for mechanism 'gaussian'", holds=noisy)
        else:
            silent = self.noise_multiplier == 0.0
            _require("noise_multiplier", self.noise_multiplier, "0 for mechanism 'none'", holds=silent)
        if self.count_noise is not None:
            enough = self.mechanism == "gaussian" and self.noise_multiplier < 2.0 * self.count_noise < math.inf
            _require("count_noise", self.count_noise, "above half the noise multiplier of 'gaussian'", holds=enough)

    @property
    def gradient_noise_multiplier(self) -> float:
        """Noise of the gradients in units of C: `noise_multiplier`, and more where the count is released too."""
        return gradient_noise_multiplier(self.noise_multiplier, self.count_noise)


@dataclass(frozen=True)
class LocalStatistics:
    """What the partner may look at on its own machine. Not noised: it must never leave.

    Attributes:
        users: users in the step.
        norms_B: their gradient norms before clipping.
    """

    users: int
    norms_B: Tensor

    def centred_count(self, max_grad_norm: float) -> float:
        """Half of (users within the clip - users beyond it); a user without a finite norm is in neither."""
        present_B = self.norms_B[torch.isfinite(self.norms_B)]
        return int((present_B <= max_grad_norm).sum()) - len(present_B) / 2

    def beyond_B(self, max_grad_norm: float) -> Tensor:  # noqa: N802 - the shape is part of the name
        """Whether each user's gradient was longer than the clip; a user without a finite norm is absent."""
        return torch.isfinite(self.norms_B) & (self.norms_B > max_grad_norm)


@dataclass(frozen=True)
class StepFacts:
    """What one step really did; everything but `local` is independent of the data and may be published.

    Attributes:
        mechanism: as planned.
        noise_multiplier: as planned.
        max_grad_norm: the clip handed to the gradients.
        noise_standard_deviation: what the generator was asked for, per weight of the sum; 0 without noise.
        noise_numbers: how many normal numbers were added to the sum.
        divisor: what the noised sum was divided by.
        sample_rate: as planned.
        trained_weights: number of weights in the gradient.
        noise_source: name of the generator.
        gradients: the way in which gradients were computed.
        count_noise: what the generator was asked for, for the count of users within the clip; None without a count.
        clip_share: that count, centred and noised, over the divisor: a release; None without a count.
        local: unnoised statistics for the partner's own eyes.
    """

    mechanism: str
    noise_multiplier: float
    max_grad_norm: float
    noise_standard_deviation: float
    noise_numbers: int
    divisor: float
    sample_rate: float
    trained_weights: int
    noise_source: str
    gradients: str
    count_noise: float | None
    clip_share: float | None
    local: LocalStatistics


def private_step(  # noqa: PLR0917 - model, data, plan and chance are all needed
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    user_loss: UserLoss,
    plan: StepPlan,
    noise: Noise,
    gradients: PerUserGradients,
) -> StepFacts:
    """Take one step; the micro-batches together are one Poisson sample, each user in exactly one of them.

    Args:
        model: a model that `refuse_unsupported` accepts.
        optimizer: a plain torch optimizer over exactly the trainable parameters.
        batches: micro-batches of 16 to 64 users; none at all for an empty sample.
        user_loss: loss of each user, shape [B].
        plan: the public constants.
        noise: generator of the noise.
        gradients: the way of computing clipped sums.

    Raises:
        PrivacyError: the model, loss or optimizer would void the guarantee; the reason never depends on a user.
    """
    refuse_unsupported(model)
    _refuse_foreign_optimizer(model, optimizer)
    totals, local = _clipped_total(model, batches, user_loss, plan.max_grad_norm, gradients)
    deviation = plan.gradient_noise_multiplier * plan.max_grad_norm
    numbers, released = 0, list[Tensor]()
    for parameter, total in zip(trainable_parameters(model), totals, strict=True):
        released.append(torch.empty_like(total, dtype=parameter.dtype))
        numbers += _write_noised_mean(released[-1], total, deviation, plan.expected_users, noise)
    share = None if plan.count_noise is None else _noised_share(local, plan, plan.count_noise, noise)
    for parameter, gradient in zip(trainable_parameters(model), released, strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepFacts(
        mechanism=plan.mechanism,
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=plan.max_grad_norm,
        noise_standard_deviation=deviation,
        noise_numbers=numbers,
        divisor=plan.expected_users,
        sample_rate=plan.sample_rate,
        trained_weights=sum(total.numel() for total in totals),
        noise_source=noise.source if numbers else "none",
        gradients=gradients.name,
        count_noise=plan.count_noise,
        clip_share=share,
        local=local,
    )


def _clipped_total(
    model: nn.Module,
    batches: Iterable[Batch],
    user_loss: UserLoss,
    max_grad_norm: float,
    gradients: PerUserGradients,
) -> tuple[list[Tensor], LocalStatistics]:
    totals, norms = zero_sums(model), [torch.zeros(0)]
    for batch in batches:
        found = gradients.clipped_sum(model, user_loss, batch, max_grad_norm)
        norms.append(found.local_norms_B.float().cpu())
        for total, part in zip(totals, found.sums, strict=True):
            total.add_(part)
    return totals, LocalStatistics(users=sum(map(len, norms)), norms_B=torch.cat(norms))


def _write_noised_mean(gradient: Tensor, total: Tensor, deviation: float, divisor: float, noise: Noise) -> int:
    """Write (sum + noise) / divisor, in float64 and rounded once; returns how many normal numbers went into it."""
    written = 0
    for out, part in zip(_chunks(gradient), _chunks(total), strict=True):
        if deviation == 0.0:
            out.copy_(part.double().div_(divisor))
            continue
        drawn = _drawn(noise, len(part), deviation)
        out.copy_(torch.from_numpy(drawn).to(part.device).add_(part).div_(divisor))
        written += len(part)
    return written


def _noised_share(local: LocalStatistics, plan: StepPlan, deviation: float, noise: Noise) -> float:
    count = local.centred_count(plan.max_grad_norm) + float(_drawn(noise, 1, deviation)[0])
    return count / plan.expected_users


def _drawn(noise: Noise, count: int, deviation: float) -> npt.NDArray[np.float64]:
    drawn = noise.draw(count, deviation)
    if drawn.dtype != np.float64 or drawn.shape != (count,):
        raise PrivacyError(
            f"the noise source returned {drawn.dtype} of shape {drawn.shape}, needed is float64 of ({count},)",
            remedy="Use mmrec_model.privacy.noise.GaussianNoise",
        )
    return drawn


def _chunks(tensor: Tensor) -> tuple[Tensor, ...]:
    return torch.split(tensor.view(-1), CHUNK)


def _refuse_foreign_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    trained = {id(parameter) for parameter in trainable_parameters(model)}
    if stepped != trained:
        raise PrivacyError(
            f"the optimizer steps {len(stepped)} parameters, {len(stepped & trained)} of the {len(trained)} trained",
            remedy="Make the optimizer from exactly the parameters with requires_grad after freezing the rest",
        )


def _require(name: str, value: object, limit: str, *, holds: bool) -> None:
    if not holds:
        raise PrivacyError(f"{name} is {value}, it must be {limit}", remedy="Use the constants of the approved plan")
