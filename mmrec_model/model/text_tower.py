"""A text encoder inside the recommender: adapters, its last layers or all of it are trained by the private step.

Promises:
1. Before training the text vectors are those of the bundle, up to float rounding: same weights, same tokens, same
   pooling, same fitted map.
2. Every trained layer sees users first (`user_rows`); each distinct item of a user is encoded once for that user, and
   never once for several users, whose gradients would mix.
3. No dropout: the encoder stays in evaluation mode. Only the layers that train follow the mode of the model; they do
   the same in both.
4. Another architecture than those of `_SHAPES` is refused by name, as is any trained weight outside a known layer.

LoRA: Hu et al. 2022, on the query and value maps, with scale 1.
Shapes: B users, L items of a list, U distinct items of a user, T tokens, D width of the encoder, K of the bundle.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, cast

import torch
from torch import Tensor, nn

from mmrec_model.config import EncoderConfig, Scope, TunedTextConfig
from mmrec_model.encoders.text import TextEncoder, load_text_encoder
from mmrec_model.errors import ModelError
from mmrec_model.model.items import Items
from mmrec_model.model.texts import Texts
from mmrec_model.model.user_rows import Fold, UserRows

_KNOWN_LAYERS = (nn.Linear, nn.LayerNorm, nn.Embedding)


@dataclass(frozen=True)
class _Shape:
    """Where an architecture keeps its layers, and what LoRA adapts in them."""

    layers: str
    adapted: tuple[str, ...]


_SHAPES: Final = {
    "BertModel": _Shape("encoder.layer", ("query", "value")),
    "RobertaModel": _Shape("encoder.layer", ("query", "value")),
    "DistilBertModel": _Shape("transformer.layer", ("q_lin", "v_lin")),
}


class TextTower(nn.Module):
    """A transformer with mean pooling, of which `scope` says what is trained.

    Args:
        network: one of the architectures of `_SHAPES`; it is copied.
        scope: `lora`, `top` or `full`.
        config: gives the adapters' rank and the number of top layers.

    Raises:
        ModelError: another architecture or scope, more layers than there are, or peft is not installed.
    """

    def __init__(self, network: nn.Module, scope: Scope, config: TunedTextConfig) -> None:
        super().__init__()
        kind = type(network).__name__
        if kind not in _SHAPES:
            raise ModelError(
                f"a text encoder of class {kind} cannot be tuned, {', '.join(_SHAPES)} can",
                remedy="Choose one of these, or the scope 'fusion', which trains no encoder",
            )
        self.network = deepcopy(network).requires_grad_(requires_grad=False)
        if hasattr(self.network, "pooler"):
            self.network.pooler = None  # type: ignore[assignment]  # unused; trained, it would only collect noise
        _open(self.network, _SHAPES[kind], scope, config)
        self._fold = Fold()
        _wrap(self.network, self._fold)
        _refuse_unknown(self.network)
        self.train()

    def train(self, mode: bool = True) -> TextTower:  # noqa: FBT001 - the signature of nn.Module
        """Only the layers that train follow the mode."""
        super().train(mode)
        self.network.eval()
        for layer in self._trained_layers():
            layer.train(mode)
        return self

    def forward(self, items: Items) -> Items:
        """The items `[B, L]` with text vectors of this encoder, float `[B, L, K]`, zero where the text is hidden.

        An item without a text keeps the vector it has: zero, or the bundle's estimate.

        Raises:
            ModelError: the items come without token ids.
        """
        texts = texts_of(items)
        distinct_BU, place_BL = _distinct(texts.index)
        vectors_BUK = texts.transformed(self._pooled(texts, distinct_BU))
        index_BLK = place_BL.unsqueeze(-1).expand(-1, -1, vectors_BUK.shape[-1])
        present_BL1 = items.present_M[..., list(items.vectors).index("text")].unsqueeze(-1)
        read_BLK = vectors_BUK.gather(1, index_BLK) * present_BL1
        vectors_BLK = torch.where(texts.given().unsqueeze(-1), read_BLK, items.vectors["text"])
        return replace(items, vectors={**items.vectors, "text": vectors_BLK}, encoded=True)

    def merge(self) -> None:
        """Fold LoRA adapters into the weights they adapt; scores stay the same, up to float rounding."""
        for module in self.modules():
            if isinstance(module, UserRows) and callable(merge := getattr(module.layer, "merge", None)):
                merge(safe_merge=True)
                module.layer = cast("nn.Module", module.layer.get_base_layer())  # type: ignore[operator]

    def _pooled(self, texts: Texts, index_BU: Tensor) -> Tensor:
        """Mean of the token states, `[B, U, D]`."""
        ids_BUT, mask_BUT = texts.tokens(index_BU)
        users, distinct, length = ids_BUT.shape
        self._fold.set(users, users * distinct)
        mask_RT = mask_BUT.reshape(-1, length)
        output = self.network(input_ids=ids_BUT.reshape(-1, length), attention_mask=mask_RT.long())
        states_RTD: Tensor = output.last_hidden_state
        weight_RT1 = mask_RT.unsqueeze(-1).to(states_RTD.dtype)
        return ((states_RTD * weight_RT1).sum(1) / weight_RT1.sum(1)).reshape(users, distinct, -1)

    def _trained_layers(self) -> Iterator[nn.Module]:
        return (module for module in self.network.modules() if isinstance(module, UserRows))


def texts_of(items: Items) -> Texts:
    """The token ids of a list of items.

    Raises:
        ModelError: it has none.
    """
    if items.texts is None:
        raise ModelError(
            "the model reads texts, the items come without token ids",
            remedy="Build the feature bundle with tokens, see docs/features.md",
        )
    return items.texts


def build_text_tower(scope: Scope, config: TunedTextConfig, *, source: str | None = None) -> TextTower:
    """Load the encoder and open what the scope trains.

    Args:
        scope: `lora`, `top` or `full`.
        config: names the encoder by source and digest.
        source: where this machine has it, instead of the configuration's source.

    Raises:
        EncoderError: it cannot be loaded.
        ModelError: it is another encoder than the digest says, or cannot be tuned.
    """
    encoder = _loaded(config.source if source is None else source, config.max_tokens)
    if encoder.digest != config.digest:
        raise ModelError(
            f"the text encoder here has digest {encoder.digest[:12]}, the run uses {config.digest[:12]}",
            remedy="Install the encoder that the run's feature bundle was built with; it can be tuned if it "
            "pools by the mean and computes in float32",
        )
    return TextTower(encoder.network, scope, config)


@lru_cache(maxsize=2)
def _loaded(source: str, max_tokens: int) -> TextEncoder:
    """The encoder with the only pooling that `TextTower` has, at a precision that private steps can train."""
    return load_text_encoder(
        EncoderConfig(modality="text", source=source, max_tokens=max_tokens, pooling="mean", dtype="float32")
    )


def _open(network: nn.Module, shape: _Shape, scope: Scope, config: TunedTextConfig) -> None:
    """Give a gradient to what the scope trains."""
    if scope == "lora":
        _add_adapters(network, shape, config.rank)
    elif scope == "top":
        layers = cast("nn.ModuleList", network.get_submodule(shape.layers))
        if config.layers > len(layers):
            raise ModelError(
                f"the last {config.layers} layers are to be trained, the encoder has {len(layers)}",
                remedy="Lower text_encoder.layers, or choose the scope 'full'",
            )
        for layer in layers[-config.layers :]:
            layer.requires_grad_(requires_grad=True)
    elif scope == "full":
        network.requires_grad_(requires_grad=True)
    else:
        raise ModelError(f"scope {scope!r} trains no encoder", remedy="Choose 'lora', 'top' or 'full'")


def _add_adapters(network: nn.Module, shape: _Shape, rank: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - optional
    except ImportError as error:
        raise ModelError("scope 'lora' needs peft, which is not installed", remedy="Install mmrec[lora]") from error
    adapters = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, bias="none", target_modules=list(shape.adapted))
    inject_adapter_in_model(adapters, network)


def _wrap(parent: nn.Module, fold: Fold) -> None:
    """Put users first around every known layer that trains; a LoRA layer counts as one with the map it adapts."""
    for name, child in list(parent.named_children()):
        adapted = hasattr(child, "lora_A")
        if not (adapted or isinstance(child, _KNOWN_LAYERS)):
            _wrap(child, fold)
        elif any(weight.requires_grad for weight in child.parameters()):
            if isinstance(child, nn.Embedding):
                child.padding_idx = None  # padding is masked, so its row has no gradient that had to be dropped
            setattr(parent, name, UserRows(child, fold))


def _refuse_unknown(network: nn.Module) -> None:
    folded = (module for module in network.modules() if isinstance(module, UserRows))
    known = {id(weight) for module in folded for weight in module.parameters()}
    for name, weight in network.named_parameters():
        if weight.requires_grad and id(weight) not in known:
            raise ModelError(
                f"weight {name} of the text encoder lies in no layer whose gradient is known per user",
                remedy="Choose a narrower scope",
            )


def _distinct(index_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Each user's distinct items `[B, U]`, filled up with item 0, and where each place finds its own, `[B, L]`."""
    ordered_BL, order_BL = index_BL.sort(dim=-1, stable=True)
    first_BL = torch.ones_like(ordered_BL, dtype=torch.bool)
    first_BL[:, 1:] = ordered_BL[:, 1:] != ordered_BL[:, :-1]
    rank_BL = first_BL.cumsum(-1) - 1
    most = int(rank_BL.max()) + 1 if rank_BL.numel() else 1
    distinct_BU = index_BL.new_zeros(len(index_BL), most).scatter_(1, rank_BL, ordered_BL)
    return distinct_BU, torch.empty_like(rank_BL).scatter_(1, order_BL, rank_BL)
