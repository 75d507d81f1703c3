"""The fast way: one forward and one backward pass, norms and clipped sum from what the layers booked.

No gradient of a weight is computed before the clip coefficients are known, so each is computed once, already
clipped. A layer without a rule is replayed per user where that is exact, and refused otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from client.gradients.contract import (
    Batch,
    ClippedSum,
    UserLoss,
    check_max_grad_norm,
    clip_coefficients,
    count_users,
    losses_of_users,
    sum_dtype,
    trainable_parameters,
    zero_sums,
)
from client.gradients.layer_books import EmbeddingBook, LayerBook, LayerNormBook, LinearBook
from client.gradients.refusals import known_base, refuse_low_precision_products, refuse_unsupported, trained_modules
from client.gradients.replayed_layer import ReplayedBook
from client.gradients.token_products import MatrixPool
from client.gradients.watch import BufferWatch, check_user_rows, refuse_outside_use


class BookkeepingGradients:
    """`PerUserGradients` by book-keeping; see `client.gradients.contract` for the promise."""

    name = "bookkeeping"

    def __init__(self) -> None:
        self._pool = MatrixPool()

    def clipped_sum(self, model: nn.Module, user_loss: UserLoss, batch: Batch, max_grad_norm: float) -> ClippedSum:
        """See `PerUserGradients.clipped_sum`; use micro-batches of 16 to 64 users."""
        check_max_grad_norm(max_grad_norm)
        refuse_unsupported(model)
        refuse_low_precision_products()
        users = count_users(batch)
        if users == 0:
            return ClippedSum(zero_sums(model), torch.zeros(0))
        books = _run(model, user_loss, batch, users, self._pool)
        with torch.no_grad(), _plain_precision(model):
            return _clip_and_sum(model, books, users, max_grad_norm)


def _run(
    model: nn.Module, user_loss: UserLoss, batch: Batch, users: int, pool: MatrixPool
) -> dict[nn.Module, LayerBook]:
    buffers = BufferWatch(model)
    with _booked(model, users, pool) as books, torch.enable_grad():
        loss_B = losses_of_users(model, user_loss, batch, users)
        buffers.check()
        if loss_B.requires_grad:
            with _plain_precision(model):
                found = torch.autograd.grad(loss_B.sum(), trainable_parameters(model), allow_unused=True)
            refuse_outside_use(model, found)
    return books


def _clip_and_sum(model: nn.Module, books: dict[nn.Module, LayerBook], users: int, max_grad_norm: float) -> ClippedSum:
    device = trainable_parameters(model)[0].device
    square_norm_B = torch.zeros(users, dtype=torch.float64, device=device)
    for book in books.values():
        part_B = book.square_norm()
        if part_B is not None:
            square_norm_B += part_B.to(device)
    coefficient_B, finite_B = clip_coefficients(square_norm_B, max_grad_norm)
    keep = None if bool(finite_B.all()) else finite_B.nonzero().squeeze(1)
    sums: dict[nn.Parameter, Tensor] = {}
    for module, book in books.items():
        for name, total in book.weighted_sum(coefficient_B, keep).items():
            sums[cast("nn.Parameter", getattr(module, name))] = total
    return ClippedSum([_sum_or_zero(sums.get(p), p) for p in trainable_parameters(model)], square_norm_B.sqrt())


def _sum_or_zero(total: Tensor | None, parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter, dtype=sum_dtype(parameter)) if total is None else total


@contextmanager
def _booked(model: nn.Module, users: int, pool: MatrixPool) -> Iterator[dict[nn.Module, LayerBook]]:
    books: dict[nn.Module, LayerBook] = {}
    try:
        for path, module in trained_modules(model):
            books[module] = _book_for(path, module, pool)
            module.forward = partial(_checked_forward, path, users, books[module])
        yield books
    finally:
        for module in books:
            vars(module).pop("forward", None)


def _book_for(path: str, module: nn.Module, pool: MatrixPool) -> LayerBook:
    if known_base(module) is None:
        return ReplayedBook(path, module)
    if isinstance(module, nn.Linear):
        return LinearBook(module, pool)
    return LayerNormBook(module) if isinstance(module, nn.LayerNorm) else EmbeddingBook(cast("nn.Embedding", module))


def _checked_forward(path: str, users: int, book: LayerBook, *arguments: Any, **keywords: Any) -> Tensor:
    check_user_rows(path, (arguments, keywords), users)
    return book.forward(*arguments, **keywords)


def _plain_precision(model: nn.Module) -> torch.autocast:
    return torch.autocast(trainable_parameters(model)[0].device.type, enabled=False)
