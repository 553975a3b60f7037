"""The ResNets that He et al. built for CIFAR: three stages of basic blocks at 16, 32 and 64 channels."""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class IdentityShortcut(nn.Module):
    """Option A: every second pixel, and zeros for the channels that are new; no parameters.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, at least ``in_channels``.

    Source: He et al. 2016, section 3.3, option A.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.new_channels = out_channels - in_channels

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D Y X"]:
        """Subsample by two and append zero channels.

        Args:
            x: Input of the block.
        """
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.new_channels))


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions, each with its norm, added to the shortcut.

    ``y = relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))``

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        norm_layer: Makes a norm layer for a number of channels.
        stride: Stride of the first convolution.
        shortcut: ``"identity"`` (option A) or ``"projection"`` (option B: 1 × 1 convolution and norm); used only
            where the size changes.

    Source: He et al. 2016, figure 5 left and section 3.3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm_layer: Callable[[int], nn.Module],
        stride: int,
        shortcut: str,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm_layer(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = norm_layer(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 and shortcut == "identity":
            self.shortcut = IdentityShortcut(in_channels, out_channels)
        elif stride != 1:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, norm_layer(out_channels))

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D Y X"]:
        """Apply the block.

        Args:
            x: Input of the block.
        """
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """Stem, three stages of ``num_blocks`` basic blocks, global average pooling, linear classifier.

    Depth ``6 * num_blocks + 2``; the stages have ``width``, ``2 * width`` and ``4 * width`` channels at full, half
    and quarter resolution. Convolutions start from He's normal law (fan out), the classifier from torch's default.

    Args:
        num_blocks: Residual blocks per stage.
        num_classes: Length of the output.
        norm_layer: Makes a norm layer for a number of channels.
        width: Channels of the first stage.
        shortcut: ``"identity"`` (option A, the source's) or ``"projection"`` (option B).

    Source: He et al. 2016, section 4.2 (num_blocks 3, 5, 9: 0.27, 0.46, 0.85 million parameters, table 6).
    """

    def __init__(
        self, num_blocks: int, *, num_classes: int, norm_layer: Callable[[int], nn.Module], width: int, shortcut: str
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = norm_layer(width)
        self.maxpool: nn.Module = nn.Identity()
        stages = []
        channels = width
        for stage in range(3):
            blocks = []
            for position in range(num_blocks):
                stride = 2 if stage > 0 and position == 0 else 1
                blocks.append(
                    BasicBlock(channels, width << stage, norm_layer=norm_layer, stride=stride, shortcut=shortcut)
                )
                channels = width << stage
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3 = stages
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N classes"]:
        """Return the logits.

        Args:
            x: Normalised images.
        """
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean(dim=(2, 3)))
