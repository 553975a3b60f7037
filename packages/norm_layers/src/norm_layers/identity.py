"""No normalization, as a layer."""

from torch import Tensor, nn

from norm_layers.shapes import check_input, check_positive


class NoNorm(nn.Module):
    """Give the input back, once its channels are checked.

    Shapes: input and output (N, C, *spatial). The same in training and evaluation; no parameters.

    Args:
        num_channels: C.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        check_positive("num_channels", num_channels)
        self.num_channels = num_channels
        # Backbones ask their norms for these, e.g. to start residual branches at zero.
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """Check and return an input of shape (N, C, *spatial)."""
        check_input(x, self.num_channels)
        return x

    def extra_repr(self) -> str:
        """Give the options for `repr`."""
        return str(self.num_channels)
