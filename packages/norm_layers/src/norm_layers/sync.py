"""Batch statistics over all data-parallel ranks, on any backend (`nn.SyncBatchNorm` is for CUDA only)."""

import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from norm_layers.bgn import BatchGroupNorm
from norm_layers.bn import BatchNorm
from norm_layers.convert import convert_norm, replace_layers
from norm_layers.gbgn import GeneralBatchGroupNorm
from norm_layers.sync_functional import AllReduceSum
from norm_layers.virtual import VirtualWorkerNorm


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
