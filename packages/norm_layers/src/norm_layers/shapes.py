"""Shape annotations and the checks of inputs and options that every norm layer shares.

`Float[Tensor, "N C *spatial"]` is jaxtyping's where jaxtyping is installed, so that tests check it, and the plain
tensor type elsewhere: the package needs torch only.
"""

import functools
import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float
else:
    try:
        from jaxtyping import Float
    except ImportError:

        class Float:
            """Stand-in for `jaxtyping.Float`: the annotation is the tensor type alone."""

            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                """Drop the shape and keep the type."""
                return item[0]


__all__ = [
    "Float",
    "check_choice",
    "check_input",
    "check_positive",
    "describe_shape",
    "memory_format",
    "restore_memory_format",
    "warn_once",
]

_logger = logging.getLogger("norm_layers")


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning the first time that this very message comes up in the process.

    Args:
        message: The whole text; layers of the same shape share it, so that a deep net does not repeat it.
    """
    _logger.warning(message)


def check_positive(name: str, value: int | float) -> None:
    """Raise unless an option is positive.

    Args:
        name: Name of the option, for the message.
        value: Its value.

    Raises:
        ValueError: If the value is not above 0.
    """
    if not value > 0:
        raise ValueError(f"{name} must be positive; got {value}.")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise unless an option is one of its choices.

    Args:
        name: Name of the option, for the message.
        value: Its value.
        choices: What it may be.

    Raises:
        ValueError: If the value is not among them.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}.")


def check_input(x: Tensor, num_channels: int) -> None:
    """Raise unless a tensor can be the input of a norm layer.

    Args:
        x: Input that should have shape (N, C, *spatial) with 0 to 3 spatial axes.
        num_channels: C.

    Raises:
        TypeError: If the input is not floating point.
        ValueError: If its rank or its number of channels is wrong.
    """
    if not x.is_floating_point():
        raise TypeError(f"input must be a floating-point tensor; got {x.dtype}.")
    if not 2 <= x.ndim <= 5:
        raise ValueError(f"input must have shape (N, C, *spatial) with 0 to 3 spatial axes; got {tuple(x.shape)}.")
    if x.shape[1] != num_channels:
        raise ValueError(
            f"input must have {num_channels} channels on axis 1; got {x.shape[1]} (input shape {tuple(x.shape)})."
        )


def describe_shape(shape: Sequence[int], num_groups: int) -> str:
    """Name the sizes that decide how many values share a statistic.

    Args:
        shape: Input shape (N, C, *spatial).
        num_groups: G.

    Returns:
        Text such as "N=2, C=8, H=4, W=4, D=128, G=16".
    """
    names = {2: "NC", 3: "NCL", 4: "NCHW", 5: "NCTHW"}[len(shape)]
    sizes = [f"{name}={size}" for name, size in zip(names, shape)]
    return ", ".join([*sizes, f"D={math.prod(shape[1:])}", f"G={num_groups}"])


def memory_format(x: Tensor) -> torch.memory_format:
    """Give the memory format in which a norm's output for x should lie.

    Args:
        x: Input of shape (N, C, *spatial).

    Returns:
        channels_last (or channels_last_3d) where channels are innermost in memory, else contiguous.
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    # Strides rather than is_contiguous(memory_format=...): the latter is not available under torch.func.vmap.
    if x.ndim in formats and x.shape[1] > 1 and x.stride(1) == 1 and math.prod(x.shape[2:]) > 1:
        return formats[x.ndim]
    return torch.contiguous_format


def restore_memory_format(y: Tensor, x: Tensor) -> Tensor:
    """Give the result the memory format of the input (channels_last stays channels_last).

    Args:
        y: Result of the shape of x.
        x: Input of shape (N, C, *spatial).

    Returns:
        y, copied only where its format differs.
    """
    return y.contiguous(memory_format=memory_format(x))
