"""What the norm layers share: per-channel affine parameters and running statistics in float32."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from norm_layers.functional import batch_group_norm
from norm_layers.groups import Uneven
from norm_layers.plain import channel_affine
from norm_layers.shapes import check_positive
from norm_layers.sync_functional import AllReduce, synchronised_batch_group_norm


class ChannelAffine(nn.Module):
    """Base of the norm layers: `weight` and `bias` per channel.

    Args:
        num_channels: C, the size of axis 1 of the input.
        eps: Added to the variance, in the input's units squared.
        affine: Whether the layer learns a scale and a shift per channel.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, num_channels: int, *, eps: float, affine: bool) -> None:
        super().__init__()
        check_positive("num_channels", num_channels)
        check_positive("eps", eps)
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        if affine:
            self.weight = nn.Parameter(torch.ones(num_channels))
            self.bias = nn.Parameter(torch.zeros(num_channels))
        else:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)

    def reset_parameters(self) -> None:
        """Set the scale to 1 and the shift to 0."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        """Give the options for `repr`."""
        return f"{self.num_channels}, eps={self.eps}, affine={self.affine}"


_RUNNING_STATISTICS = ("running_mean", "running_var")


def lift_half(values: Tensor) -> Tensor:
    """Give running statistics in float32 if they are in half precision, else as they are.

    Args:
        values: Running mean or variance.

    Returns:
        The values, in a dtype in which a running average does not stall.
    """
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


class FloatStatistics(nn.Module):
    """Keeps running statistics in float32: under a half-precision default dtype, cast, or checkpoint.

    In bfloat16 a running mean stalls: for a true mean of 3 and momentum 0.01 it stops near 2.
    """

    def _lift_statistics(self) -> None:
        """Lift what a half-precision default dtype made of the running statistics; for the end of a constructor."""
        for owner in self.modules():
            for name in _RUNNING_STATISTICS:
                buffer = owner._buffers.get(name)
                if buffer is not None:
                    owner._buffers[name] = lift_half(buffer)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load; lift half-precision statistics first, since `assign=True` makes buffers of what it finds."""
        for key, value in state_dict.items():
            if key.startswith(prefix) and key.rpartition(".")[2] in _RUNNING_STATISTICS:
                state_dict[key] = lift_half(value)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move or cast as `nn.Module` does, then undo the cast of the running statistics to half precision."""
        before = [
            (owner, name, buffer)
            for owner in self.modules()
            for name, buffer in owner._buffers.items()
            if buffer is not None and name in _RUNNING_STATISTICS
        ]
        super()._apply(fn, recurse)
        for owner, name, buffer in before:
            now = owner._buffers[name]
            if now is not None and now.dtype in (torch.float16, torch.bfloat16):
                owner._buffers[name] = buffer.to(device=now.device, dtype=torch.float32)
        return self


def check_momentum(momentum: float | None) -> None:
    """Raise unless a momentum is None or from 0 to 1.

    Args:
        momentum: Weight of a batch in the running statistics; None for the plain average over all batches.

    Raises:
        ValueError: If it is outside.
    """
    if momentum is not None and not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be from 0 to 1, or None for a plain average; got {momentum}.")


def owns_running_statistics(module: nn.Module) -> bool:
    """Say whether a module itself, not a child, is made to keep running statistics (they may be switched off).

    Args:
        module: Any module.

    Returns:
        True if it registers a buffer of that name.
    """
    return any(name.startswith("running_") for name in module._buffers)


def tensor_of(module: nn.Module, name: str) -> Any:
    """Give a parameter or buffer of a module, as `getattr` does, without the microsecond that it takes for each.

    Args:
        module: Any module.
        name: Name of the parameter or buffer.

    Returns:
        The tensor, or None where it is registered as None.
    """
    if not torch.compiler.is_compiling():
        for registered in (module._parameters, module._buffers):
            if name in registered:
                return registered[name]
    return getattr(module, name)


def uses_batch_statistics(owner: nn.modules.batchnorm._BatchNorm) -> bool:
    """Say whether a layer that owns running statistics normalises by those of the batch now.

    Args:
        owner: The module with `running_mean`, `track_running_stats` and `training`.

    Returns:
        True in training, and where there are no running statistics.
    """
    return owner.training or owner.running_mean is None


def normalise(
    x: Tensor,
    owner: nn.modules.batchnorm._BatchNorm,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    num_groups: int,
    uneven: Uneven = "split",
    unbiased_running_var: bool = True,
    all_reduce: AllReduce | None = None,
) -> Tensor:
    """Normalise as the flags of the statistics' owner say, and count the batch.

    Train/eval, `track_running_stats` (also when it is flipped later), momentum None and missing buffers mean what
    they mean for `nn.BatchNorm2d`. An empty batch passes through in training and leaves the statistics alone.

    Args:
        x: Input of shape (N, C, *spatial).
        owner: Module with the running statistics of length G and their flags.
        weight: Scale per channel. None: 1.
        bias: Shift per channel. None: 0.
        num_groups: G.
        uneven: As in `batch_group_norm`.
        unbiased_running_var: As in `batch_group_norm`.
        all_reduce: Differentiable sum over the ranks; None for statistics of this process alone.

    Returns:
        Output of the shape and dtype of x.

    Raises:
        ValueError: As in `batch_group_norm` and, over several ranks, `synchronised_batch_group_norm`.
    """
    running_mean, running_var = tensor_of(owner, "running_mean"), tensor_of(owner, "running_var")
    training = owner.training or running_mean is None
    updates = owner.training and owner.track_running_stats and running_mean is not None
    if training and not updates:
        running_mean = running_var = None
    counter = tensor_of(owner, "num_batches_tracked") if updates else None
    momentum = 0.0 if owner.momentum is None else owner.momentum
    if owner.momentum is None and counter is not None:
        momentum = 1.0 / (float(counter) + 1.0)

    if owner.training and all_reduce is not None and not all_reduce.is_local:
        return synchronised_batch_group_norm(
            x,
            running_mean,
            running_var,
            weight,
            bias,
            num_batches_tracked=counter,
            num_groups=num_groups,
            momentum=momentum,
            eps=owner.eps,
            uneven=uneven,
            unbiased_running_var=unbiased_running_var,
            all_reduce=all_reduce,
        )
    if training and x.numel() == 0:
        return channel_affine(x, x, weight, bias)
    y = batch_group_norm(
        x,
        running_mean,
        running_var,
        weight,
        bias,
        num_groups=num_groups,
        training=training,
        momentum=momentum,
        eps=owner.eps,
        uneven=uneven,
        unbiased_running_var=unbiased_running_var,
    )
    if counter is not None:
        counter.add_(1)
    return y
