"""Building a backbone by name, with any norm layer."""

from collections.abc import Callable

from torch import nn
from torchvision.models import resnet
from torchvision.models.resnet import ResNet

from shared.backbones.cifar_resnet import BasicBlock, CifarResNet
from shared.backbones.names import check_stem, resolve_backbone
from shared.errors import choose

_RESIDUAL_BLOCKS = (BasicBlock, resnet.BasicBlock, resnet.Bottleneck)
_SHORTCUTS = ("identity", "projection")


def build_backbone(
    name: str,
    *,
    num_classes: int,
    norm_layer: Callable[[int], nn.Module],
    width: int | None = None,
    stem: str | None = None,
    shortcut: str | None = None,
    zero_init_residual: bool = False,
) -> nn.Module:
    """Build a backbone with the given norm in every place of a norm.

    Modules are named as in torchvision: ``conv1``, ``bn1``, ``layer1`` …, ``fc``. Convolutions start from He's
    normal law (fan out), norms from gamma 1 and beta 0, the classifier from torch's default.

    Args:
        name: A key of `BACKBONES`. ``resnet18`` and ``resnet50`` are torchvision's (stride in the 3 × 3
            convolution, "v1.5"); ``resnet20``, ``resnet32`` and ``resnet56`` are He et al.'s for CIFAR.
        num_classes: Length of the output.
        norm_layer: Makes a norm layer for a number of channels, for instance ``norm_factory("bgn")``.
        width: Channels of the first stage of a CIFAR ResNet. None: the source's, 16.
        stem: First layers, a key of `STEMS`. None: the source's.
        shortcut: What joins two sizes in a CIFAR ResNet: ``"identity"`` (option A) or ``"projection"`` (option B).
            None: the source's, ``"identity"``.
        zero_init_residual: Whether the last norm of each block starts with gamma 0, so that the block starts as its
            shortcut (Goyal et al. 2017, section 5.1).

    Returns:
        The network: (N, 3, H, W) normalised images to (N, num_classes) logits.

    Raises:
        ValueError: An unknown name, a size below 1, an option that this backbone does not have, or
            ``zero_init_residual`` with a norm that has no gamma.
    """
    spec = resolve_backbone(name)
    stem = spec.stem if stem is None else check_stem(stem)
    for option, value in (("num_classes", num_classes), ("width", spec.width if width is None else width)):
        if value < 1:
            raise ValueError(f"{option} must be at least 1; got {value}.")
    model: ResNet | CifarResNet
    if len(spec.blocks_per_stage) == 3:
        if shortcut is not None:
            choose("shortcut", shortcut, _SHORTCUTS)
        model = CifarResNet(
            spec.blocks_per_stage[0],
            num_classes=num_classes,
            norm_layer=norm_layer,
            width=spec.width if width is None else width,
            shortcut=spec.shortcut if shortcut is None else shortcut,
        )
    else:
        for option, given in (("width", width), ("shortcut", shortcut)):
            if given is not None:
                raise ValueError(f"{option} must be left out with {name}, whose {option} is fixed; got {given}.")
        block = resnet.Bottleneck if spec.block == "bottleneck" else resnet.BasicBlock
        model = ResNet(block, list(spec.blocks_per_stage), num_classes=num_classes, norm_layer=_NormPlace)
        _fill_norm_places(model, norm_layer)
    if stem != spec.stem:
        _set_stem(model, stem)
    if zero_init_residual:
        _zero_last_gammas(model)
    return model


class _NormPlace(nn.Identity):
    """Where a norm goes: torchvision's constructor would set the gamma of a norm that has none, and fail."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels


def _fill_norm_places(module: nn.Module, norm_layer: Callable[[int], nn.Module]) -> None:
    for name, child in module.named_children():
        if isinstance(child, _NormPlace):
            setattr(module, name, norm_layer(child.channels))
        else:
            _fill_norm_places(child, norm_layer)


def _set_stem(model: ResNet | CifarResNet, stem: str) -> None:
    channels = model.conv1.out_channels
    if stem == "conv7":
        model.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        model.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
    else:
        stride = 2 if stem == "conv3_stride2" else 1
        model.conv1 = nn.Conv2d(3, channels, 3, stride=stride, padding=1, bias=False)
        model.maxpool = nn.Identity()
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")


def _zero_last_gammas(model: nn.Module) -> None:
    for block in model.modules():
        if isinstance(block, _RESIDUAL_BLOCKS):
            norm = block.bn3 if isinstance(block, resnet.Bottleneck) else block.bn2
            # a norm may be wrapped: its gamma is then <wrapper>.….weight
            gammas = [value for name, value in norm.named_parameters() if name.split(".")[-1] == "weight"]
            if len(gammas) != 1:
                raise ValueError(
                    "zero_init_residual must be False with a norm layer without a gamma; "
                    f"got {type(norm).__name__}, which has {len(gammas)} parameters named weight."
                )
            nn.init.zeros_(gammas[0])
