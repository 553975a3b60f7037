"""WideResNet: its size, its norm layers, and its forward pass against plain functions in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from adversarial.protocol import num_groups
from adversarial.wideresnet import WideResNet
from norm_layers import audit_norms, norm_factory


@pytest.mark.parametrize(("depth", "width", "parameters"), [(10, 2, 303_706), (10, 1, 77_850), (28, 10, 36_479_194)])
def test_parameters_are_the_published_ones(depth, width, parameters):
    network = WideResNet(norm_layer=torch.nn.BatchNorm2d, depth=depth, width=width)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_the_norm_audit():
    """Seven norm layers; G = 128 divides C·H·W of each."""
    network = WideResNet(norm_layer=norm_factory("bgn", num_groups=128, batch_size=128))
    audits = audit_norms(network, torch.zeros(1, 3, 32, 32))
    shapes = [(audit.channels, audit.height) for audit in audits]
    assert shapes == [(16, 32), (32, 32), (32, 32), (64, 16), (64, 16), (128, 8), (128, 8)]
    assert [audit.channels * audit.height**2 // 128 for audit in audits] == [128, 256, 256, 128, 128, 64, 64]
    assert {audit.num_groups for audit in audits} == {128}


@pytest.mark.parametrize(("depth", "width"), [(10, 1), (16, 2)])
def test_forward_is_that_of_plain_functions(depth, width):
    torch.manual_seed(0)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    network = WideResNet(
        norm_layer=torch.nn.BatchNorm2d, depth=depth, width=width, num_classes=5, mean=mean, std=std
    ).double()
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(norm.weight)
            torch.nn.init.normal_(norm.bias)
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)

    def rectified(values, norm):
        m, v = values.mean((0, 2, 3), keepdim=True), values.var((0, 2, 3), correction=0, keepdim=True)
        return F.relu((values - m) / (v + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None])

    pixels = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    out = F.conv2d(pixels, network.conv.weight, padding=1)
    per_stage = (depth - 4) // 6
    for number, block in enumerate(network.blocks):
        stride = 2 if number in (per_stage, 2 * per_stage) else 1
        inner = rectified(out, block.norm1)
        changes = block.conv1.in_channels != block.conv1.out_channels or stride == 2
        side = F.conv2d(inner, block.shortcut.weight, stride=stride) if changes else out
        assert (block.shortcut is not None) == changes
        inner = F.conv2d(inner, block.conv1.weight, stride=stride, padding=1)
        out = F.conv2d(rectified(inner, block.norm2), block.conv2.weight, padding=1) + side
    expected = F.linear(rectified(out, network.norm).mean((2, 3)), network.classifier.weight, network.classifier.bias)
    torch.testing.assert_close(network(x), expected, rtol=1e-6, atol=1e-6)  # mean and std are float32 numbers


def test_initialisation_is_the_source_s():
    torch.manual_seed(0)
    network = WideResNet(norm_layer=torch.nn.BatchNorm2d, width=8)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 10_000:
            size = module.kernel_size[0] ** 2 * module.out_channels
            assert float(module.weight.detach().std()) == pytest.approx(math.sqrt(2 / size), rel=0.03)
    assert not network.classifier.bias.detach().any()


@pytest.mark.parametrize(
    ("settings", "message"), [({"depth": 12}, "depth must be 6n"), ({"width": 0}, "width must be")]
)
def test_other_shapes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        WideResNet(norm_layer=torch.nn.BatchNorm2d, **settings)


def test_groups_follow_the_width():
    assert [num_groups(norm, width=2) for norm in ("bgn", "gn", "gbgn", "bn", "in")] == [128, 128, 32, None, None]
    assert [num_groups("bgn", width=width) for width in (1, 4)] == [64, 256]
