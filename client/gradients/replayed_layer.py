"""The exact rule for any small layer of bare parameters: run it again, one user at a time, under vmap.

The layer's own forward is differentiated for each user alone, so a scale, a bias per token, an RMSNorm or a
convolution need no rule of their own. The price is one gradient per user of that layer in memory.

Shapes: B users; every tensor argument has the user as dim 0.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, vjp, vmap
from torch.utils import _pytree as pytree

from client.gradients.contract import sum_dtype
from client.gradients.layer_books import DirectBook
from client.gradients.refusals import own_parameters
from mmrec_model.errors import PrivacyError


class ReplayedBook(DirectBook):
    """Any module whose trained parameters are its own.

    Args:
        path: the module's name, for errors.
        layer: the module; it must return one tensor with the user as dim 0.
    """

    def __init__(self, path: str, layer: nn.Module) -> None:
        super().__init__()
        self.path = path
        self.layer = layer
        self.parameters = own_parameters(layer)
        self.twin = _without_hooks(layer)

    def forward(self, *arguments: Any, **keywords: Any) -> Tensor:
        """As the layer's own forward."""
        leaves, shape = pytree.tree_flatten((arguments, keywords))
        result: Tensor = _Replayed.apply(self, (leaves, shape), *self.parameters.values(), *_tensors(leaves))
        return result

    def add_call(self, call: tuple[list[Any], Any], gradient: Tensor) -> list[Tensor | None]:
        """Book one call; returns the gradients of its tensor arguments, None for those that have none."""
        leaves, shape = call
        tensors = _tensors(leaves)
        smooth = [index for index, tensor in enumerate(tensors) if tensor.is_floating_point()]
        values = {name: parameter.detach() for name, parameter in self.parameters.items()}

        def pull_back(rows: list[Tensor], gradient_row: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
            def run(parameters: dict[str, Tensor], moving: list[Tensor]) -> Tensor:
                inputs = list(rows)
                for index, tensor in zip(smooth, moving, strict=True):
                    inputs[index] = tensor
                arguments, keywords = pytree.tree_unflatten(_filled(leaves, [t.unsqueeze(0) for t in inputs]), shape)
                output: Tensor = functional_call(self.twin, parameters, arguments, keywords)
                return output.squeeze(0)

            found: tuple[dict[str, Tensor], list[Tensor]] = vjp(run, values, [rows[i] for i in smooth])[1](gradient_row)
            return found

        try:
            parameter_gradients, moved = vmap(pull_back)(tensors, gradient)
        except RuntimeError as error:
            raise PrivacyError(
                f"module {self.path!r} cannot be replayed one user at a time ({str(error)[:120]!r})",
                remedy="Keep chance and batch-wide operations out of modules with bare parameters",
            ) from error
        for name, value in parameter_gradients.items():
            self.add(name, value.to(sum_dtype(value)))
        by_index = dict(zip(smooth, moved, strict=True))
        return [by_index.get(index) for index in range(len(tensors))]


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, book: ReplayedBook, call: tuple[list[Any], Any], *_values: Tensor) -> Tensor:
        leaves, shape = call
        arguments, keywords = pytree.tree_unflatten(leaves, shape)
        result = type(book.layer).forward(book.layer, *arguments, **keywords)
        users = _tensors(leaves)[0].shape[0]
        if not isinstance(result, Tensor) or result.dim() == 0 or result.shape[0] != users:
            raise PrivacyError(
                f"module {book.path!r} does not return one tensor with {users} rows, one per user",
                remedy="Return a single tensor with the user as dim 0",
            )
        detached = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        ctx.book, ctx.call, ctx.parameters = book, (detached, shape), len(book.parameters)
        device = result.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        device, dtype, enabled = ctx.autocast
        with torch.autocast(device, dtype=dtype, enabled=enabled):
            moved = ctx.book.add_call(ctx.call, gradient)
        return (None, None, *(None for _ in range(ctx.parameters)), *moved)


def _without_hooks(layer: nn.Module) -> nn.Module:
    """A shallow copy whose parameters can be swapped and whose call runs nothing but its forward."""
    twin = copy(layer)
    vars(twin).update(
        _parameters=dict(vars(layer)["_parameters"]), _forward_hooks=OrderedDict(), _forward_pre_hooks=OrderedDict()
    )
    return twin


def _tensors(leaves: list[Any]) -> list[Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _filled(leaves: list[Any], tensors: list[Tensor]) -> list[Any]:
    rest = iter(tensors)
    return [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
