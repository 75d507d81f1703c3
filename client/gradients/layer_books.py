"""What a trained layer books in the one backward pass, and what its users' gradients are made of.

A book replaces the forward method of one layer by an autograd function that returns the gradient of the layer's
input but not of its weight. Instead it keeps, per user, what the weight gradient is a product of; from that come
the squared norm per user and, once the clip coefficients are known, the weighted sum over users (book-keeping,
Bu et al. 2023, arXiv 2210.00038). A layer that runs several times books several times: its user gradient is the sum.

Shapes: B users, T tokens of one user in one layer, d inputs, p outputs of a layer, V rows of an embedding.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from client.gradients.contract import sum_dtype
from client.gradients.token_products import MatrixPool, TokenProducts


class LayerBook(Protocol):
    """Per-user gradients of one layer, booked during one backward pass."""

    def forward(self, *arguments: Any, **keywords: Any) -> Tensor:
        """What the layer computes; its backward pass books."""

    def square_norm(self) -> Tensor | None:
        """Squared norm of each user's gradient of this layer, or an upper bound, [B]; None if it never ran."""

    def weighted_sum(self, coefficient_B: Tensor, keep: Tensor | None) -> dict[str, Tensor]:
        """Sum over users of coefficient times gradient, by parameter name; frees what was booked.

        Args:
            coefficient_B: clip coefficients of all users.
            keep: positions of the users to sum over; None for all.
        """


class LinearBook:
    """nn.Linear on [B, d], [B, T, d] or more dimensions."""

    def __init__(self, layer: nn.Linear, pool: MatrixPool) -> None:
        self._layer = layer
        self._products = TokenProducts(weight=layer.weight.requires_grad, bias=_trains(layer.bias), pool=pool)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that callers of nn.Linear may use
        """As nn.Linear.forward."""
        layer = self._layer
        result: Tensor = _Linear.apply(input, layer.weight, layer.bias, self._products)
        return result

    def square_norm(self) -> Tensor | None:
        """See `LayerBook.square_norm`."""
        return self._products.square_norm()

    def weighted_sum(self, coefficient_B: Tensor, keep: Tensor | None) -> dict[str, Tensor]:
        """See `LayerBook.weighted_sum`."""
        return self._products.weighted_sum(coefficient_B, keep)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, products: TokenProducts) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.products = products
        return nn.functional.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        ctx.products.add(x.to(gradient.dtype), gradient)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        return (gradient @ weight.to(gradient.dtype)).to(x.dtype), None, None, None


class DirectBook:
    """Gradients kept per user as they are: small parameters, where that costs less than what they are made of."""

    def __init__(self) -> None:
        self._gradients: dict[str, Tensor] = {}

    def add(self, name: str, gradient: Tensor) -> None:
        """Add [B, *shape] to the users' gradients of one parameter."""
        known = self._gradients.get(name)
        self._gradients[name] = gradient if known is None else known + gradient

    def square_norm(self) -> Tensor | None:
        """See `LayerBook.square_norm`."""
        norms = [
            gradient.reshape(len(gradient), -1).norm(dim=1).double().square() for gradient in self._gradients.values()
        ]
        return torch.stack(norms).sum(0) if norms else None

    def weighted_sum(self, coefficient_B: Tensor, keep: Tensor | None) -> dict[str, Tensor]:
        """See `LayerBook.weighted_sum`."""
        sums = {}
        for name, gradient in self._gradients.items():
            rows, factor_B = (gradient, coefficient_B) if keep is None else (gradient[keep], coefficient_B[keep])
            sums[name] = torch.tensordot(factor_B.to(rows.dtype), rows, dims=1)
        self._gradients.clear()
        return sums


