"""The norm layers by name, without importing torch.

`NORMS` is the only list of norms in the suite: command-line choices, tests and table rows follow from it.
A new norm is one file with the layer and one entry here.
"""

import difflib
import importlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class NormSpec:
    """What the suite knows of a norm before it builds one.

    Args:
        target: Import string of the layer, `"package.module:Class"`.
        label: Name in tables, such as "BGN".
        title: Name in full.
        has_groups: Whether the layer takes `num_groups`.
        has_running_statistics: Whether the layer keeps running statistics for evaluation.
        shares: The axes over which the elements that share one mean and one variance run.
        statistic: What indexes a statistic: one mean and one variance for each.
        formula: Mean of one statistic, for input f of shape (N, C, H, W).
        source: Paper and equation.
    """

    target: str
    label: str
    title: str
    has_groups: bool = False
    has_running_statistics: bool = False
    shares: str = ""
    statistic: str = ""
    formula: str = ""
    source: str = ""


NORMS: dict[str, NormSpec] = {
    "bn": NormSpec(
        "norm_layers.bn:BatchNorm",
        label="BN",
        title="Batch Normalization",
        has_running_statistics=True,
        shares="N, H, W",
        statistic="channel",
        formula="mu[c] = mean over n, h, w of f[n, c, h, w]",
        source="Ioffe and Szegedy 2015; BGN paper eq. 2-5",
    ),
    "in": NormSpec(
        "norm_layers.instance:InstanceNorm",
        label="IN",
        title="Instance Normalization",
        shares="H, W",
        statistic="sample and channel",
        formula="mu[n, c] = mean over h, w of f[n, c, h, w]",
        source="Ulyanov, Vedaldi and Lempitsky 2016",
    ),
    "ln": NormSpec(
        "norm_layers.ln:LayerNorm",
        label="LN",
        title="Layer Normalization",
        shares="C, H, W",
        statistic="sample",
        formula="mu[n] = mean over c, h, w of f[n, c, h, w]",
        source="Ba, Kiros and Hinton 2016",
    ),
    "gn": NormSpec(
        "norm_layers.gn:GroupNorm",
        label="GN",
        title="Group Normalization",
        has_groups=True,
        shares="C/G, H, W",
        statistic="sample and group of channels",
        formula="mu[n, g] = mean over c in group g, h, w of f[n, c, h, w]",
        source="Wu and He 2018; BGN paper eq. 6-7",
    ),
    "pn": NormSpec(
        "norm_layers.pn:PositionalNorm",
        label="PN",
        title="Positional Normalization",
        shares="C",
        statistic="sample and position",
        formula="mu[n, h, w] = mean over c of f[n, c, h, w]",
        source="Li et al. 2019, without re-injection (BGN paper footnote 2)",
    ),
    "gbgn": NormSpec(
        "norm_layers.gbgn:GeneralBatchGroupNorm",
        label="GBGN",
        title="General Batch Group Normalization",
        has_groups=True,
        has_running_statistics=True,
        shares="N, C/32, H, W",
        statistic="group of channels",
        formula="mu[g] = mean over n, c in group g, h, w of f[n, c, h, w]",
        source="Summers and Dinneen 2019, with the BGN paper's 32 channel groups",
    ),
    "bgn": NormSpec(
        "norm_layers.bgn:BatchGroupNorm",
        label="BGN",
        title="Batch Group Normalization",
        has_groups=True,
        has_running_statistics=True,
        shares="N, (C, H, W)/G",
        statistic="group of the merged axis d = (c, h, w)",
        formula="mu[g] = mean over n, d in group g of f[n, d]",
        source="Zhou et al. 2020, eq. 8-9",
    ),
    "none": NormSpec("norm_layers.identity:NoNorm", label="none", title="No normalization", formula="f", source="-"),
}

GROUP_NORM_GROUPS = 32  # "the optimal configuration for GN (Wu and He 2018)", and the paper's GBGN
BATCH_GROUP_NORM_GROUPS = {
    2: 1,
    4: 2,
    8: 16,
    16: 64,
    32: 128,
    64: 256,
    128: 512,
}  # Table 2: batch size per worker -> G


