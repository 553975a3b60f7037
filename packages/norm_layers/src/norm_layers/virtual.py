"""Per-worker batch statistics on one device: what several data-parallel workers would compute."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from norm_layers.base import owns_running_statistics
from norm_layers.shapes import check_choice, check_positive

BUILT_AS_NORM = "_built_as_norm"
"""Attribute of a layer that a factory built, which makes it a norm whatever its class is called."""

RunningStatistics = Literal["rank0", "mean"]


class VirtualWorkerNorm(nn.Module):
    """Normalise each of V equal parts of a training batch by its own statistics, as V data-parallel workers would.

    Worker v gets samples v·N/V to (v+1)·N/V - 1. In evaluation the wrapped norm runs as it is. State-dict keys are
    those of the wrapped norm, so checkpoints pass between wrapped and unwrapped nets both ways.

    Args:
        norm: Norm layer with batch statistics, its own or those of layers inside it.
        num_workers: V; training batches must be multiples of it.
        running_statistics: Which batch statistics the running ones follow: "rank0" those of the first worker, as
            `DistributedDataParallel` does by broadcasting rank 0's buffers; "mean" the average over the workers.

    Raises:
        ValueError: If an option is out of range; on a forward pass, if V does not divide the training batch.

    Source:
        BGN paper, "Image Classification on ImageNet": statistics "are calculated within each GPU".
    """

    def __init__(self, norm: nn.Module, num_workers: int, *, running_statistics: RunningStatistics = "rank0") -> None:
        super().__init__()
        check_positive("num_workers", num_workers)
        check_choice("running_statistics", running_statistics, get_args(RunningStatistics))
        self.norm = norm
        self.num_workers = num_workers
        self.running_statistics: RunningStatistics = running_statistics

    def forward(self, x: Tensor) -> Tensor:
        """Normalise an input of shape (N, C, *spatial)."""
        owners = [module for module in self.norm.modules() if owns_running_statistics(module)] or [self.norm]
        if not any(owner.training for owner in owners):
            return self.norm(x)
        if x.shape[0] % self.num_workers != 0:
            raise ValueError(
                f"batch size must be a multiple of num_workers={self.num_workers} in training; got {x.shape[0]}. "
                "Drop the last incomplete batch (drop_last=True)."
            )
        chunks = x.split(max(x.shape[0] // self.num_workers, 1))
        return forward_in_chunks(self.norm, self.norm, chunks, running_statistics=self.running_statistics)

    @property
    def num_channels(self) -> int:
        """C of the wrapped norm."""
        named = "num_channels" if hasattr(self.norm, "num_channels") else "num_features"
        return getattr(self.norm, named)

    @property
    def weight(self) -> nn.Parameter | None:
        """Scale of the wrapped norm."""
        return self.norm.weight  # type: ignore[return-value]

    @property
    def bias(self) -> nn.Parameter | None:
        """Shift of the wrapped norm."""
        return self.norm.bias  # type: ignore[return-value]

    def extra_repr(self) -> str:
        """Give the options for `repr`."""
        return f"num_workers={self.num_workers}, running_statistics={self.running_statistics!r}"

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Give the state of the wrapped norm, under its own keys."""
        return self.norm.state_dict(*args, destination=destination, prefix=prefix, keep_vars=keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        """Pass every key on to the wrapped norm, which loads next."""
        for key in [key for key in state_dict if key.startswith(prefix)]:
            state_dict[f"{prefix}norm.{key[len(prefix) :]}"] = state_dict.pop(key)


def forward_in_chunks(
    forward: Callable[[Tensor], Tensor],
    norm: nn.Module,
    chunks: Sequence[Tensor],
    *,
    running_statistics: RunningStatistics,
) -> Tensor:
    """Run a norm on each part of a batch from the same running statistics, and keep one update of them.

    Args:
        forward: Forward pass of the norm on one part.
        norm: Module that owns the running statistics, itself or in its children.
        chunks: Parts of the batch, in order.
        running_statistics: "rank0" keeps the update of the first part, "mean" the average of all updates.

    Returns:
        The outputs, joined along the batch.
    """
    owners = [(m, name) for m in norm.modules() for name, buffer in m._buffers.items() if buffer is not None]
    real = [owner.get_buffer(name) for owner, name in owners]
    outputs, updates = [], []
    for index, chunk in enumerate(chunks):
        if index == 0 and running_statistics == "rank0":
            outputs.append(forward(chunk))
            continue
        # On copies: an in-place change of the real buffers would spoil the other parts' backward pass.
        scratch = [buffer.clone() for buffer in real]
        _set_buffers(owners, scratch)
        try:
            outputs.append(forward(chunk))
        finally:
            _set_buffers(owners, real)
        updates.append(scratch)
    if running_statistics == "mean":
        with torch.no_grad():
            for buffer, *values in zip(real, *updates):
                buffer.copy_(torch.stack(values).mean(dim=0) if buffer.is_floating_point() else values[0])
    return torch.cat(outputs)


def _set_buffers(owners: Sequence[tuple[nn.Module, str]], buffers: Sequence[Tensor]) -> None:
    """Let modules hold these buffers."""
    for (owner, name), buffer in zip(owners, buffers):
        setattr(owner, name, buffer)
