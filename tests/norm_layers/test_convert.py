"""Conversion of whole nets, and the fold that keeps what a trained net computes."""

import copy

import pytest
import torch
from torch import nn

from norm_layers import NORMS, BatchGroupNorm, VirtualWorkerNorm, convert_norm, make_norm, norm_factory
from norm_layers.fold import pool_channel_statistics

X = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("num_groups", [1, 2, 3, 4, 6, 12, 16, 5, 7, 10])
def test_folding_keeps_the_output_at_any_group_number(batch_norm_net, num_groups):
    expected = batch_norm_net(X)
    converted = convert_norm(copy.deepcopy(batch_norm_net), "bgn", num_groups=num_groups)
    assert sum(isinstance(module, BatchGroupNorm) for module in converted.modules()) == 3
    assert not any(isinstance(module, nn.BatchNorm2d) for module in converted.modules())
    torch.testing.assert_close(converted(X), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("num_groups", [1, 8, 32, 512])
def test_folding_a_resnet50(num_groups, randomised):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(3)
    net = randomised(torchvision.models.resnet50(num_classes=10)).double().eval()
    with torch.no_grad():  # keep activations at unit scale, so that the tolerance means something
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.mul_(0.5)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = net(images)
        converted = convert_norm(net, "bgn", num_groups=num_groups, uneven="error")
        assert sum(isinstance(module, BatchGroupNorm) for module in converted.modules()) == 53
        actual = converted(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("num_groups", [3, 12, 16, 5])
def test_there_and_back(batch_norm_net, num_groups):
    expected = batch_norm_net(X)
    net = convert_norm(convert_norm(batch_norm_net, "gbgn", num_groups=2), "bn")
    torch.testing.assert_close(net(X), expected, rtol=1e-10, atol=1e-10)
    net = convert_norm(convert_norm(net, "bgn", num_groups=4), "bgn", num_groups=num_groups)
    torch.testing.assert_close(net(X), expected, rtol=1e-10, atol=1e-10)


def test_the_same_norm_again_keeps_everything(batch_norm_net):
    net = convert_norm(batch_norm_net, "bgn", num_groups=16)
    before = copy.deepcopy(net.state_dict())
    again = convert_norm(net, "bgn", num_groups=16)
    assert all(torch.equal(before[key], value) for key, value in again.state_dict().items())


def test_pooling_gives_groups_the_statistics_of_their_channels(batch_norm_net):
    old = copy.deepcopy(batch_norm_net[1])
    new = convert_norm(batch_norm_net, "bgn", num_groups=4, statistics="pool")[1]
    means = old.running_mean.view(4, 3)
    torch.testing.assert_close(new.statistics.running_mean, means.mean(1))
    second_moments = (old.running_var + old.running_mean**2).view(4, 3).mean(1)
    torch.testing.assert_close(new.statistics.running_var, second_moments - means.mean(1) ** 2)
    assert torch.equal(new.weight, old.weight)
    assert torch.equal(new.bias, old.bias)


@pytest.mark.parametrize("num_groups", [1, 2, 5, 7, 8, 16])
def test_pooling_is_what_data_with_these_channel_statistics_have(num_groups):
    """Constant channels repeated over positions: statistics of groups that cut channels, counted out."""
    generator = torch.Generator().manual_seed(1)
    mean, var = (torch.rand(8, generator=generator, dtype=torch.float64) for _ in range(2))
    positions = num_groups  # then every group border falls between positions
    low, high = mean - var.sqrt(), mean + var.sqrt()
    batch = torch.stack([low, high]).unsqueeze(2).expand(2, 8, positions).reshape(2, num_groups, -1)
    expected_var, expected_mean = torch.var_mean(batch, dim=(0, 2), correction=0)
    group_mean, group_var = pool_channel_statistics(mean, var, num_groups=num_groups)
    torch.testing.assert_close(group_mean, expected_mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(group_var, expected_var, rtol=1e-12, atol=1e-12)


def test_fresh_statistics(batch_norm_net):
    weight = batch_norm_net[1].weight.clone()
    new = convert_norm(batch_norm_net, "bgn", num_groups=4, statistics="fresh")[1]
    assert torch.equal(new.statistics.running_mean, torch.zeros(4, dtype=torch.float64))
    assert torch.equal(new.weight, weight)


@pytest.mark.parametrize("name", list(NORMS))
def test_every_norm_becomes_every_norm(name):
    options = {"num_groups": 4} if NORMS[name].has_groups else {}
    for source in [*NORMS, "torch.nn:GroupNorm", "torch.nn:InstanceNorm2d", "torch.nn:BatchNorm2d"]:
        groups = {"num_groups": 2} if source in ("gn", "gbgn", "bgn", "torch.nn:GroupNorm") else {}
        net = nn.Sequential(make_norm(source, 8, eps=1e-3, **groups))
        with torch.no_grad():
            for key, parameter in net.named_parameters():
                parameter.fill_(2.0 if key.endswith("weight") else -1.0)
        converted = convert_norm(net, name, **options)
        layer = converted[0]
        if name != "none":
            assert layer.num_channels == 8
            assert layer.eps == (1e-5 if source == "none" else 1e-3)
        if name != "none" and source != "none" and not NORMS.get(source, NORMS["gn"]).has_running_statistics:
            assert torch.equal(layer.weight, torch.full((8,), 2.0))
            assert torch.equal(layer.bias, torch.full((8,), -1.0))
        assert converted(torch.randn(4, 8, 3, 3)).shape == (4, 8, 3, 3)


def test_momentum_mode_dtype_and_frozen_parameters_are_kept():
    net = nn.Sequential(nn.BatchNorm2d(8, momentum=None), nn.BatchNorm2d(8, momentum=0.3, track_running_stats=False))
    net[0].eval()
    net[0].weight.requires_grad_(False)
    net.bfloat16()
    converted = convert_norm(net, "bgn", num_groups=4)
    assert converted[0].statistics.momentum is None
    assert not converted[0].statistics.training
    assert converted[1].statistics.training
    assert converted[1].statistics.momentum == 0.3
    assert converted[1].statistics.running_mean is None
    assert converted[0].weight.dtype == torch.bfloat16
    assert not converted[0].weight.requires_grad
    assert converted[0].bias.requires_grad


def test_a_norm_itself_a_shared_norm_and_other_layers():
    assert isinstance(convert_norm(nn.BatchNorm1d(8), "bgn", num_groups=2), BatchGroupNorm)
    shared = nn.BatchNorm2d(8)
    net = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.LayerNorm(8)), "c": shared})
    converted = convert_norm(net, "gn", num_groups=2)
    assert converted["a"] is converted["b"][0] is converted["c"]
    assert isinstance(converted["b"][1], nn.LayerNorm)
    assert convert_norm(nn.Sequential(nn.Conv2d(3, 4, 1)), "bn")[0].weight.shape == (4, 3, 1, 1)


