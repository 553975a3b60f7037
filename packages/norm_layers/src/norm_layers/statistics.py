"""Freeze the running statistics of norm layers: for a moment, or until they are unfrozen."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from norm_layers.base import owns_running_statistics
from norm_layers.bgn import BatchGroupNorm
from norm_layers.shapes import check_choice
from norm_layers.virtual import VirtualWorkerNorm

FrozenMode = Literal["eval", "train"]


def is_batch_statistic_norm(module: nn.Module) -> bool:
    """Say whether a module is a norm whose statistics run over the batch, so that samples affect each other.

    Args:
        module: Any module. BatchNorm and SyncBatchNorm of torch, bn, gbgn and bgn of this package, what
            `VirtualWorkerNorm` makes of them, and norms from outside that keep running statistics qualify.

    Returns:
        Whether it is one. The child that holds the running statistics of a BGN is one as well.
    """
    if isinstance(module, VirtualWorkerNorm):
        return is_batch_statistic_norm(module.norm)
    if isinstance(module, (_BatchNorm, BatchGroupNorm)):
        return True
    return owns_running_statistics(module) and not isinstance(module, nn.modules.instancenorm._InstanceNorm)


@contextmanager
def frozen_statistics(model: nn.Module, *, mode: FrozenMode = "eval") -> Iterator[None]:
    """Keep all running statistics of a model as they are, whatever runs inside the block.

    "eval": norms normalise by their running statistics, as in evaluation. "train": they normalise by the batch's,
    as in training, without a trace; layers frozen by `freeze_statistics` stay so. `model.train()` and `model.eval()`
    inside the block do not thaw them. Afterwards, also after an exception, training flags, `track_running_stats`,
    momentum and buffers are what they were, bit for bit. Other layers, such as dropout, are left alone.

    Args:
        model: Any model.
        mode: Which statistics normalise meanwhile.

    Raises:
        ValueError: If the mode is unknown.
    """
    check_choice("mode", mode, get_args(FrozenMode))
    saved = [_SavedNorm(module) for module in model.modules() if owns_running_statistics(module)]
    try:
        for norm in saved:
            norm.hold(mode)
        yield
    finally:
        for norm in saved:
            norm.restore()


def freeze_statistics(model: nn.Module) -> nn.Module:
    """Make every norm use its running statistics and keep them, also after `model.train()`.

    Affine parameters stay trainable. A copy of the model, pickled or deep, stays frozen too.

    Args:
        model: Any model; changed in place.

    Returns:
        The model.
    """
    for module in model.modules():
        if owns_running_statistics(module):
            nn.Module.train(module, False)
            module.train = functools.partial(_stay_frozen, module)  # type: ignore[method-assign]
    return model


def unfreeze_statistics(model: nn.Module) -> nn.Module:
    """Undo `freeze_statistics`; the norms take the model's own train or eval mode.

    Args:
        model: Any model; changed in place.

    Returns:
        The model.
    """
    for module in model.modules():
        if owns_running_statistics(module) and is_frozen(module):
            del module.__dict__["train"]
            module.train(model.training)
    return model


def is_frozen(module: nn.Module) -> bool:
    """Say whether `freeze_statistics` froze a module.

    Args:
        module: A module that owns running statistics; of a BGN, its child `statistics`.

    Returns:
        Whether it stays in evaluation mode until `unfreeze_statistics`.
    """
    stand_in: Any = module.__dict__.get("train")
    return isinstance(stand_in, functools.partial) and stand_in.func is _stay_frozen


class _SavedNorm:
    """The state of one norm that `frozen_statistics` changes or guards."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.attributes: dict[str, Any] = {
            name: module.__dict__[name]
            for name in ("training", "track_running_stats", "momentum", "train")
            if name in module.__dict__
        }
        self.buffers = {name: (b, None if b is None else b.clone()) for name, b in module._buffers.items()}

    def hold(self, mode: FrozenMode) -> None:
        """Fix the statistics that the norm uses, unless it is frozen already."""
        if is_frozen(self.module):
            return
        if mode == "train" and isinstance(getattr(self.module, "track_running_stats", None), bool):
            self.module.track_running_stats = False  # type: ignore[assignment]
        nn.Module.train(self.module, mode == "train")
        self.module.train = functools.partial(_keep_mode, self.module)  # type: ignore[method-assign]

    def restore(self) -> None:
        """Put attributes and buffers back."""
        self.module.__dict__.pop("train", None)
        self.module.__dict__.update(self.attributes)
        for name, (buffer, value) in self.buffers.items():
            # A write that changes nothing would still void the backward pass of graphs that hold the buffer.
            if buffer is not None and value is not None and not _same_bits(buffer, value):
                with torch.no_grad():
                    buffer.copy_(value)
            self.module._buffers[name] = buffer


def _stay_frozen(module: nn.Module, mode: bool = True) -> nn.Module:  # noqa: ARG001 - the signature of train()
    """Stand in for `module.train(mode)` from `freeze_statistics` on."""
    return nn.Module.train(module, False)


def _keep_mode(module: nn.Module, mode: bool = True) -> nn.Module:  # noqa: ARG001 - the signature of train()
    """Stand in for `module.train(mode)` inside a `frozen_statistics` block."""
    return module


def _same_bits(left: Tensor, right: Tensor) -> bool:
    """Compare two tensors, a NaN being equal to itself."""
    return torch.equal(left, right) or bool(torch.eq(left, right).logical_or(left.isnan() & right.isnan()).all())
