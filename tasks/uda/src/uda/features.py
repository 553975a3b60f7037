"""Features of a whole domain, and running statistics of the target's norms estimated anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from uda.domain_norm import PerDomain
from uda.network import DomainNetwork


@contextmanager
def evaluation(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode, and every module back into its own afterwards.

    Args:
        network: The network.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def domain_features(network: DomainNetwork, batches: Iterable[Tensor], *, domain: str) -> Float[Tensor, "N D"]:
    """Return the features of all images of a domain, in eval mode.

    Args:
        network: The network; its modes are as before afterwards.
        batches: Normalised images.
        domain: Whose norms they pass through.
    """
    with evaluation(network):
        return torch.cat([network.answer(images, domain=domain).features.float() for images in batches])


@torch.no_grad()
def recalibrate_target(network: DomainNetwork, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of the target's norms to the plain mean over batches of the target.

    The source's norms and all weights stay as they are; a norm without running statistics has nothing to set.

    Args:
        network: The network.
        batches: Normalised images of the target, each of two or more.

    Source: Li et al. 2018, adaptive batch normalization (AdaBN).
    """
    update_bn(batches, _TargetBranch(network))


class _TargetBranch(nn.Module):
    """The network as `update_bn` is to see it: only the target's norms are its modules."""

    def __init__(self, network: DomainNetwork) -> None:
        super().__init__()
        self.norms = nn.ModuleList([layer.target for layer in network.modules() if isinstance(layer, PerDomain)])
        self.pass_through = [network]  # in a list, so that its modules are not this one's

    def forward(self, images: Tensor) -> Tensor:
        """Send images through the target's norms.

        Args:
            images: Normalised images.
        """
        return self.pass_through[0].answer(images, domain="target").features
