"""Batch Group Normalization (Zhou et al. 2020)."""

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn

from norm_layers.base import ChannelAffine, FloatStatistics, check_momentum, lift_half, normalise, tensor_of
from norm_layers.fold import NormState, fold_batch_norm
from norm_layers.groups import UNEVEN_CHOICES, Uneven, groups_in_force
from norm_layers.plain import channel_affine
from norm_layers.shapes import (
    check_choice,
    check_input,
    check_positive,
    describe_shape,
    restore_memory_format,
    warn_once,
)
from norm_layers.sync_functional import AllReduce


class BatchGroupNorm(FloatStatistics, ChannelAffine):
    """Batch Group Normalization: one mean and variance per group of the merged (C, H, W) axis, over the whole batch.

    mu[g] = mean over n, d in group g of f[n, d]; y = weight[c] · (f - mu[g]) / sqrt(var[g] + eps) + bias[c].

    Shapes: input and output (N, C, *spatial); D = C·H·W with C slowest, cut into G contiguous groups; weight and
    bias (C,); running statistics (G,). In training the batch's statistics normalise and the running ones follow;
    in evaluation the running ones normalise. G = C is batch normalization.

    The running statistics live in the child `statistics`, an `nn.BatchNorm1d(G, affine=False)`, so that torch's
    tools for batch norm (convert_sync_batchnorm, update_bn, torch.func.replace_all_batch_norm_modules_, freezing)
    work on it. They are float32 in a half-precision model.

    A state dict of `nn.BatchNorm2d` loads: its statistics are folded so that evaluation gives the same output at
    every resolution. A state dict does not say which eps it was trained with; this layer's own is taken. Where that
    differs, or training goes on at G above C, load it into a net of batch norms and use `convert_norm`, which knows
    eps and has `statistics="repeat"`.

    The state dict also tells, as extra state, the spatial shape of the last training batch: where G does not divide
    C, running statistics belong to places in the map, and evaluation at another shape is logged once.

    Args:
        num_channels: C.
        num_groups: G, at most C·H·W. A large batch wants a large G; the paper's choice is `default_num_groups`.
        eps: Added to the variance, in the input's units squared.
        momentum: Weight of a batch in the running statistics; None for the plain average over all batches.
        affine: Whether to learn a scale and a shift per channel.
        track_running_stats: Whether to keep running statistics; without them evaluation uses the batch's.
        uneven: Where G does not divide C·H·W: "split" takes groups whose sizes differ by at most one (logged once),
            "error" raises, "clamp" splits and takes C·H·W groups where G is above that.
        unbiased_running_var: Whether the running variance is unbiased, as in torch, or biased (eq. 9 by the letter).

    Raises:
        ValueError: If an option is out of range; on a forward pass, if G does not fit the input's shape, or a group
            has a single value in a training batch.

    Source:
        BGN paper, eq. 8-9 with S = D/G, and eq. 4-5.
    """

    _version = 2  # 2: the spatial shape of training as extra state; state dicts without it load too

    def __init__(
        self,
        num_channels: int,
        *,
        num_groups: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        uneven: Uneven = "split",
        unbiased_running_var: bool = True,
    ) -> None:
        super().__init__(num_channels, eps=eps, affine=affine)
        check_positive("num_groups", num_groups)
        check_momentum(momentum)
        check_choice("uneven", uneven, UNEVEN_CHOICES)
        self.num_groups = num_groups
        self.uneven: Uneven = uneven
        self.unbiased_running_var = unbiased_running_var
        self.statistics: nn.BatchNorm1d | nn.SyncBatchNorm = nn.BatchNorm1d(
            num_groups, eps=eps, momentum=momentum, affine=False, track_running_stats=track_running_stats
        )
        self.all_reduce: AllReduce | None = None
        self._trained_spatial: tuple[int, ...] | None = None
        self._lift_statistics()

    def forward(self, x: Tensor) -> Tensor:
        """Normalise an input of shape (N, C, *spatial)."""
        check_input(x, self.num_channels)
        statistics, spatial = self.statistics, tuple(x.shape[2:])
        compiles = torch.compiler.is_compiling()
        if not compiles:
            evaluates = not statistics.training and tensor_of(statistics, "running_mean") is not None
            self._report_shape(x.shape, ties_places=evaluates)
        # Under a compiler without the comparison, which would be one more thing to compile anew for.
        is_new = compiles or self._trained_spatial != spatial
        if is_new and self._updates_statistics and not torch.compiler.is_exporting():
            self._trained_spatial = spatial
        if isinstance(statistics, nn.SyncBatchNorm):
            return self._forward_synchronised(x)
        return normalise(
            x,
            statistics,
            tensor_of(self, "weight"),
            tensor_of(self, "bias"),
            num_groups=self.num_groups,
            uneven=self.uneven,
            unbiased_running_var=self.unbiased_running_var,
            all_reduce=self.all_reduce,
        )

    def reset_parameters(self) -> None:
        """Set the scale to 1, the shift to 0 and the running statistics to mean 0 and variance 1."""
        super().reset_parameters()
        self.statistics.reset_running_stats()
        self._trained_spatial = None

    def get_extra_state(self) -> Tensor:
        """Give the spatial shape of the last training batch: three sizes, -1 for axes not there, 0 if unknown."""
        spatial = (0, 0, 0) if self._trained_spatial is None else self._trained_spatial
        return torch.tensor([*spatial, *[-1] * (3 - len(spatial))], device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Take the spatial shape of the last training batch from a state dict.

        Args:
            state: As `get_extra_state` gives it.
        """
        sizes = state.tolist()
        self._trained_spatial = tuple(size for size in sizes if size >= 0) if any(sizes) else None

    def extra_repr(self) -> str:
        """Give the options for `repr`; momentum and tracking are shown by the child."""
        return f"{self.num_channels}, num_groups={self.num_groups}, eps={self.eps}, affine={self.affine}, " + (
            f"uneven={self.uneven!r}, unbiased_running_var={self.unbiased_running_var}"
        )

    @property
    def _updates_statistics(self) -> bool:
        """Whether a forward pass moves the running statistics now."""
        owner = self.statistics
        return owner.training and owner.track_running_stats and owner.running_mean is not None

    def _forward_synchronised(self, x: Tensor) -> Tensor:
        """Normalise through the SyncBatchNorm that `convert_sync_batchnorm` put in the child's place."""
        if self._updates_statistics and not self.unbiased_running_var:
            raise ValueError(
                "unbiased_running_var must be True under nn.SyncBatchNorm, which knows no other; got False. "
                "Use norm_layers.synchronise_statistics instead of convert_sync_batchnorm."
            )
        num_groups = groups_in_force(x.shape, num_groups=self.num_groups, uneven=self.uneven)
        num_elements = math.prod(x.shape[1:])
        if num_elements % num_groups != 0 or num_groups != self.num_groups:
            raise ValueError(
                "num_groups must divide D = C·H·W under nn.SyncBatchNorm; got "
                f"{describe_shape(x.shape, self.num_groups)}. Use norm_layers.synchronise_statistics instead."
            )
        grouped = x.reshape(len(x), num_groups, num_elements // num_groups)
        y = self.statistics(grouped).view(x.shape)
        return restore_memory_format(channel_affine(y, x, self.weight, self.bias), x)

    def _report_shape(self, shape: torch.Size, *, ties_places: bool) -> None:
        """Log, once per message, that groups are uneven or that running statistics belong to other places."""
        trained = self._trained_spatial if ties_places else None
        for message in _shape_messages(tuple(shape[1:]), self.num_groups, self.uneven, trained):
            warn_once(message)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load; fold the keys of a plain batch norm (statistics per channel, no `statistics.` prefix) first."""
        if prefix + "running_mean" in state_dict:
            try:
                self._fold_batch_norm_keys(state_dict, prefix)
            except ValueError as error:
                error_messages: list[str] = args[-1]
                error_messages.append(f"{prefix}running_mean: {error}")
                return
        if prefix + "statistics.running_mean" in state_dict:
            self._trained_spatial = None  # the old one does not belong to these statistics
        super()._load_from_state_dict(state_dict, prefix, *args)
        # Batch norms, and this layer up to version 1, do not save it; nor does a batch norm's own version tell.
        missing_keys: list[str] = args[2]
        if prefix + "_extra_state" in missing_keys:
            missing_keys.remove(prefix + "_extra_state")

    def _fold_batch_norm_keys(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Replace the keys of a batch norm by those of this layer, with the same output in evaluation."""
        mean, var = (lift_half(state_dict.pop(prefix + name)) for name in ("running_mean", "running_var"))
        count = state_dict.pop(prefix + "num_batches_tracked", torch.zeros((), dtype=torch.long))
        if self.statistics.running_mean is None:
            raise ValueError("track_running_stats must be True to load the running statistics of a batch norm.")
        if mean.shape != (self.num_channels,):
            raise ValueError(
                f"running_mean of a batch norm must have {self.num_channels} elements; got {tuple(mean.shape)}."
            )
        affine = [state_dict.get(prefix + name) for name in ("weight", "bias")]
        if self.weight is not None:  # folded in the dtype of this layer: a half-precision one would round
            affine = [None if p is None else p.to(torch.promote_types(p.dtype, self.weight.dtype)) for p in affine]
        source = NormState(mean, var, *affine)
        folded = fold_batch_norm(source, num_groups=self.num_groups, source_eps=self.eps, eps=self.eps)
        if folded.weight is not None and not self.affine:
            raise ValueError(
                f"affine must be True to fold a batch norm of {self.num_channels} channels into "
                f"{self.num_groups} groups; got False."
            )
        state_dict[prefix + "statistics.running_mean"] = folded.running_mean
        state_dict[prefix + "statistics.running_var"] = folded.running_var
        state_dict[prefix + "statistics.num_batches_tracked"] = count
        if folded.weight is not None and folded.bias is not None:
            state_dict[prefix + "weight"], state_dict[prefix + "bias"] = folded.weight, folded.bias


@functools.lru_cache(maxsize=1024)
def _shape_messages(
    shape: tuple[int, ...], num_groups: int, uneven: Uneven, trained_spatial: tuple[int, ...] | None
) -> tuple[str, ...]:
    """Say what is to be logged about G at samples of shape (C, *spatial).

    Args:
        shape: Shape of a sample.
        num_groups: G.
        uneven: As in `groups_in_force`.
        trained_spatial: Spatial shape of training, where the running statistics normalise now. None: no matter.

    Returns:
        The messages, mostly none.
    """
    num_channels, *spatial = shape
    num_elements = math.prod(shape)
    messages = []
    if num_elements % num_groups != 0 and num_elements > num_groups and uneven != "error":
        size = num_elements // num_groups
        messages.append(
            f"BatchGroupNorm: G={num_groups} does not divide C·H·W={num_elements} "
            f"(C={num_channels}, spatial {tuple(spatial)}); groups of {size + 1} and {size} elements."
        )
    if num_channels % num_groups != 0 and trained_spatial not in (None, tuple(spatial)):
        messages.append(
            f"BatchGroupNorm: G={num_groups} ties running statistics to places in the map "
            f"(C={num_channels}); trained at spatial {trained_spatial}, evaluated at {tuple(spatial)}."
        )
    return tuple(messages)
