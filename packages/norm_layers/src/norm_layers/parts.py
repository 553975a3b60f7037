"""Norm layers of torch and of this package taken apart, for conversion."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from norm_layers.base import ChannelAffine
from norm_layers.bgn import BatchGroupNorm
from norm_layers.bn import BatchNorm
from norm_layers.identity import NoNorm
from norm_layers.sync_functional import AllReduce, AllReduceSum
from norm_layers.virtual import VirtualWorkerNorm


@dataclass(frozen=True, eq=False)
class NormParts:
    """A norm layer taken apart.

    Args:
        name: Name of the layer in its model, for messages.
        module: The layer, without virtual workers.
        num_channels: C.
        eps: Added to the variance, in the input's units squared.
        momentum: Weight of a batch in the running statistics; None for the plain average over all batches.
        weight: Scale per channel. None: 1.
        bias: Shift per channel. None: 0.
        tracks: Whether the layer keeps running statistics.
        running_mean: One element per group, per channel for batch norm. None: not kept.
        running_var: Like running_mean.
        num_batches_tracked: Counter of batches. None: not kept.
        owner: The module that owns the running statistics. None for norms without batch statistics.
        all_reduce: Sum over the ranks that share statistics. None for those of one process.
    """

    name: str
    module: nn.Module
    num_channels: int
    eps: float
    momentum: float | None
    weight: Tensor | None
    bias: Tensor | None
    tracks: bool = True
    running_mean: Tensor | None = None
    running_var: Tensor | None = None
    num_batches_tracked: Tensor | None = None
    owner: _BatchNorm | None = None
    all_reduce: AllReduce | None = None


def read_norm(name: str, module: nn.Module) -> NormParts | None:
    """Take a norm layer apart.

    Args:
        name: Name of the layer in its model, for messages.
        module: Any module.

    Returns:
        The parts; None for a module that is neither a norm of torch that is known nor one of this package.

    Raises:
        ValueError: If the layer is lazy and has no channels yet, or has virtual workers around an unknown norm.
    """
    if isinstance(module, VirtualWorkerNorm):
        inside = read_norm(name, module.norm)
        if inside is None:
            raise ValueError(
                f"layer {name!r} must have virtual workers around a norm of torch or norm_layers to be converted; "
                f"got {type(module.norm).__name__}."
            )
        return inside
    if isinstance(module, BatchGroupNorm):
        owner = module.statistics
        norm = NormParts(name, module, module.num_channels, owner.eps, owner.momentum, module.weight, module.bias)
        return replace(norm, **_running_statistics(owner), all_reduce=module.all_reduce or _all_reduce(owner))
    if isinstance(module, _BatchNorm):
        if isinstance(module, nn.modules.lazy.LazyModuleMixin):
            raise ValueError(f"layer {name!r} must be initialised before it is converted; run the model once.")
        norm = NormParts(name, module, module.num_features, module.eps, module.momentum, module.weight, module.bias)
        return replace(norm, **_running_statistics(module), all_reduce=_all_reduce(module))
    if isinstance(module, _InstanceNorm):
        return NormParts(name, module, module.num_features, module.eps, 0.1, module.weight, module.bias)
    if isinstance(module, (nn.GroupNorm, ChannelAffine)):
        return NormParts(name, module, module.num_channels, module.eps, 0.1, module.weight, module.bias)
    if isinstance(module, NoNorm):
        ones, zeros = torch.ones(module.num_channels), torch.zeros(module.num_channels)
        return NormParts(name, module, module.num_channels, 1e-5, 0.1, ones, zeros)
    return None


def is_called_norm(module: nn.Module) -> bool:
    """Say whether a module is a layer with "norm" in its public name, and not something built of other layers.

    Args:
        module: Any module.

    Returns:
        Whether it is called so.
    """
    name = type(module).__name__
    return "norm" in name.lower() and not name.startswith("_") and next(module.children(), None) is None


def _running_statistics(owner: _BatchNorm) -> dict[str, Any]:
    """Give the fields of `NormParts` that concern running statistics."""
    return {
        "tracks": owner.running_mean is not None,
        "running_mean": owner.running_mean,
        "running_var": owner.running_var,
        "num_batches_tracked": owner.num_batches_tracked,
        "owner": owner,
    }


def _all_reduce(module: nn.Module) -> AllReduce | None:
    """Give the sum over ranks that a batch norm takes its statistics with; None for those of one process."""
    if isinstance(module, nn.SyncBatchNorm):
        return AllReduceSum(module.process_group)
    return module.all_reduce if isinstance(module, BatchNorm) else None
