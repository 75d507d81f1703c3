"""Trained layers of a transformer that reads `[users * items, tokens]` see `[users, items * tokens, width]`.

A private step clips per row of dim 0 of what a trained layer sees. A transformer's rows are texts; folded back around
each trained layer, dim 0 is the user again, and the gradient of a row is the gradient of a user over all of that
user's texts. Attention between the layers has no weights and stays as it is; frozen layers need nothing.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from mmrec_model.errors import ModelError


class Fold:
    """How many users the rows of the current forward pass belong to; one per encoder, shared by its layers.

    Attributes:
        users: B; row r belongs to user r // (rows / B).
        rows: texts of all users.
    """

    def __init__(self) -> None:
        self.users, self.rows = 1, 1

    def set(self, users: int, rows: int) -> None:
        """Announce the next forward pass."""
        self.users, self.rows = users, rows


class UserRows(nn.Module):
    """One trained layer, with the user as dim 0 of what it sees.

    Args:
        layer: maps every token for itself: nn.Linear, nn.LayerNorm, nn.Embedding or a LoRA adapter of nn.Linear.
        fold: of the encoder it is part of.
    """

    def __init__(self, layer: nn.Module, fold: Fold) -> None:
        super().__init__()
        self.layer = layer
        self._fold = fold

    def forward(self, tokens: Tensor) -> Tensor:
        """`[users * items, tokens, ...]` in and out; one row for all (positions) is looked up for each of them.

        Raises:
            ModelError: the rows are not those of the users.
        """
        users, rows = self._fold.users, self._fold.rows
        if len(tokens) == 1:
            tokens = tokens.expand(rows, *tokens.shape[1:])
        if len(tokens) != rows or rows % users:
            raise ModelError(
                f"a trained layer of the text encoder sees {len(tokens)} rows, {rows} texts of {users} users are due",
                remedy="Use an encoder whose layers read texts row by row",
            )
        by_user = tokens.reshape(users, (rows // users) * tokens.shape[1], *tokens.shape[2:])
        mapped = cast("Tensor", self.layer(by_user))
        return mapped.reshape(*tokens.shape[:2], mapped.shape[-1])
