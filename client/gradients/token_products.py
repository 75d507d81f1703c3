"""Per-user weight gradients of a linear map, kept as the tokens they are made of or as they are.

A user's weight gradient is the sum over his tokens of g_t x_t^T and his bias gradient the sum of g_t. It is kept as
(x, g) where the squared norm is cheaper from the two Gram matrices, sum over t, s of (g_t.g_s)(x_t.x_s + 1), or as
the p x d matrix itself where a user has many tokens for the size of the layer.

The Gram form can cancel: large tokens may add up to a small gradient, and rounding could then hide a norm above the
clip. `square_norm` therefore adds a bound of its own rounding error, so the clip holds for what is summed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from client.gradients.contract import sum_dtype

BMM_PENALTY = 0.25
"""How much slower a batched product per user runs than one large product, as measured on CPU (AVX-512)."""
ELEMENT_COST = 17.0
"""Multiply-adds that fit into the time of writing and twice reading one number, as measured on the same machine."""


class MatrixPool:
    """Memory of per-user matrices, used again by the next micro-batch: fresh pages would cost a tenth of the step.

    Not shared between threads.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[object, ...], list[Tensor]] = {}

    def product(self, left_Bpt: Tensor, right_Btd: Tensor) -> Tensor:
        """Batched matrix product, [B, p, d]; hand it to `give_back` once it is no longer needed."""
        users, outputs, inputs = len(left_Bpt), left_Bpt.shape[1], right_Btd.shape[2]
        free = self._free.get((outputs, inputs, left_Bpt.dtype, left_Bpt.device))
        memory = free.pop() if free else None
        if memory is None or len(memory) < users:
            memory = left_Bpt.new_empty(users, outputs, inputs)
        return torch.bmm(left_Bpt, right_Btd, out=memory[:users])

    def give_back(self, matrix_Bpd: Tensor) -> None:
        """Allow the memory of this product to be overwritten."""
        whole = matrix_Bpd if matrix_Bpd._base is None else matrix_Bpd._base  # noqa: SLF001
        self._free.setdefault((*whole.shape[1:], whole.dtype, whole.device), []).append(whole)


class TokenProducts:
    """Booked calls of one linear map.

    Args:
        weight: the weight is trained.
        bias: there is a bias and it is trained.
        pool: where matrices per user are kept.
    """

    def __init__(self, *, weight: bool, bias: bool, pool: MatrixPool | None = None) -> None:
        self._weight = weight
        self._bias = bias
        self._pool = MatrixPool() if pool is None else pool
        self._tokens: list[tuple[Tensor, Tensor]] = []
        self._weight_Bpd: Tensor | None = None
        self._bias_Bp: Tensor | None = None

    def add(self, x: Tensor, gradient: Tensor) -> None:
        """Book one call: inputs [B, ..., d] and output gradients [B, ..., p]."""
        x_BTd, gradient_BTp = _tokens(x), _tokens(gradient)
        if not self._weight or _prefers_matrix(gradient_BTp, x_BTd):
            self._add_matrix(x_BTd, gradient_BTp)
        else:
            self._tokens.append((x_BTd, gradient_BTp))

    def square_norm(self) -> Tensor | None:
        """Squared norm of each user's gradient of weight and bias, [B] float64; None without calls."""
        if self._tokens:
            self._tokens = [(torch.cat([x for x, _ in self._tokens], 1), torch.cat([g for _, g in self._tokens], 1))]
            x_BTd, gradient_BTp = self._tokens[0]
            if self._weight_Bpd is None and not _prefers_matrix(gradient_BTp, x_BTd):
                return gram_square_norm(_wide(x_BTd), _wide(gradient_BTp), bias=self._bias)
            self._tokens.clear()
            self._add_matrix(x_BTd, gradient_BTp)
        kept = [part for part in (self._weight_Bpd, self._bias_Bp) if part is not None]
        return torch.stack([part.flatten(1).norm(dim=1).double().square() for part in kept]).sum(0) if kept else None

    def weighted_sum(self, coefficient_B: Tensor, keep: Tensor | None) -> dict[str, Tensor]:
        """Sum over users of coefficient times gradient; forgets all calls. Call after `square_norm`."""
        sums = {}
        if self._tokens:
            x_BTd, gradient_BTp = (_kept(_wide(part), keep) for part in self._tokens[0])
            scaled = (gradient_BTp * _kept(coefficient_B, keep).to(gradient_BTp.dtype)[:, None, None]).flatten(0, 1)
            sums["weight"] = scaled.mT @ x_BTd.flatten(0, 1)
            if self._bias:
                sums["bias"] = scaled.sum(0)
        for name, part in (("weight", self._weight_Bpd), ("bias", self._bias_Bp)):
            if part is not None:
                sums[name] = torch.tensordot(_kept(coefficient_B, keep).to(part.dtype), _kept(part, keep), dims=1)
        if self._weight_Bpd is not None:
            self._pool.give_back(self._weight_Bpd)
        self._tokens, self._weight_Bpd, self._bias_Bp = [], None, None
        return sums

    def _add_matrix(self, x_BTd: Tensor, gradient_BTp: Tensor) -> None:
        gradient_BTp = _wide(gradient_BTp)
        if self._weight:
            if self._weight_Bpd is None:
                self._weight_Bpd = self._pool.product(gradient_BTp.mT, _wide(x_BTd))
            else:
                self._weight_Bpd.baddbmm_(gradient_BTp.mT, _wide(x_BTd))
        if self._bias:
            bias_Bp = gradient_BTp.sum(1)
            self._bias_Bp = bias_Bp if self._bias_Bp is None else self._bias_Bp + bias_Bp


def gram_square_norm(x_BTd: Tensor, gradient_BTp: Tensor, *, bias: bool) -> Tensor:
    """Upper bound of each user's squared gradient norm of a linear map, [B] float64.

    Exceeds the exact value by at most rounding: (p + d + 8) unit roundoffs of the sum over tokens of |g_t||x_t|,
    squared, which is what the two Gram products and their sum can lose.
    """
    gram_g, gram_x = torch.bmm(gradient_BTp, gradient_BTp.mT), torch.bmm(x_BTd, x_BTd.mT)
    if bias:
        gram_x = gram_x + 1.0
    exact_B = (gram_g * gram_x).sum((1, 2)).double()
    sizes_BT = (gram_g.diagonal(dim1=1, dim2=2) * gram_x.diagonal(dim1=1, dim2=2)).clamp(min=0).sqrt()
    roundoff = torch.finfo(x_BTd.dtype).eps / 2 * (x_BTd.shape[2] + gradient_BTp.shape[2] + 8)
    return exact_B.clamp(min=0) + roundoff * sizes_BT.sum(1).double().square()


def _prefers_matrix(gradient_BTp: Tensor, x_BTd: Tensor) -> bool:
    tokens, outputs, inputs = gradient_BTp.shape[1], gradient_BTp.shape[2], x_BTd.shape[2]
    matrix = outputs * inputs
    return BMM_PENALTY * 2 * tokens * matrix + ELEMENT_COST * matrix < 2 * tokens * tokens * (outputs + inputs)


def _tokens(part: Tensor) -> Tensor:
    return part.flatten(1, -2) if part.dim() > 2 else part.unsqueeze(1)


def _wide(part: Tensor) -> Tensor:
    return part.to(sum_dtype(part))


def _kept(part: Tensor, keep: Tensor | None) -> Tensor:
    return part if keep is None else part[keep]
