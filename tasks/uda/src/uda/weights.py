"""Building the network: from nothing, or from ImageNet weights whose BatchNorm is converted to any norm."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model_weights, list_models

from norm_layers import convert_norm, norm_factory
from shared.backbones import build_backbone
from shared.errors import UserError
from uda.network import DomainNetwork

CONVERSIONS = ("fold", "repeat", "fresh")
IMAGENET_CLASSES = 1000
IMAGENET = "imagenet"
"""What is given for torchvision's own weights."""


def build_network(
    backbone: str,
    *,
    norm: str,
    num_groups: int | None,
    num_classes: int,
    batch_size: int,
    weights: Path | str | None,
    conversion: str,
    stem: str | None = None,
    width: int | None = None,
) -> DomainNetwork:
    """Build the network of an adaptation.

    Args:
        backbone: A key of `shared.backbones.BACKBONES`.
        norm: Norm layer.
        num_groups: G; None for a norm without groups.
        num_classes: Classes of both domains.
        batch_size: Images of a training batch, for a norm's default G.
        weights: File with the state dict of torchvision's network of this name, with BatchNorm; "imagenet": that of
            torchvision, downloaded where it is not in torch's cache; None: random weights.
        conversion: How BatchNorm's state becomes the norm's, `statistics` of `convert_norm`.
        stem: First layers, a key of `shared.backbones.STEMS`; None: the backbone's own.
        width: Channels of the first stage of a CIFAR ResNet; None: the backbone's own.

    Raises:
        UserError: If the file is absent, no state dict, or one of another network, or cannot be downloaded.
    """
    made: set[nn.Module] = set()

    def remembered(factory: Callable[[int], nn.Module]) -> Callable[[int], nn.Module]:
        def make(num_channels: int) -> nn.Module:
            layer = factory(num_channels)
            made.add(layer)
            return layer

        return make

    if weights is None:
        factory = remembered(norm_factory(norm, num_groups=num_groups, batch_size=batch_size))
        network = build_backbone(backbone, num_classes=num_classes, norm_layer=factory, stem=stem, width=width)
        return DomainNetwork(network, made, num_classes=num_classes)
    network = build_backbone(
        backbone, num_classes=IMAGENET_CLASSES, norm_layer=nn.BatchNorm2d, stem=stem, width=width
    )  # fmt: skip
    state = fetch_weights(backbone) if weights == IMAGENET else read_weights(Path(weights))
    _load(network, state, name=backbone, path=weights)
    places = [name for name, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    convert_norm(
        network, norm, num_groups=num_groups, batch_size=batch_size, statistics=conversion,  # type: ignore[arg-type]
    )  # fmt: skip
    made = {network.get_submodule(name) for name in places}
    return DomainNetwork(network, made, num_classes=num_classes)


def fetch_weights(backbone: str) -> Mapping[str, Tensor]:
    """Return torchvision's ImageNet weights (IMAGENET1K_V1), from torch's cache or by download.

    Args:
        backbone: Name of the network.

    Raises:
        UserError: If torchvision has none of this name, or the download fails.
    """
    if backbone not in list_models(module=torchvision.models):
        raise UserError(
            f"weights must be a file for {backbone}, of which torchvision has none; got {IMAGENET}. Give a file, or "
            "backbone=resnet50."
        )
    try:
        return get_model_weights(backbone)["IMAGENET1K_V1"].get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError, a wrong checksum a RuntimeError
        raise UserError(
            f"weights={IMAGENET} must be a download that works; got: {' '.join(str(error).split())}. Fetch the file "
            "on a machine with a network and give weights=FILE."
        ) from error


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Read a state dict; nothing but tensors is unpickled.

    Args:
        path: File written by `torch.save`.

    Raises:
        UserError: If it is absent or holds no state dict.
    """
    path = path.expanduser()
    if not path.is_file():
        raise UserError(
            f"weights must be a file with the state dict of a torchvision network; got {path}, which is not there. "
            'Save one with torch.save(torchvision.models.resnet50(weights="IMAGENET1K_V1").state_dict(), FILE).'
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:80]
        raise UserError(f"weights must be a state dict of tensors; got {path}, which is none ({reason}).") from error
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"weights must be a state dict of tensors; got {path}, which holds a {type(state).__name__}.")
    return state


def _load(network: nn.Module, state: Mapping[str, Tensor], *, name: str, path: Path | str) -> None:
    own = network.state_dict()
    missing = sorted(own.keys() - state.keys() - {key for key in own if key.endswith("num_batches_tracked")})
    foreign = sorted(state.keys() - own.keys())
    other = sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape)
    if missing or foreign or other:
        facts = [f"without {missing[0]}"] if missing else []
        facts += [f"with {foreign[0]}, which {name} has not"] if foreign else []
        facts += [f"with {other[0]} of shape {tuple(state[other[0]].shape)}"] if other else []
        raise UserError(f"weights must be those of torchvision's {name}; got {path}, {', '.join(facts)}.")
    network.load_state_dict(state, strict=False)
