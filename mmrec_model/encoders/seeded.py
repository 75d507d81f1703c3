"""Weights made by configuration: the same bytes on every machine, and a digest of any network's weights.

Only exact operations touch the random numbers (24-bit integers, one subtraction, one rounded product), so no vector
instruction set can change a bit. Uniform He scaling (He et al. 2015, equation 10, in its uniform form).
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import nn

SEED = 20_240_601


def fill_seeded(network: nn.Module, *, gain: float, seed: int = SEED) -> None:
    """Overwrite all weights of `network`: matrices and kernels drawn, vectors (biases, norms) kept as built.

    Args:
        network: built with its library's constant biases and norms.
        gain: a drawn weight has standard deviation gain / sqrt(fan in).
        seed: of the torch generator.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in sorted(network.named_parameters(), key=lambda pair: pair[0]):
            if weight.ndim < 2:
                weight.fill_(1.0 if _is_norm_scale(weight) else 0.0)
                continue
            bound = gain * math.sqrt(3.0 / weight[0].numel())
            weight.copy_((torch.rand(weight.shape, generator=generator, dtype=torch.float32) - 0.5) * (2.0 * bound))


def state_digest(network: nn.Module) -> str:
    """SHA-256 over names, types, shapes and little-endian bytes of all weights and buffers, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _is_norm_scale(weight: nn.Parameter) -> bool:
    """A vector that its library initialised to ones is the scale of a normalisation; a bias starts elsewhere."""
    return bool((weight == 1.0).all())
