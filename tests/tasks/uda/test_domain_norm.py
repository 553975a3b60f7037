"""Norm layers with one copy a domain."""

import contextlib

import pytest
import torch
from torch import nn

from norm_layers import make_norm, norm_factory
from norm_layers.registry import NORMS
from shared.backbones import build_backbone
from uda.domain_norm import PerDomain, start_target_from_source, use_domain

NAMES = [name for name in NORMS if name != "none"]


@pytest.mark.parametrize("norm", NAMES)
def test_each_domain_moves_its_own_copy(norm):
    torch.manual_seed(0)
    layer = PerDomain(make_norm(norm, 8, **({"num_groups": 4} if NORMS[norm].has_groups else {})))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = 3 + 2 * torch.randn(6, 8, 5, 5)
    with use_domain(layer, "target"):
        layer(x).square().sum().backward()
    moved = {name for name, value in layer.state_dict().items() if not torch.equal(value, before[name])}
    assert all(name.startswith("target.") for name in moved)
    assert bool(moved) == NORMS[norm].has_running_statistics
    assert layer.source.weight.grad is None
    assert layer.target.weight.grad is not None
    assert layer.domain == "source"


def test_a_network_has_one_copy_a_domain_of_every_norm_and_shares_the_rest():
    plain = build_backbone("resnet18", num_classes=5, norm_layer=norm_factory("bgn", num_groups=8))
    factory = norm_factory("bgn", num_groups=8)
    network = build_backbone("resnet18", num_classes=5, norm_layer=lambda size: PerDomain(factory(size)))
    layers = [module for module in network.modules() if isinstance(module, PerDomain)]
    assert len(layers) == 20
    norms = sum(parameter.numel() for layer in layers for parameter in layer.source.parameters())
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == sum(parameter.numel() for parameter in plain.parameters()) + norms


def test_the_target_starts_from_the_source():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), PerDomain(make_norm("bn", 4)))
    x = torch.randn(5, 3, 9, 9)
    network(x)
    network.eval()
    with use_domain(network, "target"):
        assert not torch.equal(network(x), network[1].source(network[0](x)))
        start_target_from_source(network)
        assert torch.equal(network(x), network[1].source(network[0](x)))


def test_a_domain_is_one_of_two_and_is_restored():
    network = nn.Sequential(PerDomain(make_norm("bn", 4)))
    with (
        pytest.raises(ValueError, match="domain must be one of source, target; got 'webcam'"),
        use_domain(network, "webcam"),
    ):
        pass
    with contextlib.suppress(RuntimeError), use_domain(network, "target"):
        assert network[0].domain == "target"
        raise RuntimeError
    assert network[0].domain == "source"
    with pytest.raises(ValueError, match="got none in Conv2d"), use_domain(nn.Conv2d(3, 3, 1), "source"):
        pass
