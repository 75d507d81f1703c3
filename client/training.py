"""Local training of one round: a few private steps from the global weights, and what they changed.

The users of each step are a Poisson sample; every constant is the plan's. Nothing that is returned, apart from the
noised update, depends on a user's data. Beside the model's weights the step trains a witness block, weights that no
loss reads, so that what they hold at the end is noise alone (`mmrec_model.privacy.witness`). What every step really
used is read back and compared with the plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from client.activity import Cut
from client.gradients import gradients_by_name
from client.gradients.contract import trainable_parameters
from client.private_step import StepFacts, StepPlan, private_step
from mmrec_model.config import RankingLoss, RunConfig
from mmrec_model.data.batches import draw_batch, draw_kept
from mmrec_model.data.feedback import Labels, draw_feedback
from mmrec_model.data.histories import Histories
from mmrec_model.errors import PrivacyError, ProtocolError
from mmrec_model.model.heads.outcomes import Outcomes
from mmrec_model.model.items import Items
from mmrec_model.model.loss import HistoryBatch
from mmrec_model.model.objective import user_losses
from mmrec_model.model.recommender import RecommenderNetwork
from mmrec_model.model.state import model_of_state
from mmrec_model.privacy.clipping import clip_of
from mmrec_model.privacy.noise import GaussianNoise
from mmrec_model.privacy.witness import witness_size
from mmrec_model.protocol import PRIOR, Arrays

GRADIENTS = "bookkeeping"


@dataclass(frozen=True)
class TrainedRound:
    """The noised result of a round.

    Attributes:
        update: change of each trained array.
        noise_multiplier: of every step, read back and found to be the plan's.
        steps: steps taken.
        max_grad_norm: the clip of every step, read back likewise.
        witness: float32 [K], what the steps made of the witness block; empty in a run without one.
        cut: whose gradients were longer than the clip, by activity. Not noised: it must never leave.
        clip_share: mean over the steps of the noised share of users within the clip, less one half (a release, see
            `StepFacts.clip_share`); None with flat clipping.
    """

    update: Arrays
    noise_multiplier: float
    steps: int
    max_grad_norm: float
    witness: npt.NDArray[np.float32]
    cut: Cut
    clip_share: float | None


def train_round(
    config: RunConfig,
    catalogue: Items,
    histories: Histories,
    state: Arrays,
    *,
    users: int,
    noise: GaussianNoise,
    encoder_source: str | None = None,
    own: Items | None = None,
    labels: Labels | None = None,
) -> TrainedRound:
    """Train `local_steps` private steps.

    Args:
        config: the approved run.
        catalogue: all items, without prior.
        histories: the partner's train histories.
        state: the global arrays: the trained ones, `prior` and, with adaptive clipping, the round's `clip`.
        users: the public number of users, which sets the divisor.
        noise: source of sampling and noise.
        encoder_source: where this machine has the text encoder, in a scope that trains it.
        own: own media of the users `[U]`, in a run that reads them.
        labels: what the model's heads learn from, of the same users; None for a model without heads.

    Raises:
        ProtocolError: the state has no prior of one number per item, or not the clip that the plan asks for.
        ModelError: the state does not fit the model.
        PrivacyError: a step did not use the plan's clip, noise, rate or divisor, or left weights without noise.
    """
    model, items = global_model(config, catalogue, state, encoder_source)
    before = {name: weight.clone() for name, weight in model.trainable_state().items()}
    training, plan = config.training, _step_plan(config, users, clip_of(config.privacy, state))
    witnessed = Witnessed(model, witness_size(config))
    trained = trainable_parameters(witnessed)
    optimizer = torch.optim.SGD(trained, lr=training.learning_rate)
    loss, gradients = partial(user_loss, catalogue=items, kind=training.loss), gradients_by_name(GRADIENTS)
    weights = sum(map(torch.numel, trained))
    lengths_U, facts, cuts = np.diff(histories.offsets), [], []
    for _ in range(training.local_steps):
        users_B, batches = _sample(config, histories, labels, own, noise)
        metered = Metered(noise)
        facts.append(private_step(witnessed, optimizer, batches, loss, plan, metered, gradients))
        _require_planned(facts[-1], metered.drawn, plan, weights=weights)
        cuts.append(Cut.of(lengths_U[users_B], facts[-1].local.beyond_B(plan.max_grad_norm).numpy()))
    after = model.trainable_state()
    return TrainedRound(
        update={name: (after[name] - before[name]).numpy().astype(np.float32) for name in sorted(after)},
        noise_multiplier=facts[-1].noise_multiplier,
        steps=len(facts),
        max_grad_norm=facts[-1].max_grad_norm,
        witness=witnessed.block(),
        cut=Cut.together(cuts),
        clip_share=_mean_share(facts),
    )


def user_loss(model: nn.Module, batch: HistoryBatch, *, catalogue: Items, kind: RankingLoss) -> Tensor:
    """The loss that trains, [B]: of the model inside a `Witnessed` one."""
    if not isinstance(model, Witnessed):
        raise TypeError(f"the loss needs a Witnessed model, got {type(model).__name__}")
    return user_losses(model.model, catalogue, batch, kind)


def _step_plan(config: RunConfig, users: int, clip: float) -> StepPlan:
    training, privacy = config.training, config.privacy
    return StepPlan(
        max_grad_norm=clip,
        noise_multiplier=privacy.noise_multiplier,
        expected_users=max(1.0, training.sample_rate * users),
        sample_rate=training.sample_rate,
        mechanism=privacy.mechanism,
        count_noise=privacy.clip_count_noise,
    )


def _mean_share(facts: list[StepFacts]) -> float | None:
    shares = [step.clip_share for step in facts if step.clip_share is not None]
    return sum(shares) / len(shares) if shares else None


class Witnessed(nn.Module):
    """A model and, beside it, `size` weights that start at 0 and that nothing reads; none if `size` is 0."""

    def __init__(self, model: RecommenderNetwork, size: int) -> None:
        super().__init__()
        self.model = model
        self.witness = nn.ParameterList([nn.Parameter(torch.zeros(size))] if size else [])

    def block(self) -> npt.NDArray[np.float32]:
        """What the witness weights hold."""
        held = [weight.detach().numpy().astype(np.float32) for weight in self.witness]
        return np.concatenate([np.empty(0, np.float32), *held])


class Metered:
    """A source of noise that notes what it was really asked for, whatever the step says.

    Attributes:
        source: as that of the source inside.
        drawn: how many normal numbers were drawn, by standard deviation.
    """

    def __init__(self, inner: GaussianNoise) -> None:
        self.source = inner.source
        self.drawn: Counter[float] = Counter()
        self._inner = inner

    def draw(self, count: int, standard_deviation: float) -> npt.NDArray[np.float64]:
        """As the source inside."""
        self.drawn[standard_deviation] += count
        return self._inner.draw(count, standard_deviation)

    def poisson_sample(self, population: int, rate: float) -> npt.NDArray[np.int64]:
        """As the source inside."""
        return self._inner.poisson_sample(population, rate)


def _require_planned(facts: StepFacts, drawn: Mapping[float, int], plan: StepPlan, *, weights: int) -> None:
    """Compare what a step did with what it should have done: one number of the planned deviation per weight and count.

    Gradients and count have a deviation each, which together make the plan's noise multiplier.
    """
    planned = (plan.mechanism, plan.noise_multiplier, plan.max_grad_norm, plan.expected_users, plan.sample_rate)
    found = (facts.mechanism, facts.noise_multiplier, facts.max_grad_norm, facts.divisor, facts.sample_rate)
    expected: Counter[float] = Counter()
    if deviation := plan.gradient_noise_multiplier * plan.max_grad_norm:
        expected[deviation] += weights
    if plan.count_noise is not None:
        expected[plan.count_noise] += 1
    if found != planned or dict(drawn) != dict(expected) or (facts.clip_share is None) != (plan.count_noise is None):
        raise PrivacyError(
            f"a step used mechanism, noise, clip, divisor and rate {found} and drew {dict(drawn)} (numbers by "
            f"deviation), the plan says {planned} and {dict(expected)}",
            remedy="Release nothing; correct the training code and reserve a new attempt",
        )


def global_model(
    config: RunConfig, catalogue: Items, state: Arrays, encoder_source: str | None = None
) -> tuple[RecommenderNetwork, Items]:
    """The model of a global state, and what it reads of the catalogue, with the state's prior.

    Raises:
        ProtocolError: the state has no prior of one number per item.
        ModelError: the state does not fit the model.
        EncoderError: the text encoder that the run tunes cannot be loaded from `encoder_source`.
    """
    prior = state.get(PRIOR)
    if prior is None or prior.shape != (config.features.items,):
        raise ProtocolError(
            f"the global state has no '{PRIOR}' of {config.features.items} items", remedy="Upgrade the older side"
        )
    model = model_of_state(config, state, encoder_source=encoder_source)
    model.train()
    return model, catalogue.only(config.model_dims).with_prior(prior)


def _sample(
    config: RunConfig, histories: Histories, labels: Labels | None, own: Items | None, noise: GaussianNoise
) -> tuple[npt.NDArray[np.int64], list[HistoryBatch]]:
    """The users of a step, and their micro-batches in the same order."""
    training = config.training
    users = noise.poisson_sample(len(histories), training.sample_rate)
    if not len(users):
        return users, []
    seed = noise.integer()
    modalities = len(config.model_dims)
    drawn = draw_batch(
        histories,
        users,
        n_items=config.features.items,
        max_history=training.max_history,
        negatives=training.negatives,
        seed=seed,
        modalities=modalities,
        modality_dropout=training.modality_dropout,
    )
    media = None if own is None else own.take(torch.from_numpy(users).unsqueeze(1))
    outcomes = None
    if config.model.heads and labels is not None:
        rows = draw_feedback(labels.feedback, users, max_feedback=training.max_feedback, seed=noise.integer())
        kept_BFM = draw_kept(
            rows.items_BF, users, modalities=modalities, modality_dropout=training.modality_dropout, seed=seed
        )
        outcomes = Outcomes.from_rows(rows, drawn.history_BK, labels.category_N, kept_BFM)
    return users, HistoryBatch.from_users(drawn, own=media, outcomes=outcomes).split(training.micro_batch)
