"""Epochs with a checkpoint after each, early stopping on the held-out part, and the best weights at the end.

Promises:
1. With one thread on a CPU the result is a function of objective and settings: a training that was interrupted after
   any epoch ends with the same bytes as one that was not.
2. The weights at the end are those of the epoch with the least held-out loss; the epochs after it are forgotten.
3. A checkpoint of other settings, data or base is refused, never continued.

AdamW (Loshchilov & Hutter 2019), gradients cut at norm 1; the rate warms up over a tenth of all steps and falls to 0
 (Devlin et al. 2019, appendix A.2).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mmrec_model.errors import EncoderError
from mmrec_model.features.bundle import Progress
from mmrec_model.pretraining.settings import PretrainingSettings
from mmrec_model.storage import write_atomically

STAGE = "pretraining"
CHECKPOINT = "checkpoint.safetensors"
_WARM_UP = 0.1
_LARGEST_NORM = 1.0

Figures = dict[str, float]
"""Held-out figures by name; `loss` decides."""


class Objective(Protocol):
    """What is trained, and how well it does on the held-out part."""

    @property
    def network(self) -> nn.Module:
        """Everything that is trained."""

    @property
    def steps(self) -> int:
        """Steps of an epoch."""

    def losses(self, epoch: int) -> Iterator[Tensor]:
        """The loss of each step of an epoch, counted from 1; the weights move between two of them."""

    def assess(self) -> Figures:
        """Figures on the held-out part; moves nothing."""


@dataclass
class History:
    """How a training went.

    Attributes:
        fingerprint: of the settings, the data and the base.
        epochs: finished ones.
        best_epoch: the one whose weights are kept; 0 is before training.
        before: held-out figures before training.
        best: held-out figures of the best epoch.
        losses: held-out loss after each epoch.
    """

    fingerprint: str
    epochs: int = 0
    best_epoch: int = 0
    before: Figures = field(default_factory=dict)
    best: Figures = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)

    def ended(self, settings: PretrainingSettings) -> bool:
        """Whether no further epoch is due."""
        return self.epochs >= settings.epochs or self.epochs - self.best_epoch >= settings.patience


def train(
    objective: Objective, settings: PretrainingSettings, work: Path, fingerprint: str, progress: Progress
) -> History:
    """Train from the checkpoint in `work`, if there is one, and leave the best weights in the network.

    Raises:
        EncoderError: the checkpoint is damaged or of another training, or the loss is not finite.
    """
    path = work / CHECKPOINT
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        state = _State(objective.network, settings)
        history = state.load(path, fingerprint) if path.is_file() else _first(objective, state, fingerprint)
        total = settings.epochs * objective.steps
        while not history.ended(settings):
            torch.manual_seed(settings.seed + 1_000_003 * (history.epochs + 1))
            _run_epoch(objective, state, history, total, progress)
            _judge(objective, state, history)
            state.save(path, history)
        progress(STAGE, total, total, 0)
    objective.network.load_state_dict(state.best)
    return history


class _State:
    """Network, optimiser and the best weights so far, as one file."""

    def __init__(self, network: nn.Module, settings: PretrainingSettings) -> None:
        self.network, self.rate = network, settings.learning_rate
        self._weights = [weight for weight in network.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.AdamW(self._weights, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self.best: dict[str, Tensor] = {}

    def step(self, loss: Tensor, share: float) -> None:
        """Move the weights; `share` of all steps lies behind."""
        value = loss.item()
        if not math.isfinite(value):
            raise EncoderError(f"the training loss is {value}", remedy="Lower the learning rate")
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * min((share + 1e-3) / _WARM_UP, (1.0 - share) / (1.0 - _WARM_UP))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._weights, _LARGEST_NORM)
        self.optimiser.step()

    def keep(self) -> None:
        """Remember the weights as the best."""
        self.best = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}

    def save(self, path: Path, history: History) -> None:
        """Replace the checkpoint."""
        arrays = {f"network/{name}": tensor for name, tensor in self.network.state_dict().items()}
        arrays |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        for number, moments in self.optimiser.state_dict()["state"].items():
            arrays |= {f"optimiser/{number}/{name}": tensor for name, tensor in moments.items()}
        content = save(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in arrays.items()},
            metadata={"history": json.dumps(asdict(history))},
        )
        try:
            write_atomically(path, content)
        except OSError as error:
            raise EncoderError(
                f"the checkpoint {path} cannot be written: {error.strerror or error}",
                remedy="Give an output folder on a disk with room for three times the weights",
            ) from error

    def load(self, path: Path, fingerprint: str) -> History:
        """Continue where the checkpoint stands."""
        try:
            with safe_open(path, "pt") as file:
                history = History(**json.loads(file.metadata()["history"]))
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            if history.fingerprint == fingerprint:
                self._restore(arrays)
        except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise EncoderError(
                f"the checkpoint {path} is damaged ({type(error).__name__})", remedy="Start anew with --overwrite"
            ) from error
        if history.fingerprint != fingerprint:
            raise EncoderError(
                f"the checkpoint {path} is of a training with other settings, items or base "
                f"({history.fingerprint[:12]}, this one is {fingerprint[:12]})",
                remedy="Repeat the command that was interrupted, or start anew with --overwrite",
            )
        return history

    def _restore(self, arrays: dict[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "best": {}, "optimiser": {}}
        for name, tensor in arrays.items():
            part, _, inner = name.partition("/")
            parts[part][inner] = tensor
        self.network.load_state_dict(parts["network"])
        self.best = parts["best"]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimiser"].items():
            number, _, kind = name.partition("/")
            moments.setdefault(int(number), {})[kind] = tensor
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})


def _first(objective: Objective, state: _State, fingerprint: str) -> History:
    state.keep()
    objective.network.eval()
    before = objective.assess()
    return History(fingerprint, before=before, best=before)


def _run_epoch(objective: Objective, state: _State, history: History, total: int, progress: Progress) -> None:
    objective.network.train()
    done = history.epochs * objective.steps
    for loss in objective.losses(history.epochs + 1):
        state.step(loss, done / total)
        done += 1
        progress(STAGE, done, total, 0)


def _judge(objective: Objective, state: _State, history: History) -> None:
    objective.network.eval()
    figures = objective.assess()
    history.epochs += 1
    history.losses.append(figures["loss"])
    if figures["loss"] < history.best["loss"]:
        history.best_epoch, history.best = history.epochs, figures
        state.keep()
