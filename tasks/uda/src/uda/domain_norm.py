"""Norm layers with one copy a domain: every other weight is shared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

from torch import Tensor, nn

DOMAINS = ("source", "target")


class PerDomain(nn.Module):
    """Two complete copies of a norm layer, affine parameters and running statistics included; one of them is in use.

    For a norm without running statistics the copies differ in their affine parameters only.

    Args:
        norm: The layer of the source; the target starts as its copy.

    Source: Chang et al. 2019, domain-specific batch normalization; in CAN, Kang et al. 2019, section 3.5.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.source = norm
        self.target = deepcopy(norm)
        self.domain = "source"

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the copy of the domain in use.

        Args:
            x: Input of the norm layer.
        """
        return self.source(x) if self.domain == "source" else self.target(x)


@contextmanager
def use_domain(network: nn.Module, domain: str) -> Iterator[None]:
    """Send what passes through a network through the norms of one domain; afterwards through those of before.

    Args:
        network: A network with `PerDomain` layers.
        domain: "source" or "target".

    Raises:
        ValueError: If the domain is neither, or the network has no such layer.
    """
    if domain not in DOMAINS:
        raise ValueError(f"domain must be one of {', '.join(DOMAINS)}; got {domain!r}.")
    layers = [module for module in network.modules() if isinstance(module, PerDomain)]
    if not layers:
        raise ValueError(
            f"network must have norm layers with one copy a domain; got none in {type(network).__name__}."
        )
    before = [layer.domain for layer in layers]
    try:
        for layer in layers:
            layer.domain = domain
        yield
    finally:
        for layer, name in zip(layers, before):
            layer.domain = name


def start_target_from_source(network: nn.Module) -> None:
    """Give every target copy the parameters and running statistics of its source copy.

    Args:
        network: A network with `PerDomain` layers.
    """
    for layer in network.modules():
        if isinstance(layer, PerDomain):
            layer.target.load_state_dict(layer.source.state_dict())
