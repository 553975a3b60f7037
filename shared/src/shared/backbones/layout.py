"""How images lie in memory while a network works on them."""

import torch
from jaxtyping import Float
from torch import Tensor

from norm_layers.cpu_kernel import cpu_functions


def fast_layout(images: Float[Tensor, "N C H W"], *, depthwise: bool = False) -> Float[Tensor, "N C H W"]:
    """Return images in the memory layout in which a network is fast; all that follows keeps it.

    On a CPU that is channels last. But where the norm layers' kernel cannot be built, networks with GN and IN would be
    slower in it, and images stay as they are; so do they under `torch.compile`, which chooses layouts itself.

    Args:
        images: Input of a network.
        depthwise: Whether the network has depthwise convolutions and pools, which are two to ten times as fast in
            channels last, whatever its norms.
    """
    if torch.compiler.is_compiling() or images.device.type != "cpu" or not (depthwise or cpu_functions()):
        return images
    return images.contiguous(memory_format=torch.channels_last)
