"""When a kernel of this package may run instead of torch's own operations."""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

_PLAIN_TYPES = (Tensor, nn.Parameter)


def is_eager(*inputs: Tensor | None) -> bool:
    """Say whether a kernel may run: plain tensors, and nothing that wants to see torch's own operations instead.

    Args:
        inputs: Tensors of the call, or None; first the one that may be large.

    Returns:
        False under compilers, tracing, `torch.func`, dispatch modes and forward-mode differentiation, and for
        subclasses of tensors and those whose memory is something else than their values.
    """
    if (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    ):
        return False
    for values in inputs:
        if values is not None and type(values) not in _PLAIN_TYPES:
            return False
    x = inputs[0]
    # Tensors whose memory does not hold their values: negated or zero when read, or a batch (`is_grads_batched`).
    return x is None or not (x.is_neg() or x._is_zerotensor() or torch._C._functorch.is_legacy_batchedtensor(x))


def wants_gradients(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> bool:
    """Say whether a call belongs in a graph.

    Args:
        x: Input.
        weight: Scale per channel. None: 1.
        bias: Shift per channel. None: 0.

    Returns:
        Whether gradients are recorded now, and some tensor requires them.
    """
    return torch.is_grad_enabled() and (
        x.requires_grad or (weight is not None and weight.requires_grad) or (bias is not None and bias.requires_grad)
    )


def is_readable(values: Tensor | None, x: Tensor, count: int, dtype: torch.dtype) -> bool:
    """Say whether a kernel for x can read parameters or running statistics as they lie in memory.

    Args:
        values: Parameters or statistics. None: nothing to read.
        x: Input.
        count: How many there must be.
        dtype: What they must be.

    Returns:
        Whether it can.
    """
    return values is None or (
        values.dtype is dtype
        and (values.is_cpu if x.is_cpu else values.device == x.device)
        and values.numel() == count
        and values.is_contiguous()
    )
