"""Models for which a per-user gradient would be wrong or unprotected are refused by name, before any data is touched.

Every rule answers one way in which a layer is known to mix users, to train a weight outside the clip, or to hide
its gradient from the hooks. What cannot be seen in the structure (a layer that is fed items instead of users, a
weight used outside its own layer, a buffer written in the forward pass) is refused while the step runs; see
`client.gradients.watch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from mmrec_model.errors import PrivacyError

OWN_FORWARD = (nn.Linear, nn.LayerNorm, nn.Embedding)
"""Layers whose gradient rule is known; a subclass counts while it keeps the forward of its base."""

_ATTENTION = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.Transformer)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)

Problem = tuple[str, str]
Rule = Callable[[nn.Module], "Problem | None"]


def refuse_unsupported(model: nn.Module) -> None:
    """Accept the model, or name the first module that cannot be trained privately.

    Raises:
        PrivacyError: naming the module's path, what is wrong with it, and what to use instead.
    """
    _refuse_tied(model)
    for path, module in model.named_modules():
        for rule in _RULES:
            found = rule(module)
            if found is not None:
                problem, remedy = found
                raise PrivacyError(f"module {path or '(root)'!r} {problem}", remedy=remedy)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise PrivacyError("no parameter of the model is trainable, at least 1 is needed", remedy="Unfreeze a part")


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters that belong to the module itself; a second name for a child's parameter does not count."""
    registered: dict[str, nn.Parameter | None] = vars(module)["_parameters"]
    own = {name: p for name, p in registered.items() if p is not None and p.requires_grad}
    if own and vars(module)["_modules"]:
        below = {id(parameter) for child in module.children() for parameter in child.parameters()}
        return {name: parameter for name, parameter in own.items() if id(parameter) not in below}
    return own


def trained_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Path and module of everything that owns a trainable parameter."""
    return ((path, module) for path, module in model.named_modules() if own_parameters(module))


def known_base(module: nn.Module) -> type[nn.Module] | None:
    """The class in `OWN_FORWARD` whose forward this module runs on its plain weight and bias, if any."""
    for base in OWN_FORWARD:
        if isinstance(module, base) and type(module).forward is base.forward:
            return base if vars(module)["_parameters"].keys() <= {"weight", "bias"} else None
    return None


def _refuse_tied(model: nn.Module) -> None:
    owners: dict[int, str] = {}
    for path, module in trained_modules(model):
        for name, parameter in own_parameters(module).items():
            if is_lazy(parameter):
                raise PrivacyError(
                    f"parameter {path}.{name} has no shape yet", remedy="Run one forward pass on made-up data first"
                )
            place = f"{path}.{name}".lstrip(".")
            key = parameter.data_ptr() or id(parameter)
            if key in owners:
                raise PrivacyError(
                    f"parameters {owners[key]!r} and {place!r} are one tied weight, whose gradient no layer sees whole",
                    remedy="Give each layer its own weight, or make both calls through one module",
                )
            owners[key] = place


def _mixes_users(module: nn.Module) -> Problem | None:
    if isinstance(module, _BatchNorm):
        return (
            f"({type(module).__name__}) mixes the users of a batch, even when frozen or without weights",
            "Use nn.LayerNorm",
        )
    if isinstance(module, _InstanceNorm) and module.track_running_stats:
        return f"({type(module).__name__}) keeps running statistics of private data", "Set track_running_stats=False"
    if isinstance(module, _PARALLEL):
        return f"({type(module).__name__}) splits the batch and reduces raw gradients", "Train the bare module"
    return None


def _bad_embedding(module: nn.Module) -> Problem | None:
    if not isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return None
    if module.max_norm is not None:
        return "rescales its rows in the forward pass (max_norm), outside the noise", "Set max_norm=None"
    return _bad_trained_embedding(module) if module.weight.requires_grad else None


def _bad_trained_embedding(module: nn.Embedding | nn.EmbeddingBag) -> Problem | None:
    if isinstance(module, nn.EmbeddingBag):
        return "(EmbeddingBag) has no gradient rule per user", "Use nn.Embedding and a masked sum"
    if module.padding_idx is not None:
        return (
            f"has padding_idx={module.padding_idx}, which per-user gradients ignore",
            "Set padding_idx=None and multiply by the mask",
        )
    if module.scale_grad_by_freq:
        return "scales gradients by counts over the whole batch (scale_grad_by_freq)", "Set scale_grad_by_freq=False"
    return None


def _hides_gradient(module: nn.Module) -> Problem | None:
    if _is_named(module, "DPMultiheadAttention"):
        return "(DPMultiheadAttention) computes a wrong function with batch_first", _ATTENTION_REMEDY
    if isinstance(module, _ATTENTION) and _is_trained(module):
        return f"({type(module).__name__}) uses its weights outside their layers", _ATTENTION_REMEDY
    if isinstance(module, _RECURRENT) and _is_trained(module):
        return (
            f"({type(module).__name__}) is one fused kernel without gradients per user",
            "Write the cell from nn.Linear layers called once per step, or use opacus.layers.DPGRU",
        )
    if _is_named(module, "OptimizedModule") or getattr(module, "_compiled_call_impl", None) is not None:
        return "is compiled: hooks attached after compilation never run", "Hand over the module before torch.compile"
    if getattr(module, "gradient_checkpointing", False) is True:
        return "recomputes its activations (gradient_checkpointing)", "Use smaller micro-batches instead"
    return None


def _is_named(module: nn.Module, name: str) -> bool:
    """Whether a class of a library that is not imported here is among the module's bases."""
    return any(base.__name__ == name for base in type(module).__mro__)


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _bad_parameters(module: nn.Module) -> Problem | None:
    own = own_parameters(module)
    if not own:
        return None
    if "forward" in vars(module):
        return "has a replaced forward method", "Subclass the module instead"
    bad = _bad_own_parameters(module, own)
    return bad if bad is not None or known_base(module) is not None else _bad_bare_parameters(module, own)


