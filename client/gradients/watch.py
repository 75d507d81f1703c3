"""While a step runs: every trained layer sees one row per user, and no weight is used outside its own layer.

Both laws are about the path from a user's data to the gradient, which no inspection of the modules can show:
  1. dim 0 of every tensor that enters a trained layer is the user. A layer fed [users * items, d] would be clipped
     per item; a position table looked up once for all users would be clipped per position.
  2. inside its layer a parameter is replaced by an alias, and the gradient is taken with respect to the aliases. A
     gradient that reaches the parameter itself came from outside (a tied product, an L2 term in the loss): the
     norms do not contain it, so the step is refused.
  3. buffers are not written in the forward pass: they would carry unnoised statistics of private data.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from client.gradients.contract import tensors_in, trainable_parameters
from client.gradients.refusals import own_parameters, trained_modules
from mmrec_model.errors import PrivacyError


def check_user_rows(path: str, arguments: object, users: int) -> None:
    """Refuse a trained layer whose inputs do not have one row per user.

    Raises:
        PrivacyError: an input has another number of rows than there are users, or there is no input.
    """
    tensors = tensors_in(arguments)
    odd = [tuple(t.shape) for t in tensors if t.dim() == 0 or t.shape[0] != users]
    if odd or not tensors:
        raise PrivacyError(
            f"module {path!r} is fed {odd[0] if odd else 'no tensor'}, dim 0 must be the {users} users of the batch",
            remedy="Keep [users, ...] in every trained layer; expand shared inputs such as positions to all users",
        )


class ParameterWatch:
    """Aliases every trained parameter inside its layer, for one forward and backward pass.

    Args:
        model: accepted by `refuse_unsupported`.
        users: B.

    Attributes:
        autocast: whether a trained layer ran under autocast.
    """

    def __init__(self, model: nn.Module, users: int) -> None:
        self._model = model
        self._users = users
        self._handles: list[RemovableHandle] = []
        self._originals: dict[nn.Module, dict[str, nn.Parameter]] = {}
        self._aliases: dict[nn.Parameter, list[Tensor]] = {p: [] for p in trainable_parameters(model)}
        self.autocast = False

    def __enter__(self) -> Self:
        for path, module in trained_modules(self._model):
            self._originals[module] = own_parameters(module)
            self._handles += [
                module.register_forward_pre_hook(self._enter_layer(path), prepend=True, with_kwargs=True),
                module.register_forward_hook(self._leave_layer, prepend=True, always_call=True),
            ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        for module, parameters in self._originals.items():
            module._parameters.update(parameters)  # noqa: SLF001 - undoes the aliasing after an error

    def gradients(self, loss: Tensor, *, retain_graph: bool = False) -> list[Tensor | None]:
        """Gradient of a scalar with respect to each trained parameter inside its layer; None where it was not used.

        Raises:
            PrivacyError: a gradient reaches a parameter from outside its layer, or a layer ran again on the way.
        """
        groups = [list(group) for group in self._aliases.values()]
        aliases = [alias for group in groups for alias in group]
        outside: list[Tensor] = list(self._aliases)
        if not loss.requires_grad:
            return [None for _ in outside]
        found = torch.autograd.grad(loss, aliases + outside, allow_unused=True, retain_graph=retain_graph)
        refuse_outside_use(self._model, found[len(aliases) :])
        if any(len(group) != len(now) for group, now in zip(groups, self._aliases.values(), strict=True)):
            raise PrivacyError(
                "a trained layer ran again during the backward pass (activation checkpointing)",
                remedy="Use smaller micro-batches instead of checkpointing",
            )
        inside = iter(found[: len(aliases)])
        return [_total([next(inside) for _ in group]) for group in groups]

    def _enter_layer(self, path: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, arguments: tuple[object, ...], keywords: dict[str, object]) -> None:
            check_user_rows(path, (arguments, keywords), self._users)
            self.autocast |= torch.is_autocast_enabled(next(module.parameters()).device.type)
            for name, parameter in self._originals[module].items():
                alias = parameter.detach().requires_grad_()
                self._aliases[parameter].append(alias)
                module._parameters[name] = alias  # type: ignore[assignment]  # noqa: SLF001

        return hook

    def _leave_layer(self, module: nn.Module, _arguments: object, _output: object) -> None:
        module._parameters.update(self._originals[module])  # noqa: SLF001


class BufferWatch:
    """Refuses a model that writes a buffer while it is in use."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before = self._state()

    def _state(self) -> dict[str, tuple[int, int]]:
        return {name: (id(buffer), buffer._version) for name, buffer in self._model.named_buffers()}  # noqa: SLF001

    def check(self) -> None:
        """Raise where a buffer was replaced or written since this object was made.

        Raises:
            PrivacyError: naming the buffer.
        """
        after = self._state()
        for name in self._before.keys() | after.keys():
            if self._before.get(name) != after.get(name):
                raise PrivacyError(
                    f"buffer {name!r} was written in the forward pass, which would publish unnoised private data",
                    remedy="Compute the buffer from public data before training",
                )


def refuse_outside_use(model: nn.Module, gradients: tuple[Tensor | None, ...] | list[Tensor | None]) -> None:
    """Refuse when a gradient reached a parameter other than through its own layer.

    Args:
        model: the model.
        gradients: per trained parameter, the gradient found outside its layer, or None.

    Raises:
        PrivacyError: naming the parameter.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for name, gradient in zip(names, gradients, strict=True):
        if gradient is not None:
            raise PrivacyError(
                f"parameter {name!r} is used outside its own layer, where the clip does not see its gradient",
                remedy="Use every weight through its module only, and leave weight decay to the optimizer",
            )


def _total(gradients: list[Tensor | None]) -> Tensor | None:
    found = [gradient for gradient in gradients if gradient is not None]
    return sum(found[1:], found[0]) if found else None
