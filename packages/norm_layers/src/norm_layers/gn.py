"""Group Normalization (Wu and He 2018)."""

from typing import Literal, get_args

from torch import Tensor

from norm_layers.base import ChannelAffine
from norm_layers.instance_functional import flat_group_norm, group_norm
from norm_layers.shapes import check_choice, check_input, check_positive, warn_once

Fallback = Literal["flat", "divisor", "error"]
FALLBACK_CHOICES: tuple[Fallback, ...] = get_args(Fallback)


class GroupNorm(ChannelAffine):
    """Group Normalization: one mean and variance per sample and group of channels.

    mu[n, g] = mean over c in group g, h, w of f[n, c, h, w]; y = weight[c] · (f - mu) / sqrt(var + eps) + bias[c].

    Shapes: input and output (N, C, *spatial); weight and bias (C,). The same in training and evaluation.
    Where G does not divide C, as for 32 groups in a net of 36 channels, `fallback` decides; it is logged once.

    Args:
        num_channels: C.
        num_groups: G.
        eps: Added to the variance, in the input's units squared.
        affine: Whether to learn a scale and a shift per channel.
        fallback: Where G does not divide C: "flat" takes G groups of the merged (C, H, W) axis, "divisor" the
            largest divisor of C below G, "error" raises.

    Raises:
        ValueError: If an option is out of range, or G does not divide C under "error".

    Source:
        BGN paper, eq. 6-7 and 4-5.
    """

    def __init__(
        self,
        num_channels: int,
        *,
        num_groups: int = 32,
        eps: float = 1e-5,
        affine: bool = True,
        fallback: Fallback = "flat",
    ) -> None:
        super().__init__(num_channels, eps=eps, affine=affine)
        check_positive("num_groups", num_groups)
        check_choice("fallback", fallback, FALLBACK_CHOICES)
        self.fallback: Fallback = fallback
        self.requested_groups = num_groups
        self.num_groups = num_groups
        self.is_flat = False
        if num_channels % num_groups == 0:
            return
        if fallback == "error":
            raise ValueError(
                f"num_groups must divide num_channels under fallback='error'; got {num_groups} groups for "
                f"{num_channels} channels. Take another G, or fallback='flat' or 'divisor'."
            )
        if fallback == "divisor":
            self.num_groups = max(g for g in range(1, num_groups) if num_channels % g == 0)
            used = f"{self.num_groups} groups, the largest divisor below it"
        else:
            self.is_flat = True
            used = f"{num_groups} flat groups over C·H·W"
        warn_once(f"GroupNorm: G={num_groups} does not divide C={num_channels}; taking {used}.")

    def forward(self, x: Tensor) -> Tensor:
        """Normalise an input of shape (N, C, *spatial)."""
        check_input(x, self.num_channels)
        normalise = flat_group_norm if self.is_flat else group_norm
        return normalise(x, self.weight, self.bias, num_groups=self.num_groups, eps=self.eps)

    def extra_repr(self) -> str:
        """Give the options for `repr`."""
        return f"{super().extra_repr()}, num_groups={self.num_groups}" + (
            f", fallback={self.fallback!r} from {self.requested_groups}"
            if self.num_channels % self.requested_groups
            else ""
        )
