"""Swap the norm layers of any torch model, keeping what it computes in evaluation where that is possible."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from norm_layers.base import lift_half
from norm_layers.bgn import BatchGroupNorm
from norm_layers.bn import BatchNorm
from norm_layers.factory import NormFactory
from norm_layers.fold import NormState, fold_batch_norm, pool_channel_statistics
from norm_layers.gbgn import GeneralBatchGroupNorm
from norm_layers.gn import Fallback
from norm_layers.groups import Uneven
from norm_layers.parts import NormParts, is_called_norm, read_norm
from norm_layers.shapes import check_choice, warn_once
from norm_layers.statistics import freeze_statistics, is_batch_statistic_norm, is_frozen
from norm_layers.virtual import VirtualWorkerNorm

StatisticsTransfer = Literal["fold", "repeat", "pool", "fresh"]


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
    Each new layer takes channels, eps, momentum, affine parameters, tracking, mode, device and dtype from the old,
    and so it does a frozen state (`freeze_statistics`) and synchronisation over ranks (`synchronise_statistics` or
    SyncBatchNorm) where it has batch statistics. Other layers called norms are left, and logged once.

    Running statistics go from bn, gbgn and bgn to bn, gbgn and bgn. "fold" keeps the output in evaluation as it is,
    for any G and at every resolution: what G groups cannot say goes into weight and bias. Where G does not divide C
    that is all of the old norm, which in training does not fit the batch's statistics. For more training "repeat" is
    the better start there: as "fold", but where C divides G, the groups of a channel take its statistics, and
    weight and bias stay; the output in evaluation is then the same only where G/C divides H·W. "pool" gives groups
    the statistics of their channels and keeps weight and bias at any G. "fresh" starts from mean 0, variance 1. GN,
    IN, LN and PN have no running statistics: to and from them only weight and bias are carried, and the function
    changes.

    Args:
        model: Any model; changed in place.
        name: Key of `NORMS`, or "package.module:Class".
        num_groups: As in `make_norm`.
        batch_size: As in `make_norm`.
        statistics: "fold", "repeat", "pool" or "fresh".
        virtual_workers: As in `make_norm`, like the rest.
        fallback: GN where G does not divide C. None for "flat".
        uneven: BGN and GBGN where G does not divide C·H·W. None for "split".
        unbiased_running_var: BGN and GBGN: unbiased running variance. None for True.
        ghost_size: GBGN: samples that share statistics. None for the whole batch.

    Returns:
        The model; a new layer if the model itself is a norm.

    Raises:
        ValueError: If an option is wrong; if there is no layer to replace; if folding needs affine parameters that a
            layer does not have, or channel statistics that a BGN does not have whose G does not divide C (unless all
            its groups have the same, as after a fold); or if a layer is synchronised and the new one is for parts of
            the batch (virtual workers, ghost batches).
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
    replaced, left = Counter[str](), Counter[str]()

    def convert(layer: str, module: nn.Module) -> nn.Module | None:
        source = read_norm(layer, module)
        if source is None:
            if is_called_norm(module):
                left[f"{type(module).__module__}.{type(module).__qualname__}"] += 1
            return None
        replaced[type(module).__name__] += 1
        return _convert_layer(source, factory, statistics, default_device)

    model = replace_layers(model, convert)
    found = ", ".join(f"{count} {kind}" for kind, count in left.items())
    if not replaced:
        raise ValueError(
            "model must have a BatchNorm, GroupNorm or InstanceNorm of torch, or a layer of norm_layers, to replace; "
            f"got {type(model).__name__} with {found or 'no norm'}."
        )
    if left:
        warn_once(f"convert_norm: replaced {sum(replaced.values())} norm layers; left as they are: {found}.")
    return model


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


def _convert_layer(
    source: NormParts, factory: NormFactory, statistics: StatisticsTransfer, default_device: torch.device
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
        before = source.module
        same_groups = getattr(before, "num_groups", None) == getattr(inner, "num_groups", None)
        if isinstance(before, BatchGroupNorm) and isinstance(inner, BatchGroupNorm) and same_groups:
            inner.set_extra_state(before.get_extra_state())
    for name, value, old in (("weight", weight, source.weight), ("bias", bias, source.bias)):
        parameter = getattr(inner, name, None)
        if parameter is not None and value is not None:
            with torch.no_grad():
                parameter.copy_(value)
            parameter.requires_grad_(old is None or not isinstance(old, nn.Parameter) or old.requires_grad)
    _carry_state(source, new, inner)
    return new


def _carry_state(source: NormParts, new: nn.Module, inner: nn.Module) -> None:
    """Carry mode, frozen state and synchronisation over to the new layer; `inner` is it without virtual workers."""
    new.train(source.module.training)
    owner = inner.statistics if isinstance(inner, BatchGroupNorm) else inner
    if source.owner is not None and isinstance(owner, _BatchNorm):
        owner.train(source.owner.training)
        if source.owner.running_mean is not None:
            owner.track_running_stats = source.owner.track_running_stats
    if source.owner is not None and is_frozen(source.owner):
        freeze_statistics(new)
    if source.all_reduce is None or not any(is_batch_statistic_norm(module) for module in inner.modules()):
        return
    if new is not inner or (isinstance(inner, GeneralBatchGroupNorm) and inner.ghost_size is not None):
        raise ValueError(
            f"layer {source.name!r} must not be synchronised to become a norm for parts of the batch; "
            "got synchronised statistics. Take no virtual_workers and no ghost_size."
        )
    if isinstance(inner, (BatchNorm, BatchGroupNorm)):
        inner.all_reduce = source.all_reduce
    elif not isinstance(inner, nn.SyncBatchNorm):
        warn_once(f"convert_norm: {type(inner).__name__} cannot be synchronised; its statistics are those of a rank.")


def _transfer(source: NormParts, owner: nn.Module, statistics: StatisticsTransfer) -> NormState:
    """Give running statistics for the new layer, and weight and bias that go with them."""
    assert source.running_mean is not None and source.running_var is not None  # noqa: PT018 - narrows both for mypy
    mean, var = lift_half(source.running_mean), lift_half(source.running_var)
    num_groups, eps = len(owner.running_mean), owner.eps  # type: ignore[arg-type]
    kept = NormState(mean, var, source.weight, source.bias)
    if len(mean) == num_groups and source.eps == eps:
        return kept
    if statistics != "pool" and source.num_channels % len(mean) != 0 and not (_uniform(mean) and _uniform(var)):
        raise ValueError(
            f"layer {source.name!r} must have groups of whole channels to be folded; got {len(mean)} groups for "
            f"{source.num_channels} channels. Use statistics='pool' or 'fresh'."
        )
    channel_mean, channel_var = pool_channel_statistics(mean, var, num_groups=source.num_channels)
    if statistics == "pool":
        group_mean, group_var = pool_channel_statistics(channel_mean, channel_var, num_groups=num_groups)
        return NormState(group_mean, group_var, source.weight, source.bias)
    channels = kept._replace(running_mean=channel_mean, running_var=channel_var)
    return fold_batch_norm(
        channels,
        num_groups=num_groups,
        source_eps=source.eps,
        eps=eps,  # type: ignore[arg-type]
        repeat=statistics == "repeat",
    )


def _uniform(values: Tensor) -> bool:
    """Say whether all elements are the same."""
    return bool((values == values[0]).all())
