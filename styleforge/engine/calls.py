"""What is in a call of torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

OPTIONS = {  # of convolutions, after input, weight and bias
    "conv2d": (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1)),
    "conv_transpose2d": (("stride", 1), ("padding", 0), ("output_padding", 0), ("groups", 1), ("dilation", 1)),
}


def argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int, name: str, default: Any = None) -> Any:
    """An argument that may be given by place or by name."""
    return args[place] if len(args) > place else kwargs.get(name, default)


def convolution(name: str, args: Any, kwargs: Any) -> tuple[Tensor, Tensor | None, dict[str, Any]]:
    """Weight, bias and options of a call of "conv2d" or "conv_transpose2d"."""
    options = {key: argument(args, kwargs, 3 + k, key, usual) for k, (key, usual) in enumerate(OPTIONS[name])}
    return argument(args, kwargs, 1, "weight"), argument(args, kwargs, 2, "bias"), options


def pair(option: Any) -> tuple[Any, Any]:
    """An option of a convolution or of `interpolate`, for rows and columns."""
    return tuple(option) * (2 // len(option)) if isinstance(option, (tuple, list)) else (option, option)


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from tensors(inner)
    elif isinstance(value, dict):
        yield from tensors(tuple(value.values()))
