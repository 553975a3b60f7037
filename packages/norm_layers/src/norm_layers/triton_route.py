"""Whether the Triton kernels serve a device, and the call of them.

They have not been timed on a GPU, and are used where the user asks for them (NORM_LAYERS_KERNEL=triton) and they give,
in this process, what torch's own operations give on a small batch. Without Triton, or where they fail to compile or
disagree, torch's own operations are used.
"""

import functools
import logging
import os

import torch
from torch import Tensor

from norm_layers.plain import plain_batch_group_norm
from norm_layers.plan import MatrixLayout, batch_layout

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_TOLERANCE = 1e-3
_logger = logging.getLogger("norm_layers")
_agreement: dict[torch.device, bool] = {}


@functools.cache
def triton_is_wanted() -> bool:
    """Say whether the user asks for the Triton kernels: NORM_LAYERS_KERNEL=triton when the first layer runs."""
    return os.environ.get("NORM_LAYERS_KERNEL") == "triton"


def triton_serves(x: Tensor) -> bool:
    """Say whether the Triton kernels may normalise x.

    Args:
        x: Input.

    Returns:
        True for float32 and half-precision input on a GPU whose kernels have passed the check, which the first call
        makes, where the user asks for them. False while a CUDA graph is captured before that.
    """
    if not x.is_cuda or x.dtype not in _DTYPES or not triton_is_wanted():
        return False
    if x.device not in _agreement:
        if torch.cuda.is_current_stream_capturing():
            return False
        _agreement[x.device] = kernels_agree(x.device)
    return _agreement[x.device]


def kernels_agree(device: torch.device) -> bool:
    """Compare the Triton kernels with torch's own operations: outputs, statistics, gradients, in both layouts.

    Args:
        device: Where to run them.

    Returns:
        Whether they are there and agree; the reason is logged if not.
    """
    try:
        import norm_layers.triton_ops  # noqa: F401 - it registers the operators, and needs Triton
    except ImportError as error:
        _logger.info("norm_layers: no Triton kernels, torch's own operations instead: %s", error)
        return False
    try:
        with torch.inference_mode(False):
            worst = max(_distance(device, num_groups=groups, channels_last=last) for groups, last in _CASES)
    except Exception as error:  # what a compiler on an unknown device may raise has no common class
        _logger.warning(
            "norm_layers: the Triton kernels fail on %s, torch's own operations instead: %s", device, error
        )
        return False
    if not worst < _TOLERANCE:
        _logger.warning(
            "norm_layers: the Triton kernels are wrong by %s on %s, torch's own operations instead.", worst, device
        )
    return worst < _TOLERANCE


def triton_normalise(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    layout: MatrixLayout,
    *,
    momentum: float,
    unbiased: bool,
    eps: float,
) -> Tensor:
    """Normalise by the batch's statistics and move the running ones; differentiable.

    Args:
        x: Input, dense and in the memory order of the layout.
        weight: Scale per channel in float32. None: 1.
        bias: Shift per channel in float32. None: 0.
        running_mean: Running mean per group in float32; moved in place. None: not kept.
        running_var: Running variance per group, likewise.
        layout: The input as a matrix.
        momentum: Weight of this batch in the running statistics.
        unbiased: Whether the running variance is unbiased.
        eps: Added to the variance.

    Returns:
        The output.
    """
    num_groups = layout.num_groups
    normalise = torch.ops.norm_layers.normalise
    y, statistics = normalise(x, weight, bias, num_groups, layout.channels_last, unbiased, eps)
    for running, row in ((running_mean, 0), (running_var, 2)):
        if running is not None:
            # Through `data`, as in torch's batch norm: moving the statistics does not void graphs of evaluation.
            running.data[:num_groups].lerp_(statistics[row].detach(), momentum)
    return y


_CASES = ((4, False), (5, False), (4, True))


def _distance(device: torch.device, *, num_groups: int, channels_last: bool) -> float:
    """Give the largest difference between the kernels and torch's own operations on a small batch."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    values = (torch.arange(3 * 12 * 6 * 7, device=device) * 0.37).sin().reshape(3, 12, 6, 7) + 0.5
    gradient = values.cos().contiguous(memory_format=layout)
    affine = [values[0, :, 0, 0].clone(), values[1, :, 0, 0].clone()]
    results = []
    for is_plain in (True, False):
        x, weight, bias = (v.detach().requires_grad_() for v in (values.contiguous(memory_format=layout), *affine))
        mean, var = (torch.zeros(num_groups, device=device) for _ in range(2))
        with torch.enable_grad():
            if is_plain:
                y = plain_batch_group_norm(
                    x, mean, var, weight, bias, num_groups=num_groups, training=True, momentum=1.0
                )
            else:
                matrix = batch_layout(tuple(x.shape), num_groups, "split", channels_last, True)
                y = triton_normalise(x, weight, bias, mean, var, matrix, momentum=1.0, unbiased=True, eps=1e-5)
        gradients = torch.autograd.grad(y, (x, weight, bias), gradient)
        results.append([y.detach(), *gradients, mean, var])
    return max(float((ours - reference).abs().max()) for reference, ours in zip(*results))
