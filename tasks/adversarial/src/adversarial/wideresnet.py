"""WideResNet with any norm layer; takes pixels in [0, 1] and normalises them itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shared.backbones.layout import fast_layout

STAGES = (16, 32, 64)
"""Channels of the three stages at width 1."""


class Block(nn.Module):
    """Norm, ReLU, convolution, twice, added to the input.

    Where the channels change, the input of both branches is the first norm's rectified output, and a 1 × 1 convolution
    makes the shortcut; elsewhere the shortcut is the block's own input.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        norm_layer: Makes a norm layer for a number of channels.
        stride: Stride of the first convolution.

    Source: Zagoruyko and Komodakis 2016, figure 1(c), B(3, 3).
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, norm_layer: Callable[[int], nn.Module], stride: int
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm2 = norm_layer(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if in_channels != out_channels or stride != 1:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D Y X"]:
        """Apply the block.

        Args:
            x: Input of the block.
        """
        out = F.relu(self.norm1(x))
        side = x if self.shortcut is None else self.shortcut(out)
        out = self.conv2(F.relu(self.norm2(self.conv1(out))))
        return out + side


class WideResNet(nn.Module):
    """Stem without a norm, three stages of pre-activated blocks, norm, ReLU, average pooling, linear classifier.

    Depth 6n + 4 with n blocks a stage, 16k, 32k and 64k channels; 6n + 1 norm layers. Depth 10, width 2 and 10
    classes: 303,706 parameters, 7 norm layers. Convolutions of size s × s start from N(0, 2 / (s² C_out)), the
    classifier's bias at 0.

    Args:
        norm_layer: Makes a norm layer for a number of channels.
        depth: 6n + 4.
        width: k.
        num_classes: Length of the output.
        mean: Mean of each channel of the pixels, on the scale [0, 1].
        std: Standard deviation of each.

    Raises:
        ValueError: If the depth is not 6n + 4 with n of at least 1, or the width is below 1.

    Source: Zagoruyko and Komodakis 2016, table 1, without dropout.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        norm_layer: Callable[[int], nn.Module],
        depth: int = 10,
        width: int = 2,
        num_classes: int = 10,
        mean: tuple[float, ...] = (0.0, 0.0, 0.0),
        std: tuple[float, ...] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6n + 4 with n of at least 1 (10, 16, 22, 28, 34 …); got {depth}.")
        if width < 1:
            raise ValueError(f"width must be at least 1; got {width}.")
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        channels = STAGES[0]
        self.conv = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        blocks = []
        for stage, base in enumerate(STAGES):
            for number in range((depth - 4) // 6):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(Block(channels, base * width, norm_layer=norm_layer, stride=stride))
                channels = base * width
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm_layer(channels)
        self.classifier = nn.Linear(channels, num_classes)
        nn.init.zeros_(self.classifier.bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                size = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2 / size))

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N classes"]:
        """Return the logits.

        Args:
            images: Pixels in [0, 1].
        """
        out = self.blocks(self.conv(fast_layout((images - self.mean) / self.std)))
        return self.classifier(F.relu(self.norm(out)).mean(dim=(2, 3)))
