"""Which norm is which at special group numbers, to the tolerances measured for float64 and float32."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from norm_layers import make_norm

N, C, H, W = 4, 12, 6, 4
D = C * H * W


def close(actual, expected, dtype, *, what="forward"):
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-6}[dtype]
    if what == "sum" and dtype == torch.float32:
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    else:
        torch.testing.assert_close(actual, expected, rtol=0 if dtype == torch.float32 else 1e-12, atol=tolerance)


@pytest.fixture(params=[torch.float64, torch.float32], ids=["fp64", "fp32"])
def dtype(request):
    return request.param


def both(ours, theirs, x):
    """Forward and backward of two modules on the same input and the same output gradient."""
    results = []
    gradient = torch.randn_like(x)
    for module in (ours, theirs):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        y.backward(gradient)
        results.append((y.detach(), leaf.grad))
    return results


def test_as_many_groups_as_channels_is_batch_norm_with_equal_buffers(dtype, randomised):
    ours, theirs = make_norm("bgn", C, num_groups=C).to(dtype), nn.BatchNorm2d(C).to(dtype)
    randomised(theirs)
    with torch.no_grad():
        ours.weight.copy_(theirs.weight)
        ours.bias.copy_(theirs.bias)
        ours.statistics.running_mean.copy_(theirs.running_mean)
        ours.statistics.running_var.copy_(theirs.running_var)
    for _ in range(3):
        (y, grad), (y_bn, grad_bn) = both(ours, theirs, torch.randn(N, C, H, W, dtype=dtype) * 2 + 1)
        close(y, y_bn, dtype)
        close(grad, grad_bn, dtype)
        close(ours.weight.grad, theirs.weight.grad, dtype, what="sum")
        close(ours.bias.grad, theirs.bias.grad, dtype, what="sum")
        assert torch.equal(ours.statistics.running_mean, theirs.running_mean)
        assert torch.equal(ours.statistics.running_var, theirs.running_var)
        assert torch.equal(ours.statistics.num_batches_tracked, theirs.num_batches_tracked)
    x = torch.randn(N, C, H, W, dtype=dtype)
    close(ours.eval()(x), theirs.eval()(x), dtype)


def test_bn_is_torch_batch_norm_at_every_rank(dtype):
    for shape, torch_norm in [
        ((8, C), nn.BatchNorm1d),
        ((8, C, 5), nn.BatchNorm1d),
        ((4, C, 5, 3), nn.BatchNorm2d),
        ((2, C, 2, 3, 4), nn.BatchNorm3d),
    ]:
        ours, theirs = make_norm("bn", C).to(dtype), torch_norm(C).to(dtype)
        (y, grad), (y_bn, grad_bn) = both(ours, theirs, torch.randn(shape, dtype=dtype))
        assert torch.equal(y, y_bn)
        assert torch.equal(grad, grad_bn)
        assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), theirs.buffers()))


def test_one_group_is_layer_norm_over_the_whole_batch_tensor(dtype):
    x = torch.randn(N, C, H, W, dtype=dtype)
    ours = make_norm("bgn", C, num_groups=1).to(dtype)
    close(ours(x), F.layer_norm(x, (N, C, H, W)), dtype)
    assert (ours(x) - make_norm("ln", C).to(dtype)(x)).abs().max() > 1e-3


@pytest.mark.parametrize("num_groups", [1, 3, 4, 6, 12])
def test_batch_of_one_is_group_norm(dtype, num_groups):
    x = torch.randn(1, C, H, W, dtype=dtype)
    bgn, gn = (make_norm(name, C, num_groups=num_groups).to(dtype) for name in ("bgn", "gn"))
    (y, grad), (y_gn, grad_gn) = both(bgn, gn, x)
    close(y, y_gn, dtype)
    close(grad, grad_gn, dtype)
    close(y, nn.GroupNorm(num_groups, C).to(dtype)(x), dtype)
    if num_groups == 1:
        close(y, F.layer_norm(x, (C, H, W)), dtype)
    if num_groups == C:
        close(y, F.instance_norm(x), dtype)


@pytest.mark.parametrize("num_groups", [5, 7, 8, 16, 48, 96])
def test_batch_of_one_is_flat_group_norm_at_every_other_group_number(dtype, num_groups):
    x = torch.randn(1, C, H, W, dtype=dtype)
    bgn, gn = (make_norm(name, C, num_groups=num_groups).to(dtype) for name in ("bgn", "gn"))
    close(bgn(x), gn(x), dtype)


@pytest.mark.parametrize("num_groups", [1, 3, 8, 12, 24])
def test_identical_samples_make_batch_group_norm_group_norm(num_groups):
    x = torch.randn(1, C, H, W, dtype=torch.float64).expand(N, -1, -1, -1)
    bgn, gn = (make_norm(name, C, num_groups=num_groups).double() for name in ("bgn", "gn"))
    close(bgn(x), gn(x), torch.float64)


def test_one_element_per_group_is_batch_norm_of_the_flattened_features(dtype):
    x = torch.randn(N, C, H, W, dtype=dtype)
    ours = make_norm("bgn", C, num_groups=D, affine=False).to(dtype)
    theirs = nn.BatchNorm1d(D, affine=False).to(dtype)
    close(ours(x).flatten(1), theirs(x.flatten(1)), dtype)
    close(ours.statistics.running_var, theirs.running_var, dtype)
    flat = make_norm("bgn", C, num_groups=C).to(dtype)
    close(flat(x[:, :, 0, 0]), nn.BatchNorm1d(C).to(dtype)(x[:, :, 0, 0]), dtype)


@pytest.mark.parametrize("num_groups", [3, 8, 12])
def test_general_batch_group_norm_on_the_whole_batch_is_batch_group_norm(dtype, num_groups):
    gbgn, bgn = (make_norm(name, C, num_groups=num_groups).to(dtype) for name in ("gbgn", "bgn"))
    (y, grad), (y_bgn, grad_bgn) = both(gbgn, bgn, torch.randn(N, C, H, W, dtype=dtype))
    assert torch.equal(y, y_bgn)
    assert torch.equal(grad, grad_bgn)
    assert all(torch.equal(a, b) for a, b in zip(gbgn.buffers(), bgn.buffers()))


def test_general_batch_group_norm_per_sample_is_group_norm_and_per_channel_is_ghost_batch_norm(dtype):
    x = torch.randn(N, C, H, W, dtype=dtype)
    per_sample = make_norm("gbgn", C, num_groups=3, ghost_size=1).to(dtype)
    (y, grad), (y_gn, grad_gn) = both(per_sample, make_norm("gn", C, num_groups=3).to(dtype), x)
    close(y, y_gn, dtype)
    close(grad, grad_gn, dtype)
    ghost = make_norm("gbgn", C, num_groups=C, ghost_size=2).to(dtype)
    halves = [nn.BatchNorm2d(C).to(dtype) for _ in range(2)]
    close(ghost(x), torch.cat([half(part) for half, part in zip(halves, x.split(2))]), dtype)
    for name in ("running_mean", "running_var"):
        expected = (getattr(halves[0], name) + getattr(halves[1], name)) / 2
        close(getattr(ghost.statistics, name), expected, dtype)


def test_positional_norm_is_layer_norm_over_channels_and_at_one_pixel_the_layer_norm(dtype):
    x = torch.randn(N, C, H, W, dtype=dtype)
    pn = make_norm("pn", C).to(dtype)
    expected = F.layer_norm(x.permute(0, 2, 3, 1), (C,)).permute(0, 3, 1, 2)
    close(pn(x), expected, dtype)
    pixel = x[:, :, :1, :1]
    close(pn(pixel), make_norm("ln", C).to(dtype)(pixel), dtype)


def test_positional_norm_has_the_biased_variance():
    x = torch.randn(2, 16, 3, 3, dtype=torch.float64)
    y = make_norm("pn", 16).double()(x)
    biased = x.var(dim=1, correction=0)
    close(y.square().mean(dim=1), biased / (biased + 1e-5), torch.float64)


@pytest.mark.parametrize("num_groups", [1, 4, 12, 24, 7])
def test_scale_and_shift_of_the_input_do_not_matter(num_groups):
    x = torch.randn(N, C, H, W, dtype=torch.float64)
    norm = make_norm("bgn", C, num_groups=num_groups).double()
    torch.testing.assert_close(norm(3 * x - 7), norm(x), rtol=0, atol=5e-5)


@pytest.mark.parametrize("num_groups", [1, 4, 12, 24, 72, 7])
def test_order_of_samples_does_not_matter(num_groups):
    x = torch.randn(N, C, H, W, dtype=torch.float64)
    norm = make_norm("bgn", C, num_groups=num_groups).double()
    order = torch.tensor([2, 0, 3, 1])
    close(norm(x[order]), norm(x)[order], torch.float64)


def test_flips_and_rolls_commute_where_groups_allow_it(randomised):
    x = torch.randn(N, C, H, W, dtype=torch.float64)
    channels = randomised(make_norm("bgn", C, num_groups=4).double())
    bands = randomised(make_norm("bgn", C, num_groups=24).double())
    for norm in (channels, bands):
        close(norm(x.flip(3)), norm(x).flip(3), torch.float64)  # whole-row bands
        close(norm(x.flip(2)), norm(x).flip(2), torch.float64)
    channels.eval()
    bands.eval()
    close(channels(x.flip(2)), channels(x).flip(2), torch.float64)
    close(channels(x.roll(1, 2)), channels(x).roll(1, 2), torch.float64)
    assert (bands(x.flip(2)) - bands(x).flip(2)).abs().max() > 0.1
    assert (bands(x.roll(1, 2)) - bands(x).roll(1, 2)).abs().max() > 0.1


def test_group_statistics_follow_from_channel_statistics(dtype):
    from norm_layers.fold import pool_channel_statistics

    x = torch.randn(N, C, H, W, dtype=dtype) * torch.rand(1, C, 1, 1, dtype=dtype) + torch.randn(
        1, C, 1, 1, dtype=dtype
    )
    channel_var, channel_mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    for num_groups in (1, 3, 4, 6, 12):
        mean, var = pool_channel_statistics(channel_mean, channel_var, num_groups=num_groups)
        expected_var, expected_mean = torch.var_mean(x.reshape(N, num_groups, -1), dim=(0, 2), correction=0)
        close(mean, expected_mean, dtype)
        close(var, expected_var, dtype)


def test_paper_group_number_makes_no_net_a_batch_norm_net_but_groups_per_channel_do():
    """Three SGD steps of a net whose BGN layers have G = C give the logits of the BN net."""

    def build(name):
        torch.manual_seed(1)
        layers, channels = [], 3
        for width in (8, 16, 32):
            options = {"num_groups": width} if name == "bgn" else {}
            layers += [
                nn.Conv2d(channels, width, 3, padding=1, stride=2),
                make_norm(name, width, **options),
                nn.ReLU(),
            ]
            channels = width
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 4, 5)).double()

    images, labels = torch.randn(8, 3, 16, 16, dtype=torch.float64), torch.arange(8) % 5
    logits = []
    for name in ("bn", "bgn"):
        net = build(name)
        optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimiser.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            optimiser.step()
        logits.append(net.eval()(images))
    torch.testing.assert_close(*logits, rtol=0, atol=1e-10)