def resolve_norm(name: str) -> NormSpec:
    """Look a norm up by its name in `NORMS`, or import it from `"package.module:Class"`.

    A name without a colon costs no import. A name with one imports the module, and torch with it.

    Args:
        name: A key of `NORMS`, or the import string of a class or function that takes `num_channels`.

    Returns:
        The entry of `NORMS`, or a spec read from the signature of what was imported.

    Raises:
        ValueError: If the name is unknown, or what it names cannot be imported or is no norm layer.
    """
    if name in NORMS:
        return NORMS[name]
    if ":" in name:
        return _outside_spec(name)
    close = difflib.get_close_matches(name.lower(), NORMS, n=1, cutoff=0.5)
    module, dot, attribute = name.rpartition(".")
    meant = f"{module}:{attribute}" if dot else next(iter(close), None)
    hint = f" Did you mean {meant!r}?" if meant else ""
    raise ValueError(f"norm must be one of {', '.join(NORMS)}, or 'package.module:Class'; got {name!r}.{hint}")


def load_norm(name: str) -> Callable[..., Any]:
    """Import the class (or function) that builds the norm.

    Args:
        name: As in `resolve_norm`.

    Returns:
        The imported class or function.

    Raises:
        ValueError: As in `resolve_norm`.
    """
    if name not in NORMS and ":" not in name:
        resolve_norm(name)
    target = NORMS[name].target if name in NORMS else name
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"norm must have the form 'package.module:Class'; got {name!r}.")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a norm from outside may raise anything
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        reason = " ".join(f"{kind}{error}".split())
        raise ValueError(f"norm must name a module that can be imported; got {name!r} ({reason}).") from error
    try:
        layer: Any = module
        for part in attribute.split("."):
            layer = getattr(layer, part)
    except AttributeError:
        raise ValueError(f"norm must name something in {module_name}; got {name!r}, which is not there.") from None
    return _checked_layer(name, layer)


def default_num_groups(name: str, *, batch_size: int | None = None) -> int | None:
    """Give the paper's number of groups for a norm.

    GN and GBGN take 32. BGN takes Table 2's G for the batch size, log2 G linear in log2 of the batch size between
    the table's entries, and the nearest entry beyond them. Example: batch 128 gives 512, batch 96 gives 384.

    Args:
        name: A key of `NORMS`, or an import string.
        batch_size: Samples per worker and step; needed for BGN only. None where it is not known.

    Returns:
        The number of groups; None for a norm without groups, and for a norm from outside, which has its own default.

    Raises:
        ValueError: If the norm is unknown, the batch size is not positive, or BGN gets no batch size.

    Source:
        BGN paper, Table 2 and "Comparison with baselines".
    """
    spec = resolve_norm(name)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
    if not spec.has_groups or name not in NORMS:
        return None
    if name != "bgn":
        return GROUP_NORM_GROUPS
    if batch_size is None:
        raise ValueError(
            "batch_size must be given where norm='bgn' has no num_groups, since the paper's G depends on it; "
            "got None. Give num_groups or batch_size."
        )
    sizes = sorted(BATCH_GROUP_NORM_GROUPS)
    clamped = min(max(batch_size, sizes[0]), sizes[-1])
    upper = next(size for size in sizes if size >= clamped)
    lower = max(size for size in sizes if size <= clamped)
    if lower == upper:
        return BATCH_GROUP_NORM_GROUPS[lower]
    low, high = (math.log2(BATCH_GROUP_NORM_GROUPS[size]) for size in (lower, upper))
    position = math.log2(clamped / lower) / math.log2(upper / lower)
    return round(2 ** (low + position * (high - low)))


def _outside_spec(name: str) -> NormSpec:
    """Describe a norm that is not in `NORMS` by what its signature takes."""
    layer = load_norm(name)
    parameters = inspect.signature(layer).parameters
    label = name.rpartition(":")[2].rpartition(".")[2]
    return NormSpec(
        name,
        label=label,
        title=label,
        has_groups="num_groups" in parameters,
        has_running_statistics="track_running_stats" in parameters,
        source=name,
    )


def _checked_layer(name: str, layer: Any) -> Callable[..., Any]:
    """Return the layer if it is an nn.Module class or a callable that takes `num_channels`; raise otherwise."""
    from torch import nn  # only here: the names alone must not cost the import of torch

    rule = f"norm must name an nn.Module class, or a function, that takes num_channels; got {name!r}"
    if inspect.isclass(layer) and not issubclass(layer, nn.Module):
        raise ValueError(f"{rule}, a class which is no nn.Module.")
    if not callable(layer):
        raise ValueError(f"{rule}, which is a {type(layer).__name__}.")
    try:
        inspect.signature(layer).bind_partial(1)
    except TypeError:
        raise ValueError(f"{rule}, which takes no argument.") from None
    except ValueError:
        raise ValueError(f"{rule}, whose signature cannot be read.") from None
    return layer