class LayerNormBook(DirectBook):
    """nn.LayerNorm with or without bias."""

    def __init__(self, layer: nn.LayerNorm) -> None:
        super().__init__()
        self._layer = layer

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that callers of nn.LayerNorm may use
        """As nn.LayerNorm.forward."""
        if torch.is_autocast_enabled(input.device.type):
            input = input.to(self._layer.weight.dtype)  # noqa: A001
        result: Tensor = _LayerNorm.apply(input, self._layer.weight, self._layer.bias, self)
        return result

    @property
    def layer(self) -> nn.LayerNorm:
        """The booked layer."""
        return self._layer

    def add_call(self, x: Tensor, mean: Tensor, scale: Tensor, gradient: Tensor) -> None:
        """Book one call: x and gradient [B, ..., d], mean and reciprocal deviation [B, ..., 1]."""
        shape = self._layer.normalized_shape
        rows = (x.shape[0], -1, *shape)
        ones = (x.shape[0], -1, *(1 for _ in shape))
        gradient = gradient.reshape(rows)
        if self._layer.weight.requires_grad:
            centred = (x.reshape(rows) - mean.reshape(ones)).mul_(gradient)
            summed = torch.bmm(scale.reshape(x.shape[0], 1, -1), centred.flatten(2))
            self.add("weight", summed.reshape(-1, *shape))
        if _trains(self._layer.bias):
            self.add("bias", gradient.sum(1))


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, book: LayerNormBook) -> Tensor:
        result, mean, scale = torch.native_layer_norm(x, book.layer.normalized_shape, weight, bias, book.layer.eps)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        ctx.book = book
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        x, weight, bias, mean, scale = ctx.saved_tensors
        ctx.book.add_call(x, mean, scale, gradient)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        shape = ctx.book.layer.normalized_shape
        backward = torch.ops.aten.native_layer_norm_backward
        x_gradient = backward(gradient.contiguous(), x, shape, mean, scale, weight, bias, [True, False, False])[0]
        return x_gradient, None, None, None


class EmbeddingBook:
    """nn.Embedding without padding_idx: only the rows a user looked up are ever touched for him."""

    def __init__(self, layer: nn.Embedding) -> None:
        self._layer = layer
        self._calls: list[tuple[Tensor, Tensor]] = []

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that callers of nn.Embedding may use
        """As nn.Embedding.forward."""
        result: Tensor = _Embedding.apply(input, self._layer.weight, self._calls)
        return result

    def square_norm(self) -> Tensor | None:
        """See `LayerBook.square_norm`: the gradients of one row looked up twice add up before squaring."""
        if not self._calls:
            return None
        ids_BT, gradient_BTd = self._booked()
        users = torch.arange(len(ids_BT), device=ids_BT.device)[:, None]
        pairs, place = torch.unique(users * self._layer.num_embeddings + ids_BT, return_inverse=True)
        rows = gradient_BTd.new_zeros(len(pairs), gradient_BTd.shape[2])
        rows.index_add_(0, place.flatten(), gradient_BTd.flatten(0, 1))
        total_B = torch.zeros(len(ids_BT), dtype=torch.float64, device=rows.device)
        owner = torch.div(pairs, self._layer.num_embeddings, rounding_mode="floor")
        return total_B.index_add_(0, owner, rows.norm(dim=1).double().square())

    def weighted_sum(self, coefficient_B: Tensor, keep: Tensor | None) -> dict[str, Tensor]:
        """See `LayerBook.weighted_sum`."""
        if not self._calls:
            return {}
        ids_BT, gradient_BTd = self._booked()
        self._calls.clear()
        if keep is not None:
            ids_BT, gradient_BTd, coefficient_B = ids_BT[keep], gradient_BTd[keep], coefficient_B[keep]
        scaled = gradient_BTd * coefficient_B.to(gradient_BTd.dtype)[:, None, None]
        total = scaled.new_zeros(self._layer.weight.shape)
        return {"weight": total.index_add_(0, ids_BT.flatten(), scaled.flatten(0, 1))}

    def _booked(self) -> tuple[Tensor, Tensor]:
        ids = [ids.flatten(1) if ids.dim() > 1 else ids[:, None] for ids, _ in self._calls]
        rows = [g.reshape(len(g), -1, g.shape[-1]).to(sum_dtype(g)) for _, g in self._calls]
        return torch.cat(ids, 1), torch.cat(rows, 1)


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, calls: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.ids, ctx.calls = ids, calls
        return nn.functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        ctx.calls.append((ctx.ids, gradient))
        return None, None, None


def _trains(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.requires_grad
