"""What a pretraining is asked for; together with the data and the base it decides every weight."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmrec_model.canonical import canonical_json, sha256_hex
from mmrec_model.config import Modality
from mmrec_model.config_types import Count, NonNegative, Positive, Strict, Width

Task = Literal["mlm", "nsp", "mlm+nsp", "align", "masked-feature"]
TEXT_TASKS: tuple[Task, ...] = ("mlm", "nsp", "mlm+nsp")
Trainable = Literal["audio", "video"]
SMALL = "small"
"""Name of the base that is made by configuration."""


class PretrainingSettings(Strict):
    """One pretraining.

    Attributes:
        task: masked words, sentence pairs, both, alignment, or masked modalities.
        seed: of weights, order, masks and the held-out part.
        epochs: most passes over the items.
        batch_size: items of a step.
        learning_rate: highest; warms up over a tenth of all steps, then falls linearly to 0.
        weight_decay: of AdamW.
        held_out: share of the items that never train; they end the training and give the figures.
        patience: epochs without a better held-out loss that end the training.
        width: of a state of the small text network, or of the shared space.
        max_tokens: tokens kept of a text.
        temperature: divides cosines inside the contrastive loss.
        train_encoder: the modality whose recurrent network is trained inside the alignment.
        bases: source of the encoder to start from, per modality; none means the small text network, or every modality
            of the catalogue with its embedded encoder.
        workers: processes that decode media.
        device: torch device.
    """

    task: Task
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    epochs: Count = 20
    batch_size: Annotated[int, Field(ge=2)] = 32
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 0.01
    held_out: Annotated[float, Field(gt=0.0, le=0.5)] = 0.1
    patience: Count = 3
    width: Width = 128
    max_tokens: Annotated[int, Field(ge=8, le=512)] = 128
    temperature: Positive = 0.1
    train_encoder: Trainable | None = None
    bases: dict[Modality, str] = Field(default_factory=dict)
    workers: Annotated[int, Field(ge=0, le=64)] = 0
    device: str = "cpu"

    def fingerprint(self, data_digest: str) -> str:
        """What a checkpoint must have been made with: everything but the machine's own settings."""
        own = self.model_dump(mode="json", exclude={"workers", "device"})
        return sha256_hex(canonical_json({"settings": own, "data": data_digest}))
