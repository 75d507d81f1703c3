"""The model on which the price of privacy is measured: fusion of four modalities, then attention over the history.

1.75 million weights: text 384, image 512, audio 128 and video 128 are projected to 256, fused by two layers over the
four tokens of each item, pooled, and followed by causal attention over a user's items and two heads (click,
conversion). All linear layers see [users, tokens, width]: only operations without weights may reshape the users away.

Shapes: B users, K items per user, M = 4 modalities, d = 256.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

WIDTH = 256
HEADS = 4
FEATURES = {"text": 384, "image": 512, "audio": 128, "video": 128}
MODALITIES = len(FEATURES)


@dataclass(frozen=True)
class Clicks:
    """B users with K items each.

    Attributes:
        features_BKF: the modalities' features side by side, F = 1152.
        present_BKM: which modalities an item has; at least one.
        labels_BK2: click and conversion, 0 or 1.
        mask_BK: 1 for real items, 0 for padding.
    """

    features_BKF: Tensor
    present_BKM: Tensor
    labels_BK2: Tensor
    mask_BK: Tensor


class TokenBias(nn.Module):
    """One learned vector per modality, added to every token of it."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(MODALITIES, WIDTH))

    def forward(self, token_BKMd: Tensor) -> Tensor:
        """Add the vector of each modality."""
        return token_BKMd + self.bias


class AttentionLayer(nn.Module):
    """Pre-norm attention within groups of `group` consecutive tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x_BTd: Tensor, group: int, allowed: Tensor) -> Tensor:
        """Residual attention; `allowed` broadcasts to [groups, heads, group, group]."""
        users, tokens, _ = x_BTd.shape
        packed = self.qkv(self.norm(x_BTd)).reshape(-1, group, 3, HEADS, WIDTH // HEADS)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        update_BTd: Tensor = self.out(mixed.transpose(1, 2).reshape(users, tokens, WIDTH))
        return x_BTd + update_BTd


class FusionLayer(nn.Module):
    """Attention over the four tokens of an item, then a feed-forward network."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = AttentionLayer()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x_BTd: Tensor, allowed: Tensor) -> Tensor:
        """Fuse."""
        x_BTd = self.attention(x_BTd, MODALITIES, allowed)
        update_BTd: Tensor = self.down(nn.functional.gelu(self.up(self.norm(x_BTd))))
        return x_BTd + update_BTd


class Head(nn.Module):
    """A logit per item from the history state before it and the item itself."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * WIDTH, WIDTH // 2)
        self.logit = nn.Linear(WIDTH // 2, 1)

    def forward(self, pair_BKd: Tensor) -> Tensor:
        """Logits [B, K]."""
        logit_BK1: Tensor = self.logit(nn.functional.gelu(self.hidden(pair_BKd)))
        return logit_BK1.squeeze(-1)


class ReferenceModel(nn.Module):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.projectors = nn.ModuleList(nn.Linear(width, WIDTH) for width in FEATURES.values())
        self.token_bias = TokenBias()
        self.fusion = nn.ModuleList(FusionLayer() for _ in range(2))
        self.history = AttentionLayer()
        self.history_norm = nn.LayerNorm(WIDTH)
        self.click = Head()
        self.conversion = Head()

    def forward(self, batch: Clicks) -> tuple[Tensor, Tensor]:
        """Click and conversion logits, each [B, K]."""
        users, items, _ = batch.features_BKF.shape
        parts = torch.split(batch.features_BKF, list(FEATURES.values()), dim=-1)
        tokens = torch.stack([project(part) for project, part in zip(self.projectors, parts, strict=True)], dim=2)
        x_BTd = self.token_bias(tokens).reshape(users, items * MODALITIES, WIDTH)
        present = batch.present_BKM.reshape(users * items, 1, 1, MODALITIES)
        for layer in self.fusion:
            x_BTd = layer(x_BTd, present)
        weight_BKM1 = batch.present_BKM.unsqueeze(-1).to(x_BTd.dtype)
        item_BKd = (x_BTd.reshape(users, items, MODALITIES, WIDTH) * weight_BKM1).sum(2) / weight_BKM1.sum(2)
        causal = torch.ones(items, items, dtype=torch.bool, device=x_BTd.device).tril()
        state_BKd = self.history_norm(self.history(item_BKd, items, causal))
        before_BKd = nn.functional.pad(state_BKd[:, :-1], (0, 0, 1, 0))
        pair_BKd = torch.cat([before_BKd, item_BKd], dim=-1)
        return self.click(pair_BKd), self.conversion(pair_BKd)

    def train_heads_only(self) -> None:
        """Freeze projectors and fusion: 395 thousand weights of history and heads stay trainable."""
        for part in (self.projectors, self.token_bias, self.fusion):
            part.requires_grad_(requires_grad=False)


def user_loss(model: nn.Module, batch: Clicks) -> Tensor:
    """Each user's mean loss over his own items, [B]: click everywhere, conversion where clicked."""
    click_BK, conversion_BK = model(batch)
    entropy = nn.functional.binary_cross_entropy_with_logits
    click_loss = entropy(click_BK, batch.labels_BK2[..., 0], reduction="none")
    conversion_loss = entropy(conversion_BK, batch.labels_BK2[..., 1], reduction="none") * batch.labels_BK2[..., 0]
    mask_BK = batch.mask_BK
    return ((click_loss + conversion_loss) * mask_BK).sum(1) / mask_BK.sum(1).clamp(min=1)


def made_up_clicks(users: int, items: int, *, seed: int) -> Clicks:
    """Random users of ragged length."""
    chance = torch.Generator().manual_seed(seed)
    present = torch.rand(users, items, MODALITIES, generator=chance) < 0.8
    present[..., 0] = True
    lengths = torch.randint(1, items + 1, (users, 1), generator=chance)
    return Clicks(
        features_BKF=torch.randn(users, items, sum(FEATURES.values()), generator=chance),
        present_BKM=present,
        labels_BK2=(torch.rand(users, items, 2, generator=chance) < 0.3).float(),
        mask_BK=(torch.arange(items) < lengths).float(),
    )
