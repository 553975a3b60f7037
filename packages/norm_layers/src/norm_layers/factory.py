"""Build norm layers by name."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from norm_layers.base import check_momentum
from norm_layers.gn import FALLBACK_CHOICES, Fallback
from norm_layers.groups import UNEVEN_CHOICES, Uneven
from norm_layers.registry import NORMS, default_num_groups, load_norm
from norm_layers.shapes import check_choice, check_positive
from norm_layers.statistics import is_batch_statistic_norm
from norm_layers.virtual import BUILT_AS_NORM, VirtualWorkerNorm

# What every norm is offered and takes if it has a use for it; an option not among these is an error elsewhere.
_COMMON = ("eps", "momentum", "affine", "track_running_stats")
_OWN = ("num_groups", "fallback", "uneven", "unbiased_running_var", "ghost_size")


@dataclass(frozen=True)
class NormFactory:
    """A `callable(num_channels)` that builds one kind of norm, as torchvision-style backbones take it.

    It can be pickled, copied and compared, and checks its options when it is made.

    Args:
        name: Key of `NORMS`, or "package.module:Class" for a norm from outside. That one gets, of the options
            below, those that its signature names; `num_channels` by keyword if named so, else first.
        num_groups: G. None for the paper's default (`default_num_groups`), or the outside norm's own.
        batch_size: Samples per worker and step, for the default G of BGN. None where G is given or not needed.
        eps: Added to the variance, in the input's units squared.
        momentum: Weight of a batch in the running statistics; None for the plain average over all batches.
            Like track_running_stats, of no effect on norms without running statistics.
        affine: Whether to learn a scale and a shift per channel.
        track_running_stats: Whether to keep running statistics.
        virtual_workers: V; batch statistics per V-th part of a training batch (`VirtualWorkerNorm`), also where
            they are those of a layer inside an outside norm.
        fallback: GN where G does not divide C: "flat", "divisor" or "error". None for the layer's default, "flat".
        uneven: BGN and GBGN where G does not divide C·H·W: "split", "error" or "clamp". None for "split".
        unbiased_running_var: BGN and GBGN: unbiased running variance. None for True.
        ghost_size: GBGN: samples that share statistics. None for the whole batch.

    Raises:
        ValueError: If the name is unknown, the norm does not have an option that is given, or an outside norm needs
            an argument that is not given. When called, also if an outside norm cannot be built.
    """

    name: str
    num_groups: int | None = None
    batch_size: int | None = None
    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = True
    track_running_stats: bool = True
    virtual_workers: int = 1
    fallback: Fallback | None = None
    uneven: Uneven | None = None
    unbiased_running_var: bool | None = None
    ghost_size: int | None = None

    def __post_init__(self) -> None:
        """Resolve the name and check the options, before any layer is built."""
        check_positive("virtual_workers", self.virtual_workers)
        check_positive("eps", self.eps)
        check_momentum(self.momentum)
        for option, choices in (("fallback", FALLBACK_CHOICES), ("uneven", UNEVEN_CHOICES)):
            if getattr(self, option) is not None:
                check_choice(option, getattr(self, option), choices)
        for option in ("num_groups", "ghost_size"):
            if getattr(self, option) is not None:
                check_positive(option, getattr(self, option))
        self._check_arguments(self._layer_options())

    def __call__(self, num_channels: int) -> nn.Module:
        """Build the layer for `num_channels` channels."""
        layer = load_norm(self.name)
        options = self._layer_options()
        arguments: tuple[int, ...] = (num_channels,)
        if "num_channels" in inspect.signature(layer).parameters:
            arguments, options = (), {"num_channels": num_channels, **options}
        try:
            norm = layer(*arguments, **options)
        except Exception as error:
            if self.name in NORMS:
                raise
            given = ", ".join(f"{key}={value!r}" for key, value in options.items() if key != "num_channels")
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(
                f"norm {self.name!r} must build from num_channels={num_channels}{given and ', '}{given}; got {reason}"
            ) from error
        if not isinstance(norm, nn.Module):
            raise ValueError(f"norm must build an nn.Module; got a {type(norm).__name__} from {self.name!r}.")
        setattr(norm, BUILT_AS_NORM, True)
        if self.virtual_workers > 1 and any(is_batch_statistic_norm(module) for module in norm.modules()):
            return VirtualWorkerNorm(norm, self.virtual_workers)
        return norm

    def __repr__(self) -> str:
        """Show the name and the options that are not at their default."""
        changed = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)[1:]
            if getattr(self, field.name) != field.default
        ]
        return f"norm_factory({', '.join([repr(self.name), *changed])})"

    def _layer_options(self) -> dict[str, Any]:
        """Give the keyword arguments for the layer's constructor; raise for an option that it does not have."""
        parameters = inspect.signature(load_norm(self.name)).parameters
        options = {option: getattr(self, option) for option in _COMMON if option in parameters}
        given = {option: getattr(self, option) for option in _OWN if getattr(self, option) is not None}
        for option, value in given.items():
            if option not in parameters:
                having = [name for name in NORMS if option in inspect.signature(load_norm(name)).parameters]
                raise ValueError(
                    f"{option} must be None for norm {self.name!r}, which does not have it; got {value!r}. "
                    f"Norms with {option}: {', '.join(having)}."
                )
        if "num_groups" in parameters and "num_groups" not in given:
            default = default_num_groups(self.name, batch_size=self.batch_size)
            given |= {} if default is None else {"num_groups": default}
        return options | given

    def _check_arguments(self, options: dict[str, Any]) -> None:
        """Raise if the layer cannot be called with `num_channels` and these options."""
        signature = inspect.signature(load_norm(self.name))
        named = {"num_channels": 1} if "num_channels" in signature.parameters else {}
        first = () if named else (1,)
        rule = f"norm {self.name!r} must be callable with num_channels"
        try:
            bound = signature.bind_partial(*first, **named, **options)
        except TypeError as error:
            raise ValueError(f"{rule} and {', '.join(options)}; got {error}. Wrap it in a function.") from None
        missing = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            and parameter.name not in bound.arguments
        ]
        if missing:
            advice = (
                f"Give {' and '.join(missing)}"
                if set(missing) <= set(_OWN)
                else "Wrap it in a function of num_channels that gives them"
            )
            raise ValueError(f"{rule} and the options given; got no value for {', '.join(missing)}. {advice}.")


