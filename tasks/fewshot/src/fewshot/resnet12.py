"""ResNet-12: the feature extractor of few-shot learning, with any norm layer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shared.backbones.layout import fast_layout

WIDTHS: dict[str, tuple[int, int, int, int]] = {
    "tadam": (64, 128, 256, 512),
    "metaoptnet": (64, 160, 320, 640),
}
"""Channels of the four blocks; 8.0 and 12.4 million parameters."""
NUM_NORMS = 16
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "silu": nn.SiLU,
}


def resolve_widths(widths: str | Sequence[int]) -> tuple[int, ...]:
    """Return the channels of the four blocks.

    Args:
        widths: "tadam", "metaoptnet", or four numbers.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(widths, str):
        if widths in WIDTHS:
            return WIDTHS[widths]
    elif len(widths) == 4 and min(widths) >= 1:
        return tuple(widths)
    raise ValueError(f"widths must be one of {', '.join(WIDTHS)} or four numbers of channels; got {widths!r}.")


class Block(nn.Module):
    """Three 3 × 3 convolutions with norms beside a 1 × 1 convolution with a norm, then 2 × 2 max-pooling.

    ``y = pool(act(norm(conv(act(norm(conv(act(norm(conv(x)))))))) + norm(conv1(x))))``; all four norms see the
    block's input resolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        norm_layer: Makes a norm layer for a number of channels.
        activation: A key of `ACTIVATIONS`.

    Source: Oreshkin et al. 2018, supplementary figure 4; pooling after each block as in its text.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, norm_layer: Callable[[int], nn.Module], activation: str
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = norm_layer(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = norm_layer(out_channels)
        self.conv3 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm3 = norm_layer(out_channels)
        self.shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            norm_layer(out_channels),
        )
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D Y X"]:
        """Apply the block.

        Args:
            x: Input of the block.
        """
        out = self.activation(self.norm1(self.conv1(x)))
        out = self.activation(self.norm2(self.conv2(out)))
        out = self.activation(self.norm3(self.conv3(out)) + self.shortcut(x))
        return F.max_pool2d(out, 2)


class ResNet12(nn.Module):
    """Four blocks and global average pooling: (N, 3, H, W) images to (N, d) embeddings, d the last width.

    16 norm layers, four at each of the sizes H, H/2, H/4 and H/8 (rounded down: 84, 42, 21, 10). Convolutions start
    from He's normal law (fan out).

    Args:
        norm_layer: Makes a norm layer for a number of channels.
        widths: Channels of the four blocks.
        activation: A key of `ACTIVATIONS`.

    Raises:
        ValueError: If there are not four widths, or the activation is unknown.

    Source: Oreshkin et al. 2018 (widths 64 to 512, SiLU there), Lee et al. 2019 (64 to 640, leaky ReLU with slope
        0.1).
    """

    def __init__(
        self,
        *,
        norm_layer: Callable[[int], nn.Module],
        widths: Sequence[int] = WIDTHS["tadam"],
        activation: str = "leaky_relu",
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; got {activation!r}.")
        channels = (3, *resolve_widths(widths))
        self.embedding_size = channels[-1]
        self.blocks = nn.Sequential(
            *(Block(c, d, norm_layer=norm_layer, activation=activation) for c, d in itertools.pairwise(channels))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")

    def forward(self, x: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
        """Return the embeddings.

        Args:
            x: Normalised images, at least 16 pixels a side.
        """
        return self.blocks(fast_layout(x)).mean(dim=(2, 3))
