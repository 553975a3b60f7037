"""Swap the norm layers of any torch model, keeping what it computes in evaluation where that is possible."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from norm_layers.base import ChannelAffine
from norm_layers.bgn import BatchGroupNorm
from norm_layers.factory import NormFactory
from norm_layers.fold import NormState, fold_batch_norm, pool_channel_statistics
from norm_layers.functional import Uneven
from norm_layers.gn import Fallback
from norm_layers.identity import NoNorm
from norm_layers.shapes import check_choice
from norm_layers.virtual import VirtualWorkerNorm

StatisticsTransfer = Literal["fold", "pool", "fresh"]


def convert_norm(
    model: nn.Module,
    name: str,
    *,
    num_groups: int | None = None,
    batch_size: int | None = None,
    statistics: StatisticsTransfer = "fold",
    virtual_workers: int = 1,
    fallback: Fallback | None = None,
    uneven: Uneven | None = None,
    unbiased_running_var: bool | None = None,
    ghost_size: int | None = None,
) -> nn.Module:
    """Replace every norm layer of a model by another norm.

    Replaced are torch's BatchNorm (also SyncBatchNorm), GroupNorm and InstanceNorm, and all layers of this package.
    Each new layer takes channels, eps, momentum, affine parameters, tracking, mode, device and dtype from the old.

    Running statistics go from bn, gbgn and bgn to bn, gbgn and bgn. "fold" keeps the output in evaluation as it is,
    for any G: what G groups cannot say goes into weight and bias. (Where C divides G, maps must be cut into whole
    bands, H·W a multiple of G/C.) "pool" gives groups the statistics of their channels and keeps weight and bias;
    it is the better start for more training. "fresh" starts from mean 0, variance 1. GN, IN, LN and PN have no
    running statistics: to and from them only weight and bias are carried, and the function changes.

    Args:
        model: Any model; changed in place.
        name: Key of `NORMS`, or "package.module:Class".
        num_groups: As in `make_norm`.
        batch_size: As in `make_norm`.
        statistics: "fold", "pool" or "fresh".
        virtual_workers: As in `make_norm`, like the rest.
        fallback: GN where G does not divide C. None for "flat".
        uneven: BGN and GBGN where G does not divide C·H·W. None for "split".
        unbiased_running_var: BGN and GBGN: unbiased running variance. None for True.
        ghost_size: GBGN: samples that share statistics. None for the whole batch.

    Returns:
        The model; a new layer if the model itself is a norm.

    Raises:
        ValueError: If an option is wrong, or folding needs affine parameters that a layer does not have, or channel
            statistics that a BGN with more groups than channels does not have.
    """
    check_choice("statistics", statistics, get_args(StatisticsTransfer))
    factory = NormFactory(
        name,
        num_groups=num_groups,
        batch_size=batch_size,
        virtual_workers=virtual_workers,
        fallback=fallback,
        uneven=uneven,
        unbiased_running_var=unbiased_running_var,
        ghost_size=ghost_size,
    )
    default_device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def convert(layer: str, module: nn.Module) -> nn.Module | None:
        source = _read_norm(layer, module)
        return None if source is None else _convert_layer(source, factory, statistics, default_device)

    return replace_layers(model, convert)


def replace_layers(model: nn.Module, replacement: Callable[[str, nn.Module], nn.Module | None]) -> nn.Module:
    """Replace layers of a model in place, a layer that occurs twice by one and the same new layer.

    Args:
        model: Any model.
        replacement: Gives the new layer for a name and a module; None to look at the module's children instead.

    Returns:
        The model, or its replacement.
    """
    done: dict[nn.Module, nn.Module] = {}

    def visit(name: str, module: nn.Module) -> nn.Module:
        if module not in done:
            new = replacement(name, module)
            done[module] = module if new is None else new
            if new is None:
                for child_name, child in module.named_children():
                    module._modules[child_name] = visit(f"{name}.{child_name}" if name else child_name, child)
                # named_children gives a child once; further names of it follow here.
                for child_name, entry in module._modules.items():
                    if entry is not None:
                        module._modules[child_name] = done.get(entry, entry)
        return done[module]

    return visit("", model)


@dataclass(frozen=True, eq=False)
class _Norm:
    """A norm layer taken apart; `running_*` have one element per group, per channel for batch norm."""

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


def _read_norm(name: str, module: nn.Module) -> _Norm | None:
    """Take a norm layer apart; None for any other module."""
    if isinstance(module, VirtualWorkerNorm):
        module = module.norm
    if isinstance(module, BatchGroupNorm):
        owner = module.statistics
        norm = _Norm(name, module, module.num_channels, owner.eps, owner.momentum, module.weight, module.bias)
        return replace(norm, **_running_statistics(owner))
    if isinstance(module, _BatchNorm):
        if isinstance(module, nn.modules.lazy.LazyModuleMixin):
            raise ValueError(f"layer {name!r} must be initialised before it is converted; run the model once.")
        norm = _Norm(name, module, module.num_features, module.eps, module.momentum, module.weight, module.bias)
        return replace(norm, **_running_statistics(module))
    if isinstance(module, _InstanceNorm):
        return _Norm(name, module, module.num_features, module.eps, 0.1, module.weight, module.bias)
    if isinstance(module, (nn.GroupNorm, ChannelAffine)):
        return _Norm(name, module, module.num_channels, module.eps, 0.1, module.weight, module.bias)
    if isinstance(module, NoNorm):
        ones, zeros = torch.ones(module.num_channels), torch.zeros(module.num_channels)
        return _Norm(name, module, module.num_channels, 1e-5, 0.1, ones, zeros)
    return None


def _running_statistics(owner: _BatchNorm) -> dict[str, Any]:
    """Give the fields of `_Norm` that concern running statistics."""
    return {
        "tracks": owner.running_mean is not None,
        "running_mean": owner.running_mean,
        "running_var": owner.running_var,
        "num_batches_tracked": owner.num_batches_tracked,
    }


def _convert_layer(
    source: _Norm, factory: NormFactory, statistics: StatisticsTransfer, default_device: torch.device
) -> nn.Module:
    """Build the new layer and carry parameters and statistics over."""
    affine = source.weight is not None
    factory = replace(
        factory, eps=source.eps, momentum=source.momentum, affine=affine, track_running_stats=source.tracks
    )
    new = factory(source.num_channels)
    inner = new.norm if isinstance(new, VirtualWorkerNorm) else new
    state = next((t for t in (source.weight, source.running_mean) if t is not None), None)
    new.to(device=default_device if state is None else state.device)
    if source.weight is not None:
        new.to(dtype=source.weight.dtype)
    new.train(source.module.training)

    weight, bias = source.weight, source.bias
    owner = inner.statistics if isinstance(inner, BatchGroupNorm) else inner
    if statistics != "fresh" and source.running_mean is not None and getattr(owner, "running_mean", None) is not None:
        transferred = _transfer(source, owner, statistics)
        if transferred.weight is not None and not affine:
            raise ValueError(
                f"layer {source.name!r} must be affine to fold its statistics into {len(transferred.running_mean)} "
                "groups; got affine=False. Use statistics='pool' or 'fresh'."
            )
        weight, bias = transferred.weight, transferred.bias
        with torch.no_grad():
            for field in ("running_mean", "running_var"):
                getattr(owner, field).copy_(getattr(transferred, field))
            if source.num_batches_tracked is not None and owner._buffers.get("num_batches_tracked") is not None:
                owner.get_buffer("num_batches_tracked").copy_(source.num_batches_tracked)
    for name, value, old in (("weight", weight, source.weight), ("bias", bias, source.bias)):
        parameter = getattr(inner, name, None)
        if parameter is not None and value is not None:
            with torch.no_grad():
                parameter.copy_(value)
            parameter.requires_grad_(old is None or not isinstance(old, nn.Parameter) or old.requires_grad)
    return new


def _transfer(source: _Norm, owner: nn.Module, statistics: StatisticsTransfer) -> NormState:
    """Give running statistics for the new layer, and weight and bias that go with them."""
    assert source.running_mean is not None and source.running_var is not None  # noqa: PT018 - narrows both for mypy
    mean, var = source.running_mean, source.running_var
    num_groups, eps = len(owner.running_mean), owner.eps  # type: ignore[arg-type]
    kept = NormState(mean, var, source.weight, source.bias)
    if len(mean) == num_groups and source.eps == eps:
        return kept
    if statistics == "fold" and source.num_channels % len(mean) != 0:
        raise ValueError(
            f"layer {source.name!r} must have groups of whole channels to be folded; got {len(mean)} groups for "
            f"{source.num_channels} channels. Use statistics='pool' or 'fresh'."
        )
    channel_mean, channel_var = pool_channel_statistics(mean, var, num_groups=source.num_channels)
    if statistics == "pool":
        group_mean, group_var = pool_channel_statistics(channel_mean, channel_var, num_groups=num_groups)
        return NormState(group_mean, group_var, source.weight, source.bias)
    channels = kept._replace(running_mean=channel_mean, running_var=channel_var)
    return fold_batch_norm(channels, num_groups=num_groups, source_eps=source.eps, eps=eps)  # type: ignore[arg-type]
