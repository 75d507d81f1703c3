"""From a network over tokens to one vector per text, and which way suits a network.

Padding is always on the right and behind the mask, whatever side and token a published tokenizer would take: a state
of an encoder does not see what is masked, and one of a decoder does not see what comes later, so no vector depends on
the other texts of its batch. A decoder is known by what it does, not by its name: its states ignore later tokens.
Shapes: B texts, T tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmrec_model.config_types import Pooling
from mmrec_model.errors import EncoderError

_PROBE = ([1, 1, 1, 1], [1, 2, 2, 2])


class PooledStates(nn.Module):
    """A transformer whose token states are pooled into one vector.

    Args:
        network: ids and mask [B, T] to `last_hidden_state` [B, T, D].
        pooling: `auto` is the last state for a decoder and the mean for any other network.
    """

    def __init__(self, network: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.network = network
        self.pooling = pooling if pooling != "auto" else "last" if is_decoder(network) else "mean"

    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Vectors [B, D], float32."""
        state_BTD: Tensor = self.network(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        return pool_states(state_BTD, mask_BT, self.pooling)


class JointText(nn.Module):
    """The text tower of a text-picture model (CLIP, SigLIP), with its own pooling: the space its pictures are in.

    Raises:
        EncoderError: another pooling is asked for, which would leave that space.
    """

    def __init__(self, network: nn.Module, pooling: Pooling, *, reads_padding: bool) -> None:
        super().__init__()
        if pooling != "auto":
            raise EncoderError(
                f"pooling {pooling!r} is asked of a text-picture model, which has one of its own",
                remedy="Set pooling to 'auto', or choose a model of texts alone",
            )
        self.network = network
        self.pooling = "text features"
        self._reads_padding = reads_padding

    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Vectors [B, D], float32."""
        features = self.network.get_text_features(  # type: ignore[operator]
            input_ids=ids_BT, attention_mask=None if self._reads_padding else mask_BT
        )
        vector_BD: Tensor = features if isinstance(features, Tensor) else features.pooler_output
        return vector_BD.float()


def pool_states(state_BTD: Tensor, mask_BT: Tensor, pooling: str) -> Tensor:
    """The vectors [B, D] in float32.

    Args:
        state_BTD: of any floating type.
        mask_BT: 1 for a text's tokens, from the first to the last, 0 behind them; at least one token in each row.
        pooling: `mean` over the tokens, `cls` for the first, `last` for the last of them.
    """
    if pooling == "cls":
        return state_BTD[:, 0].float()
    if pooling == "last":
        row_B = torch.arange(len(state_BTD), device=state_BTD.device)
        return state_BTD[row_B, mask_BT.sum(1) - 1].float()
    weight_BT1 = mask_BT[..., None].float()
    return (state_BTD.float() * weight_BT1).sum(1) / weight_BT1.sum(1)


@torch.inference_mode()
def is_decoder(network: nn.Module) -> bool:
    """Whether the first token's state stays bit for bit the same when all later tokens change."""
    device = next(network.parameters()).device
    probes = [torch.tensor([ids], device=device) for ids in _PROBE]
    first, second = (
        network(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT)).last_hidden_state[:, 0] for ids_BT in probes
    )
    return bool(torch.equal(first, second))
