"""General Batch Group Normalization (Summers and Dinneen 2019), as the BGN paper uses it."""

from torch import Tensor

from norm_layers.base import uses_batch_statistics
from norm_layers.bgn import BatchGroupNorm
from norm_layers.groups import Uneven
from norm_layers.shapes import check_positive
from norm_layers.virtual import forward_in_chunks


class GeneralBatchGroupNorm(BatchGroupNorm):
    """General Batch Group Normalization: statistics per group of channels and group of samples.

    mu[b, g] = mean over n in ghost batch b, c in group g, h, w of f[n, c, h, w], then eq. 4-5 as in BGN.

    With the paper's setting, 32 channel groups and the whole batch, it is BGN with G = 32, and the paper's numbers
    for the two agree digit for digit. In training, ghost batches are runs of `ghost_size` consecutive samples, and
    the running statistics follow the average of theirs; in evaluation the running statistics normalise.
    Summers and Dinneen average E[x] and E[x²] instead, whose variance also holds the wandering of the mean.

    Args:
        num_channels: C.
        num_groups: Groups of channels; where it does not divide C, groups of the merged (C, H, W) axis as in BGN.
        ghost_size: Samples that share statistics in training; a batch must be a multiple of it, or smaller.
            None for the whole batch.
        eps: As in `BatchGroupNorm`, like the rest.
        momentum: Weight of a batch in the running statistics; None for the plain average over all batches.
        affine: Whether to learn a scale and a shift per channel.
        track_running_stats: Whether to keep running statistics; without them evaluation uses the batch's.
        uneven: Where G does not divide C·H·W: "split", "error" or "clamp".
        unbiased_running_var: Whether the running variance is unbiased, as in torch.

    Raises:
        ValueError: As in `BatchGroupNorm`, and on a training batch that `ghost_size` does not divide.

    Source:
        Summers and Dinneen 2019, section 3.2; BGN paper, "Comparison with baselines" and Table 2.
    """

    def __init__(
        self,
        num_channels: int,
        *,
        num_groups: int = 32,
        ghost_size: int | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        uneven: Uneven = "split",
        unbiased_running_var: bool = True,
    ) -> None:
        super().__init__(
            num_channels,
            num_groups=num_groups,
            eps=eps,
            momentum=momentum,
            affine=affine,
            track_running_stats=track_running_stats,
            uneven=uneven,
            unbiased_running_var=unbiased_running_var,
        )
        if ghost_size is not None:
            check_positive("ghost_size", ghost_size)
        self.ghost_size = ghost_size

    def forward(self, x: Tensor) -> Tensor:
        """Normalise an input of shape (N, C, *spatial)."""
        size = self.ghost_size
        if size is None or len(x) <= size or not uses_batch_statistics(self.statistics):
            return super().forward(x)
        if len(x) % size != 0:
            raise ValueError(
                f"batch size must be a multiple of ghost_size={size}, or smaller; got {len(x)}. "
                "Drop the last incomplete batch (drop_last=True)."
            )
        return forward_in_chunks(super().forward, self, x.split(size), running_statistics="mean")

    def extra_repr(self) -> str:
        """Give the options for `repr`."""
        return f"{super().extra_repr()}, ghost_size={self.ghost_size}"
