"""Names and facts of the backbones, without torch: for the choices of a command line and for validation."""

from dataclasses import dataclass

from shared.errors import choose


@dataclass(frozen=True)
class BackboneSpec:
    """What is known of a backbone before it is built.

    Attributes:
        title: Name in a table.
        block: ``"basic"`` (two 3 × 3 convolutions) or ``"bottleneck"`` (1 × 1, 3 × 3, 1 × 1).
        blocks_per_stage: Residual blocks in each stage.
        stem: The stem that the source uses, a key of `STEMS`.
        width: Channels of the first stage; they double from stage to stage.
        shortcut: What joins two sizes: ``"identity"`` (He et al.'s option A) or ``"projection"`` (option B).
        image_size: Side of the source's training images, in pixels.
        source: Paper and section.
    """

    title: str
    block: str
    blocks_per_stage: tuple[int, ...]
    stem: str
    width: int
    shortcut: str
    image_size: int
    source: str


_IMAGENET_SOURCE = "He et al. 2016, table 1; stride in the 3x3 convolution, as in torchvision (v1.5)"
_CIFAR_SOURCE = "He et al. 2016, section 4.2"

BACKBONES: dict[str, BackboneSpec] = {
    "resnet18": BackboneSpec(
        "ResNet-18", "basic", (2, 2, 2, 2), "conv7", 64, "projection", 224, "He et al. 2016, table 1"
    ),
    "resnet50": BackboneSpec(
        "ResNet-50", "bottleneck", (3, 4, 6, 3), "conv7", 64, "projection", 224, _IMAGENET_SOURCE
    ),
    "resnet20": BackboneSpec("ResNet-20", "basic", (3, 3, 3), "conv3", 16, "identity", 32, _CIFAR_SOURCE),
    "resnet32": BackboneSpec("ResNet-32", "basic", (5, 5, 5), "conv3", 16, "identity", 32, _CIFAR_SOURCE),
    "resnet56": BackboneSpec("ResNet-56", "basic", (9, 9, 9), "conv3", 16, "identity", 32, _CIFAR_SOURCE),
}

STEMS: dict[str, str] = {
    "conv7": "7x7 convolution of stride 2, then 3x3 max-pooling of stride 2: for images of about 224 pixels",
    "conv3": "3x3 convolution of stride 1, no pooling: for small images",
    "conv3_stride2": "3x3 convolution of stride 2, no pooling: small images at a quarter of the cost",
}


def resolve_backbone(name: str) -> BackboneSpec:
    """Return the facts of a backbone.

    Args:
        name: A key of `BACKBONES`.

    Raises:
        ValueError: The name is unknown; the message names the nearest one and all choices.
    """
    return BACKBONES[choose("backbone", name, BACKBONES)]


def check_stem(name: str) -> str:
    """Return the name of a stem if it is a key of `STEMS`.

    Args:
        name: The name to check.

    Raises:
        ValueError: The name is unknown; the message names the nearest one and all choices.
    """
    return choose("stem", name, STEMS)
