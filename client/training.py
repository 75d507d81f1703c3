"""Local training of one round: a few private steps from the global weights, and what they changed.

The users of each step are a Poisson sample; every constant is the plan's. Nothing that is returned, apart from the
noised update, depends on a user's data.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from client.gradients import gradients_by_name
from client.private_step import StepPlan, private_step
from mmrec_model.config import RunConfig
from mmrec_model.data.batches import draw_batch
from mmrec_model.data.histories import Histories
from mmrec_model.errors import ProtocolError
from mmrec_model.model.items import Items
from mmrec_model.model.loss import HistoryBatch, sampled_softmax_loss
from mmrec_model.model.recommender import MultimodalRecommender, build_model
from mmrec_model.privacy.noise import GaussianNoise
from mmrec_model.protocol import Arrays

GRADIENTS = "bookkeeping"
PRIOR = "prior"


@dataclass(frozen=True)
class TrainedRound:
    """The noised result of a round.

    Attributes:
        update: change of each trained array.
        noise_multiplier: read back from the steps; the smallest one that ran.
        steps: steps taken.
    """

    update: Arrays
    noise_multiplier: float
    steps: int


def train_round(
    config: RunConfig, catalogue: Items, histories: Histories, state: Arrays, *, users: int, noise: GaussianNoise
) -> TrainedRound:
    """Train `local_steps` private steps.

    Args:
        config: the approved run.
        catalogue: all items, without prior.
        histories: the partner's train histories.
        state: the global arrays: the trained ones and `prior`.
        users: the public number of users, which sets the divisor.
        noise: source of sampling and noise.

    Raises:
        ProtocolError: the state has no prior of one number per item.
        ModelError: the state does not fit the model.
    """
    model, items = _global_model(config, catalogue, state)
    before = {name: weight.clone() for name, weight in model.trainable_state().items()}
    training, privacy = config.training, config.privacy
    plan = StepPlan(
        max_grad_norm=privacy.max_grad_norm,
        noise_multiplier=privacy.noise_multiplier,
        expected_users=max(1.0, training.sample_rate * users),
        sample_rate=training.sample_rate,
        mechanism=privacy.mechanism,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=training.learning_rate)
    loss = partial(_loss, catalogue=items)
    facts = []
    for _ in range(training.local_steps):
        batches = _sample(config, histories, noise)
        facts.append(private_step(model, optimizer, batches, loss, plan, noise, gradients_by_name(GRADIENTS)))
    after = model.trainable_state()
    update = {name: (after[name] - before[name]).numpy().astype(np.float32) for name in sorted(after)}
    return TrainedRound(update, min(fact.noise_multiplier for fact in facts), len(facts))


def _global_model(config: RunConfig, catalogue: Items, state: Arrays) -> tuple[MultimodalRecommender, Items]:
    prior = state.get(PRIOR)
    if prior is None or prior.shape != (config.features.items,):
        raise ProtocolError(
            f"the global state has no '{PRIOR}' of {config.features.items} items", remedy="Upgrade the older side"
        )
    model = build_model(config)
    model.load_trainable_state({name: torch.tensor(array) for name, array in state.items() if name != PRIOR})
    model.train()
    return model, catalogue.with_prior(prior)


def _sample(config: RunConfig, histories: Histories, noise: GaussianNoise) -> list[HistoryBatch]:
    training = config.training
    users = noise.poisson_sample(len(histories), training.sample_rate)
    if not len(users):
        return []
    drawn = draw_batch(
        histories,
        users,
        n_items=config.features.items,
        max_history=training.max_history,
        negatives=training.negatives,
        seed=noise.integer(),
    )
    return HistoryBatch.from_users(drawn).split(training.micro_batch)


def _loss(model: nn.Module, batch: HistoryBatch, *, catalogue: Items) -> Tensor:
    if not isinstance(model, MultimodalRecommender):
        raise TypeError(f"the loss needs a MultimodalRecommender, got {type(model).__name__}")
    return sampled_softmax_loss(model, catalogue, batch)