def _bad_own_parameters(module: nn.Module, own: dict[str, nn.Parameter]) -> Problem | None:
    if parametrize.is_parametrized(module):
        return "computes its weight from other parameters (parametrize)", "Remove the parametrization"
    if any(not parameter.is_floating_point() for parameter in own.values()):
        return "trains a parameter that is not real floating point", "Use float32"
    if any(_has_hooks(parameter) for parameter in own.values()):
        return "has a hook on a parameter, which would see gradients before clip and noise", "Remove the hook"
    return None


def _bad_bare_parameters(module: nn.Module, own: dict[str, nn.Parameter]) -> Problem | None:
    children = list(module.modules())[1:]
    if any(own_parameters(child) for child in children):
        return (
            f"holds the bare parameter {next(iter(own))!r} beside layers of its own",
            "Put the parameter alone in a small module whose forward takes the users' tensor",
        )
    if any(isinstance(child, _DROPOUT) and child.p > 0 for child in children):
        return "has dropout inside a module of bare parameters", "Apply the dropout outside that module"
    if vars(module)["_forward_pre_hooks"]:
        return "has a forward pre-hook beside bare parameters", "Compute what it computes inside forward"
    if list(module.buffers()):
        return "holds buffers beside bare parameters", "Move the buffers to the parent module"
    return None


def _has_hooks(parameter: Tensor) -> bool:
    names = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return any(bool(getattr(parameter, name, None)) for name in names)


_ATTENTION_REMEDY = "Write attention from nn.Linear and torch.nn.functional.scaled_dot_product_attention"
_RULES: tuple[Rule, ...] = (_mixes_users, _bad_embedding, _hides_gradient, _bad_parameters)


def refuse_layers_without_sampler(model: nn.Module, *, way: str) -> None:
    """What Opacus' samplers cannot do, beyond `refuse_unsupported`.

    Raises:
        PrivacyError: a LayerNorm without bias, or a trained layer in evaluation mode (its hooks stay silent).
    """
    for path, module in trained_modules(model):
        if isinstance(module, nn.LayerNorm) and module.bias is None:
            raise PrivacyError(
                f"module {path!r} is a LayerNorm without bias, which the way {way!r} cannot handle",
                remedy="Use the way 'bookkeeping', or LayerNorm with bias",
            )
        if not module.training:
            raise PrivacyError(
                f"module {path!r} is trained but in evaluation mode, the way {way!r} would skip it",
                remedy="Call model.train() before the step",
            )


def refuse_low_precision_products() -> None:
    """Norms are proven from float32 products; reduced-precision ones (TF32, bfloat16) would break the proof.

    Raises:
        PrivacyError: torch is set to a float32 matmul precision below `highest`.
    """
    precision = torch.get_float32_matmul_precision()
    if precision != "highest":
        raise PrivacyError(
            f"float32 matmul precision is {precision!r}, private gradients need 'highest'",
            remedy="Call torch.set_float32_matmul_precision('highest')",
        )
