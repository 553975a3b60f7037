"""The inputs of the norm layers of the nets that the suite trains, with the group numbers of the paper."""

from dataclasses import dataclass

from norm_layers import default_num_groups

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Net:
    """The norm layers of one net.

    Args:
        title: Name for tables.
        shapes: (C, H, W) of every norm layer, each once.
        num_groups: G of BGN and GN where the paper states one for the net; None for BGN's by batch size and GN's 32.
    """

    title: str
    shapes: tuple[Shape, ...]
    num_groups: int | None = None

    def bgn_groups(self, batch_size: int) -> int | None:
        """Give G of BGN: the paper's for the net, or for the batch size."""
        return default_num_groups("bgn", batch_size=batch_size) if self.num_groups is None else self.num_groups

    def gn_groups(self) -> int:
        """Give G of GN."""
        return self.num_groups if self.num_groups == 128 else 32


NETS = {
    "resnet50": Net(
        "ResNet-50 at 224 px",
        (
            *((64, 112, 112), (64, 56, 56), (128, 56, 56), (256, 56, 56), (128, 28, 28), (256, 28, 28)),
            *((512, 28, 28), (256, 14, 14), (512, 14, 14), (1024, 14, 14), (512, 7, 7), (2048, 7, 7)),
        ),
    ),
    "wrn": Net("WRN-10-2 at 32 px", ((16, 32, 32), (32, 32, 32), (64, 16, 16), (128, 8, 8)), 128),
    "resnet12": Net("ResNet-12 at 84 px", ((64, 84, 84), (128, 42, 42), (256, 21, 21), (512, 10, 10)), 256),
    "resnet12_wide": Net(
        "ResNet-12 (64-160-320-640) at 84 px", ((64, 84, 84), (160, 42, 42), (320, 21, 21), (640, 10, 10)), 256
    ),
    "darts_search": Net(
        "DARTS search, C = 16",
        ((16, 32, 32), (32, 32, 32), (48, 32, 32), (32, 16, 16), (64, 16, 16), (64, 8, 8)),
        256,
    ),
    "darts_retrain": Net(
        "DARTS retraining, C = 36",
        (
            *((36, 32, 32), (72, 32, 32), (108, 32, 32), (72, 16, 16), (144, 16, 16), (144, 8, 8), (128, 2, 2)),
            (768, 1, 1),
        ),
        256,
    ),
}
