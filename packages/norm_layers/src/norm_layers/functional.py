"""Batch Group Normalization as a pure function: the fastest route that is exact for the input at hand.

Legend: N batch, C channels, `spatial` any axes after them, D = C·H·W, G groups, S = D/G elements of a group.
The merged axis d runs over the logical (C, H, W) with C slowest, and group g covers a contiguous run of it.
"""

from torch import Tensor

from norm_layers.fused import fused_batch_group_norm
from norm_layers.groups import Uneven, group_blocks
from norm_layers.plain import plain_batch_group_norm
from norm_layers.shapes import Float

__all__ = ["batch_group_norm", "group_blocks"]


def batch_group_norm(
    x: Float[Tensor, "N C *spatial"],
    running_mean: Float[Tensor, " G"] | None,
    running_var: Float[Tensor, " G"] | None,
    weight: Float[Tensor, " C"] | None,
    bias: Float[Tensor, " C"] | None,
    *,
    num_groups: int,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    uneven: Uneven = "split",
    unbiased_running_var: bool = True,
) -> Float[Tensor, "N C *spatial"]:
    """Normalise groups of the merged (C, H, W) axis by statistics over the batch and the group.

    m_g = mean over n and d in group g of f[n, d], v_g = mean of (f[n, d] - m_g)² (biased), then
    y[n, d] = weight[c(d)] · (f[n, d] - m_g(d)) / sqrt(v_g(d) + eps) + bias[c(d)] with c(d) = d // (H·W).

    Training: m_g and v_g are the batch's, and the running statistics, where given, are updated in place:
    r ← r + momentum · (batch value - r). Evaluation: m_g and v_g are the running statistics.
    With G = C this is batch normalization, bit for bit in its running statistics.

    A kernel of its own (`norm_layers.fused`) is taken where there is one for the device, which keeps x and the
    statistics for the backward pass and nothing else; everything else takes torch's own operations
    (`norm_layers.plain`). The routes agree to the rounding of the dtype.

    Args:
        x: Input of shape (N, C, *spatial), any floating dtype; half precision accumulates in float32.
        running_mean: Running m_g of shape (G,), float32 beside half-precision input. None: not kept.
        running_var: Running v_g of shape (G,). None: not kept.
        weight: Scale gamma per channel. None: 1.
        bias: Shift beta per channel. None: 0.
        num_groups: G.
        training: Whether to normalise by the batch's statistics.
        momentum: Weight of this batch in the running statistics, from 0 to 1.
        eps: Added to the variance, in the input's units squared.
        uneven: As in `groups_in_force`.
        unbiased_running_var: Whether the running variance takes v_g · n/(n-1), as torch does, or v_g (eq. 9).

    Returns:
        Output of the shape, dtype and memory format of x.

    Raises:
        ValueError: If G does not fit the shape, a statistic has one value in training, or evaluation has no
            running statistics.

    Source:
        BGN paper, eq. 8, 9, 4 and 5.
    """
    has_statistics = training or (running_mean is not None and running_var is not None)
    if has_statistics and num_groups != x.shape[1] and x.numel() > 0:
        y = fused_batch_group_norm(
            x,
            running_mean,
            running_var,
            weight,
            bias,
            num_groups=num_groups,
            training=training,
            momentum=momentum,
            eps=eps,
            uneven=uneven,
            unbiased_running_var=unbiased_running_var,
        )
        if y is not None:
            return y
    return plain_batch_group_norm(
        x,
        running_mean,
        running_var,
        weight,
        bias,
        num_groups=num_groups,
        training=training,
        momentum=momentum,
        eps=eps,
        uneven=uneven,
        unbiased_running_var=unbiased_running_var,
    )