def test_virtual_workers_are_put_on_and_taken_off(batch_norm_net):
    expected = batch_norm_net(X)
    virtual = convert_norm(batch_norm_net, "bgn", num_groups=4, virtual_workers=2)
    assert isinstance(virtual[1], VirtualWorkerNorm)
    torch.testing.assert_close(virtual(X), expected)
    plain = convert_norm(virtual, "bgn", num_groups=4)
    assert isinstance(plain[1], BatchGroupNorm)
    torch.testing.assert_close(plain(X), expected)


def test_norm_without_affine():
    net = nn.Sequential(nn.BatchNorm2d(8, affine=False)).eval()
    assert convert_norm(copy.deepcopy(net), "bgn", num_groups=8)[0].weight is None
    assert convert_norm(copy.deepcopy(net), "bgn", num_groups=16)[0].weight is None
    assert convert_norm(copy.deepcopy(net), "bgn", num_groups=4, statistics="pool")[0].weight is None
    with pytest.raises(ValueError, match="layer '0' must be affine to fold its statistics into 4 groups"):
        convert_norm(net, "bgn", num_groups=4)


def test_messages():
    with pytest.raises(ValueError, match="must have groups of whole channels to be folded; got 16 groups for 8"):
        convert_norm(nn.Sequential(make_norm("bgn", 8, num_groups=16)), "bn")
    assert convert_norm(make_norm("bgn", 8, num_groups=16), "bn", statistics="pool").num_features == 8
    with pytest.raises(ValueError, match="layer '0' must be initialised before it is converted; run the model once"):
        convert_norm(nn.Sequential(nn.LazyBatchNorm2d()), "bn")
    with pytest.raises(ValueError, match="batch_size must be given"):
        convert_norm(nn.Sequential(nn.BatchNorm2d(8)), "bgn")
    with pytest.raises(ValueError, match="norm must be one of"):
        convert_norm(nn.Sequential(nn.BatchNorm2d(8)), "bgm")


def test_converted_net_trains(batch_norm_net):
    net = convert_norm(batch_norm_net, "bgn", num_groups=8).train()
    net(X).square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in net.parameters())


def test_default_group_number_comes_from_the_batch_size(batch_norm_net):
    net = convert_norm(batch_norm_net, "bgn", batch_size=4)
    assert {m.num_groups for m in net.modules() if isinstance(m, BatchGroupNorm)} == {2}
    assert norm_factory("bgn", batch_size=4)(8).num_groups == 2
