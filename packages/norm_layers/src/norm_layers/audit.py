"""Which statistics each norm layer of a net really takes, on a real input."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from norm_layers.bgn import BatchGroupNorm
from norm_layers.bn import BatchNorm
from norm_layers.gbgn import GeneralBatchGroupNorm
from norm_layers.gn import GroupNorm
from norm_layers.identity import NoNorm
from norm_layers.instance import InstanceNorm
from norm_layers.ln import LayerNorm
from norm_layers.pn import PositionalNorm
from norm_layers.statistics import frozen_statistics
from norm_layers.virtual import BUILT_AS_NORM, VirtualWorkerNorm


@dataclass(frozen=True)
class NormAudit:
    """What one norm layer does on the audited input; `dataclasses.asdict` of it is JSON.

    Args:
        layer: Name in `model.named_modules()`. Of an outside layer around norms that are known, those norms' names.
        norm: Key of `NORMS`, or "package.module:Class" for any other norm.
        batch_size: N of the samples that are normalised together (per virtual worker or ghost batch).
        channels: C.
        height: H; 1 where the input has no such axis. Of a 3-D map, depth times height.
        width: W; 1 where the input has no such axis.
        num_groups: G in force. None where the norm has no groups, or is unknown.
        values_per_statistic: Least number of values behind one mean. None where the norm is unknown, or cannot take
            the input.
        straddling: Whether some group mixes parts of channels: it covers several, and not whole ones.
        fallback: What stands in for a G that does not divide: "flat", "divisor", "split" or "clamp". None: nothing.
        equivalent: "=BN", "=IN" or "=LN" where the layer is exactly that norm here. None: it is not.
    """

    layer: str
    norm: str
    batch_size: int
    channels: int
    height: int
    width: int
    num_groups: int | None
    values_per_statistic: int | None
    straddling: bool
    fallback: str | None
    equivalent: str | None


# The layers that `_grouping` can describe.
_KNOWN = (
    _BatchNorm,
    _InstanceNorm,
    nn.GroupNorm,
    BatchGroupNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    NoNorm,
    PositionalNorm,
)


class _Grouping(NamedTuple):
    """The part of an audit that depends on the kind of norm."""

    norm: str
    num_groups: int | None = None
    values_per_statistic: int | None = None
    straddling: bool = False
    fallback: str | None = None
    equivalent: str | None = None


def audit_norms(model: nn.Module, example_input: Any) -> list[NormAudit]:
    """Run a model once and tell, for every norm layer that the input reaches, which statistics it takes.

    The model runs in the mode it is in, so that heads which exist in training only are seen in training mode. Norms
    with running statistics evaluate meanwhile. Buffers, random-number states, gradients, training flags and hooks
    are afterwards what they were.

    Args:
        model: Any model.
        example_input: Its input: a tensor, a tuple of positional arguments, or a dict of keyword arguments.

    Returns:
        One record per norm layer and input shape, in the order of the first pass through them.
    """
    records: dict[NormAudit, None] = {}
    handles = []
    for name, (module, num_workers) in _norm_modules(model).items():

        def record(module: nn.Module, inputs: tuple[Any, ...], name: str = name, parts: int = num_workers) -> None:
            if inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim >= 2:
                num_samples, *others = inputs[0].shape
                records[describe_norm(name, module, (max(num_samples // parts, 1), *others))] = None

        handles.append(module.register_forward_pre_hook(record))
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = sorted({p.device.index for p in (*model.parameters(), *model.buffers()) if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad(), frozen_statistics(model):
            if isinstance(example_input, dict):
                model(**example_input)
            elif isinstance(example_input, tuple):
                model(*example_input)
            else:
                model(example_input)
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
    finally:
        for handle in handles:
            handle.remove()
    return list(records)


def summarise_audit(audits: Sequence[NormAudit]) -> list[dict[str, Any]]:
    """Count layers that behave alike.

    Args:
        audits: Records of `audit_norms`.

    Returns:
        One JSON-able dict per kind, in order of first appearance: norm, channels, height, width, num_groups,
        values_per_statistic, straddling, fallback, equivalent and `layers`, the count.
    """
    keys = (
        "norm",
        "channels",
        "height",
        "width",
        "num_groups",
        "values_per_statistic",
        "straddling",
        "fallback",
        "equivalent",
    )
    counts = Counter(tuple(getattr(audit, key) for key in keys) for audit in audits)
    return [{**dict(zip(keys, kind)), "layers": count} for kind, count in counts.items()]


def describe_norm(name: str, module: nn.Module, shape: Sequence[int]) -> NormAudit:
    """Describe what one norm layer does on an input of a given shape.

    Args:
        name: Name of the layer, for the record.
        module: The norm layer.
        shape: Input shape (N, C, *spatial).

    Returns:
        The record.
    """
    num_samples = shape[0]
    if isinstance(module, VirtualWorkerNorm):
        num_samples, module = max(num_samples // module.num_workers, 1), module.norm
    if isinstance(module, GeneralBatchGroupNorm) and module.ghost_size is not None:
        num_samples = min(num_samples, module.ghost_size)
    spatial = tuple(shape[2:])
    width = spatial[-1] if spatial else 1
    grouping = _grouping(module, num_samples, shape[1], math.prod(spatial))
    height = math.prod(spatial[:-1])
    return NormAudit(name, grouping.norm, num_samples, shape[1], height, width, *grouping[1:])


def _norm_modules(model: nn.Module) -> dict[str, tuple[nn.Module, int]]:
    """Give the norm layers by name, each with the number of parts that wrappers around it make of a batch.

    A layer inside a known one, such as the statistics of BGN, is part of that.
    """
    norms: dict[str, tuple[nn.Module, int]] = {}
    wrappers: dict[str, int] = {}
    for name, module in model.named_modules():
        if any(_is_inside(name, outer) for outer in norms):
            continue
        if _is_layer(module):
            parts = math.prod(workers for outer, workers in wrappers.items() if _is_inside(name, outer))
            norms[name] = (module, parts)
        elif isinstance(module, VirtualWorkerNorm):
            wrappers[name] = module.num_workers
    return norms


def _is_inside(name: str, outer: str) -> bool:
    """Say whether the module of one name lies inside that of another."""
    return name.startswith(f"{outer}." if outer else "")


def _is_layer(module: nn.Module) -> bool:
    """Say whether a module is a norm layer rather than something around norms that can be described themselves."""
    if isinstance(module, VirtualWorkerNorm):
        inner = module.norm
        return isinstance(inner, _KNOWN) or not any(isinstance(part, _KNOWN) for part in inner.modules())
    if isinstance(module, _KNOWN):
        return True
    if any(isinstance(inner, _KNOWN) for inner in module.modules()):
        return False
    return getattr(module, BUILT_AS_NORM, False) or all(
        "norm" in type(part).__name__.lower() for part in (module, *module.children())
    )


def _grouping(module: nn.Module, num_samples: int, channels: int, positions: int) -> _Grouping:
    """Describe one norm layer on an input of N samples, C channels and H·W positions."""
    if isinstance(module, (BatchNorm, _BatchNorm)):
        return _Grouping("bn", None, num_samples * positions)
    if isinstance(module, (InstanceNorm, _InstanceNorm)):
        return _Grouping("in", None, positions)
    if isinstance(module, LayerNorm):
        return _Grouping("ln", None, channels * positions)
    if isinstance(module, PositionalNorm):
        return _Grouping("pn", None, channels, equivalent="=LN" if positions == 1 else None)
    if isinstance(module, NoNorm):
        return _Grouping("none")
    if isinstance(module, BatchGroupNorm):
        return _batch_grouping(module, num_samples, channels, positions)
    if isinstance(module, GroupNorm):
        return _sample_grouping(
            module.num_groups, channels, positions, module.fallback if channels % module.requested_groups else None
        )
    if isinstance(module, nn.GroupNorm):
        return _sample_grouping(module.num_groups, channels, positions, None)
    num_groups = getattr(module, "num_groups", None)
    return _Grouping(
        f"{type(module).__module__}:{type(module).__qualname__}", num_groups if isinstance(num_groups, int) else None
    )


def _batch_grouping(module: BatchGroupNorm, num_samples: int, channels: int, positions: int) -> _Grouping:
    """Describe BGN or GBGN."""
    elements = channels * positions
    num_groups = min(module.num_groups, elements)
    fallback = "clamp" if num_groups < module.num_groups else "split" if elements % num_groups else None
    whole_batch = not isinstance(module, GeneralBatchGroupNorm) or module.ghost_size is None
    return _Grouping(
        "gbgn" if isinstance(module, GeneralBatchGroupNorm) else "bgn",
        num_groups,
        num_samples * (elements // num_groups),
        _straddles(num_groups, channels, positions),
        fallback,
        "=BN" if num_groups == channels and whole_batch else None,
    )


def _sample_grouping(num_groups: int, channels: int, positions: int, fallback: str | None) -> _Grouping:
    """Describe GN."""
    equivalent = "=LN" if num_groups == 1 else "=IN" if num_groups == channels else None
    values = channels * positions // num_groups or None
    return _Grouping("gn", num_groups, values, _straddles(num_groups, channels, positions), fallback, equivalent)


def _straddles(num_groups: int, channels: int, positions: int) -> bool:
    """Say whether some group holds elements of several channels, but not whole channels only."""
    if channels % num_groups == 0:
        return False
    elements = channels * positions
    # Inside one channel each: an equal number of groups per channel, with equal sizes.
    return not (num_groups % channels == 0 and elements % num_groups == 0)
