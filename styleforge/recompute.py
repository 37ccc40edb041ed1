"""Memory for time: what a block computed is forgotten, and computed again for the backward pass."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.checkpoint import checkpoint

from .hub import PretrainedMixin

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def recompute(network: nn.Module) -> int:
    """Let the heavy blocks of a network keep nothing but their inputs while training.

    Blocks are the outermost modules in a list or sequence that have parts and convolutions. Left alone are those with
    buffers, which a second pass would change once more: the running statistics of batch norms, the vectors of spectral
    norms. Names, weights and results stay as they are, copies do the same, and without gradients or in evaluation mode
    nothing is computed twice.

    Args:
        network: one network, or a method with all of its networks.

    Returns:
        How many blocks there are; 0 for networks that are made of single layers (U-Net, DCGAN).
    """
    blocks = list(_blocks(network, listed=False))
    for block in blocks:
        block.forward = types.MethodType(_forward, block)  # a bound method: copies get one of their own
    return len(blocks)


def _blocks(module: nn.Module, listed: bool) -> Iterator[nn.Module]:
    """The blocks in `module`; `listed` says whether it stands in a container itself."""
    if listed and _is_block(module):
        yield module
        return
    for child in module.children():
        yield from _blocks(child, listed=isinstance(module, CONTAINERS))


def _is_block(module: nn.Module) -> bool:
    if isinstance(module, (PretrainedMixin, nn.ModuleList, nn.ModuleDict)):  # too large to be done twice, or no module
        return False
    single = is_parametrized(module) or not [*module.children()]  # a layer, perhaps with an adapter inside
    convolves = any(parameter.ndim == 4 for parameter in module.parameters())  # whatever the class of the layer
    return convolves and not single and not [*module.buffers()]


def _forward(block: nn.Module, *inputs: Any) -> Any:
    forward = types.MethodType(type(block).forward, block)
    if block.training and torch.is_grad_enabled():
        return checkpoint(forward, *inputs, use_reentrant=False)
    return forward(*inputs)
