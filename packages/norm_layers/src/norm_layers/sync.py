"""Batch statistics over all data-parallel ranks, on any backend (`nn.SyncBatchNorm` is for CUDA only)."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from norm_layers.bgn import BatchGroupNorm
from norm_layers.bn import BatchNorm
from norm_layers.convert import convert_norm, replace_layers
from norm_layers.gbgn import GeneralBatchGroupNorm
from norm_layers.virtual import VirtualWorkerNorm


class AllReduceSum:
    """Sum a tensor over the ranks of a process group, with the gradient of that sum.

    Without an initialised process group, or with one rank, it gives the tensor back.

    Args:
        process_group: Ranks to sum over. None for all.
    """

    def __init__(self, process_group: dist.ProcessGroup | None = None) -> None:
        self.process_group = process_group

    def __call__(self, values: Tensor) -> Tensor:
        """Sum `values` over the ranks; all of them must call this."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(self.process_group) == 1:
            return values
        return _AllReduceSum.apply(values, self.process_group)


def synchronise_statistics(model: nn.Module, process_group: dist.ProcessGroup | None = None) -> nn.Module:
    """Make the norms with batch statistics take them over the samples of all ranks, in training.

    The output and the gradients are those of one process with the whole batch, also where ranks have different
    numbers of samples or none. All ranks must run the layer the same number of times. torch's own BatchNorm layers
    become `BatchNorm` of this package first, with the same parameters and statistics.

    Args:
        model: Any model; changed in place.
        process_group: Ranks that share statistics. None for all.

    Returns:
        The model; a new layer if the model itself is a BatchNorm of torch.

    Raises:
        ValueError: If a layer is made for statistics of parts of the batch (`VirtualWorkerNorm`, ghost batches).
    """
    for name, module in model.named_modules():
        if isinstance(module, VirtualWorkerNorm):
            raise ValueError(
                f"virtual_workers must be 1 to synchronise statistics; got {module.num_workers} ({name})."
            )
        if isinstance(module, GeneralBatchGroupNorm) and module.ghost_size is not None:
            raise ValueError(f"ghost_size must be None to synchronise statistics; got {module.ghost_size} ({name}).")

    def synchronised(_: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, _BatchNorm) and not isinstance(module, BatchNorm):
            module = convert_norm(module, "bn")
        if isinstance(module, (BatchNorm, BatchGroupNorm)):
            module.all_reduce = AllReduceSum(process_group)
            return module
        return None

    return replace_layers(model, synchronised)


class _AllReduceSum(torch.autograd.Function):
    """All-reduce whose gradient is the all-reduce of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, process_group: dist.ProcessGroup | None) -> Tensor:
        ctx.process_group = process_group
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=process_group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _AllReduceSum.apply(gradient, ctx.process_group), None