norm_factory: Callable[..., NormFactory] = NormFactory


def make_norm(
    name: str,
    num_channels: int,
    *,
    num_groups: int | None = None,
    batch_size: int | None = None,
    eps: float = 1e-5,
    momentum: float | None = 0.1,
    affine: bool = True,
    track_running_stats: bool = True,
    virtual_workers: int = 1,
    fallback: Fallback | None = None,
    uneven: Uneven | None = None,
    unbiased_running_var: bool | None = None,
    ghost_size: int | None = None,
) -> nn.Module:
    """Build one norm layer by name.

    Args:
        name: Key of `NORMS`, or "package.module:Class".
        num_channels: C, the size of axis 1 of the input.
        num_groups: As in `NormFactory`, like the rest.
        batch_size: Samples per worker and step, for the default G of BGN.
        eps: Added to the variance, in the input's units squared.
        momentum: Weight of a batch in the running statistics; None for the plain average over all batches.
        affine: Whether to learn a scale and a shift per channel.
        track_running_stats: Whether to keep running statistics.
        virtual_workers: V; batch statistics per V-th part of a training batch.
        fallback: GN where G does not divide C. None for "flat".
        uneven: BGN and GBGN where G does not divide C·H·W. None for "split".
        unbiased_running_var: BGN and GBGN: unbiased running variance. None for True.
        ghost_size: GBGN: samples that share statistics. None for the whole batch.

    Returns:
        The layer, wrapped in `VirtualWorkerNorm` if it has batch statistics and virtual_workers is above 1.

    Raises:
        ValueError: As in `NormFactory` and the layer's constructor.
    """
    return norm_factory(
        name,
        num_groups=num_groups,
        batch_size=batch_size,
        eps=eps,
        momentum=momentum,
        affine=affine,
        track_running_stats=track_running_stats,
        virtual_workers=virtual_workers,
        fallback=fallback,
        uneven=uneven,
        unbiased_running_var=unbiased_running_var,
        ghost_size=ghost_size,
    )(num_channels)
