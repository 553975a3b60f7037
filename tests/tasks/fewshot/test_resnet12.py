"""ResNet-12: its size, its norm layers, and its forward pass against plain functions in float64."""

import pytest
import torch
import torch.nn.functional as F

from fewshot.module import FewshotModule
from fewshot.resnet12 import NUM_NORMS, WIDTHS, ResNet12
from norm_layers import audit_norms


@pytest.mark.parametrize(("widths", "millions"), [("tadam", 7_996_800), ("metaoptnet", 12_424_320)])
def test_parameters_are_the_published_ones(widths, millions):
    """8.00 M and 12.42 M without a classifier."""
    network = ResNet12(norm_layer=torch.nn.BatchNorm2d, widths=WIDTHS[widths])
    assert sum(parameter.numel() for parameter in network.parameters()) == millions


def test_the_norm_audit_at_84_pixels():
    """Four norms a block, all at the block's input size; G = 256 divides every one and is BN itself in block 3."""
    module = FewshotModule(norm="bgn")
    module.build_network(64)
    audits = audit_norms(module.network, torch.zeros(1, 3, 84, 84))
    assert len(audits) == NUM_NORMS
    shapes = [(audit.channels, audit.height, audit.width) for audit in audits]
    assert shapes == [(c, s, s) for c, s in ((64, 84), (128, 42), (256, 21), (512, 10)) for _ in range(4)]
    assert {audit.num_groups for audit in audits} == {256}
    assert all((a.channels * a.height * a.width) % 256 == 0 for a in audits)
    assert [bool(a.equivalent) for a in audits] == [False] * 8 + [True] * 4 + [False] * 4


def test_the_norm_audit_at_84_pixels_with_metaoptnet_s_widths():
    module = FewshotModule(norm="bgn", widths="metaoptnet")
    module.build_network(64)
    sizes = {a.channels * a.height * a.width for a in audit_norms(module.network, torch.zeros(1, 3, 84, 84))}
    assert sizes == {64 * 84 * 84, 160 * 42 * 42, 320 * 21 * 21, 640 * 10 * 10}
    assert all(size % 64 == 0 for size in sizes)
    assert any(size % 128 for size in sizes)


@pytest.mark.parametrize("activation", ["leaky_relu", "silu"])
def test_forward_is_that_of_plain_functions(activation):
    torch.manual_seed(0)
    network = ResNet12(norm_layer=torch.nn.BatchNorm2d, widths=(3, 5, 4, 6), activation=activation).double()
    x = torch.randn(3, 3, 37, 37, dtype=torch.float64)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)

    def normalise(values, norm):
        mean, var = values.mean((0, 2, 3), keepdim=True), values.var((0, 2, 3), correction=0, keepdim=True)
        values = (values - mean) / (var + 1e-5).sqrt()
        return values * norm.weight[:, None, None] + norm.bias[:, None, None]

    def act(values):
        return values * values.sigmoid() if activation == "silu" else torch.where(values > 0, values, 0.1 * values)

    out = x
    for block in network.blocks:
        main = act(normalise(F.conv2d(out, block.conv1.weight, padding=1), block.norm1))
        main = act(normalise(F.conv2d(main, block.conv2.weight, padding=1), block.norm2))
        main = normalise(F.conv2d(main, block.conv3.weight, padding=1), block.norm3)
        side = normalise(F.conv2d(out, block.shortcut[0].weight), block.shortcut[1])
        out = F.max_pool2d(act(main + side), 2)
    assert out.shape[-2:] == (2, 2)
    torch.testing.assert_close(network(x), out.mean((2, 3)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("widths", ["wide", [8, 16, 32], [8, 16, 32, 0]])
def test_other_widths_are_refused(widths):
    with pytest.raises(ValueError, match=r"widths must be one of tadam, metaoptnet or four numbers"):
        FewshotModule(widths=widths)


def test_groups_hold_as_many_channels_at_any_width():
    def groups(norm, first):
        return FewshotModule(norm=norm, widths=[first, 2 * first, 4 * first, 8 * first]).num_groups

    assert [groups("bgn", width) for width in (64, 32, 16, 8)] == [256, 128, 64, 32]
    assert [groups("gn", width) for width in (64, 32, 16, 8, 1)] == [32, 16, 8, 4, 1]
    assert groups("bn", 64) is None
    assert FewshotModule(norm="bgn", widths="metaoptnet").num_groups == 64
    assert FewshotModule(norm="bgn", num_groups=7).num_groups == 7
