"""Conversion of whole nets, and the fold that keeps what a trained net computes."""

import copy

import pytest
import torch
from torch import nn

from norm_layers import (
    NORMS,
    BatchGroupNorm,
    VirtualWorkerNorm,
    convert_norm,
    freeze_statistics,
    make_norm,
    norm_factory,
    synchronise_statistics,
    unfreeze_statistics,
)
from norm_layers.fold import pool_channel_statistics
from norm_layers.sync import AllReduceSum

X = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("num_groups", [1, 2, 3, 4, 6, 12, 16, 5, 7, 10])
def test_folding_keeps_the_output_at_any_group_number(batch_norm_net, num_groups):
    expected = batch_norm_net(X)
    converted = convert_norm(copy.deepcopy(batch_norm_net), "bgn", num_groups=num_groups)
    assert sum(isinstance(module, BatchGroupNorm) for module in converted.modules()) == 3
    assert not any(isinstance(module, nn.BatchNorm2d) for module in converted.modules())
    torch.testing.assert_close(converted(X), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("side", [7, 5, 1])
@pytest.mark.parametrize("num_groups", [128, 256, 512, 32, 48, 100])
def test_folding_keeps_the_output_at_every_resolution(num_groups, side, randomised):
    """Also where groups of a G above C do not fit into channels: 64 channels of 49 elements in 128 groups."""
    old = randomised(nn.BatchNorm2d(64).double()).eval()
    new = convert_norm(copy.deepcopy(old), "bgn", num_groups=num_groups, uneven="clamp")
    x = torch.randn(2, 64, side, side, dtype=torch.float64)
    torch.testing.assert_close(new(x), old(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_groups", [128, 100])
def test_folding_out_again_gives_the_batch_norm(num_groups, randomised):
    old = randomised(nn.BatchNorm2d(64).double()).eval()
    back = convert_norm(convert_norm(copy.deepcopy(old), "bgn", num_groups=num_groups), "bn")
    x = torch.randn(2, 64, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(back(x), old(x), rtol=1e-12, atol=1e-12)


def test_repeating_keeps_scale_and_shift_for_training():
    """In training the repeated layer starts where the batch norm was; the folded one does not."""
    torch.manual_seed(2)
    old = nn.BatchNorm2d(8, momentum=1.0).double()
    batch = torch.randn(256, 8, 4, 4, dtype=torch.float64) * torch.linspace(0.2, 5, 8).view(1, 8, 1, 1) + 3
    old(batch)
    repeat, fold = (
        convert_norm(copy.deepcopy(old), "bgn", num_groups=16, statistics=how) for how in ("repeat", "fold")
    )
    torch.testing.assert_close(copy.deepcopy(repeat).eval()(batch), old.eval()(batch), rtol=1e-12, atol=1e-12)
    expected = old.train()(batch)
    assert (repeat.train()(batch) - expected).abs().max() < 0.3
    assert (fold.train()(batch) - expected).abs().max() > 3
    assert torch.equal(repeat.weight, old.weight)


@pytest.mark.parametrize(("num_groups", "side"), [(1, 32), (8, 32), (32, 32), (512, 32), (512, 36)])
def test_folding_a_resnet50(num_groups, side, randomised):
    """At side 36 maps have 9 x 9, 5 x 5 and 3 x 3 positions, which G/C divides nowhere."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(3)
    net = randomised(torchvision.models.resnet50(num_classes=10)).double().eval()
    with torch.no_grad():  # keep activations at unit scale, so that the tolerance means something
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.mul_(0.5)
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    with torch.no_grad():
        expected = net(images)
        converted = convert_norm(net, "bgn", num_groups=num_groups, uneven="error" if side == 32 else "split")
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
    assert convert_norm(copy.deepcopy(net), "bgn", num_groups=16, statistics="repeat")[0].weight is None
    assert convert_norm(copy.deepcopy(net), "bgn", num_groups=4, statistics="pool")[0].weight is None
    for num_groups in (4, 16):
        with pytest.raises(
            ValueError, match=f"layer '0' must be affine to fold its statistics into {num_groups} groups"
        ):
            convert_norm(copy.deepcopy(net), "bgn", num_groups=num_groups)


def test_messages():
    trained = make_norm("bgn", 8, num_groups=16)
    trained(torch.randn(2, 8, 4, 4))
    for statistics in ("fold", "repeat"):
        with pytest.raises(ValueError, match="must have groups of whole channels to be folded; got 16 groups for 8"):
            convert_norm(nn.Sequential(trained), "bn", statistics=statistics)
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


@pytest.mark.parametrize("name", ["bn", "gbgn", "bgn"])
@pytest.mark.parametrize("virtual_workers", [1, 2])
def test_frozen_layers_stay_frozen(name, virtual_workers):
    groups = {"num_groups": 4} if NORMS[name].has_groups else {}
    for source in (nn.BatchNorm2d(8), make_norm("bgn", 8, num_groups=2)):
        net = convert_norm(freeze_statistics(nn.Sequential(source)), name, virtual_workers=virtual_workers, **groups)
        before = copy.deepcopy(net.state_dict())
        x = torch.randn(4, 8, 3, 3) + 1
        torch.testing.assert_close(net.train()(x), x / (1 + 1e-5) ** 0.5)
        assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
        unfreeze_statistics(net)(x)
        assert any(not torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_statistics_switched_off_from_outside_stay_so():
    net = nn.Sequential(nn.BatchNorm2d(8))
    net[0].track_running_stats = False
    assert not convert_norm(net, "bgn", num_groups=4)[0].statistics.track_running_stats
    attacked = nn.Sequential(make_norm("bgn", 8, num_groups=4))
    attacked[0].statistics.eval()
    assert not convert_norm(attacked, "bn")[0].training


@pytest.mark.parametrize("name", ["bn", "gbgn", "bgn"])
def test_synchronised_layers_stay_synchronised(name, log):
    groups = {"num_groups": 4} if NORMS[name].has_groups else {}

    def synchronised_bgn():
        return nn.SyncBatchNorm.convert_sync_batchnorm(make_norm("bgn", 8, num_groups=4))

    for build in (
        lambda: synchronise_statistics(nn.BatchNorm2d(8)),
        lambda: synchronise_statistics(make_norm("bgn", 8, num_groups=2)),
        lambda: nn.SyncBatchNorm(8),
        synchronised_bgn,
    ):
        assert isinstance(convert_norm(nn.Sequential(build()), name, **groups)[0].all_reduce, AllReduceSum)
        with pytest.raises(ValueError, match=r"layer '0' must not be synchronised.*Take no virtual_workers"):
            convert_norm(nn.Sequential(build()), name, virtual_workers=2, **groups)
        assert convert_norm(nn.Sequential(build()), "gn", num_groups=2, virtual_workers=2)[0].num_groups == 2
    assert log() == []
    convert_norm(nn.SyncBatchNorm(8), "torch.nn:BatchNorm2d")
    assert log() == ["convert_norm: BatchNorm2d cannot be synchronised; its statistics are those of a rank."]


def test_a_net_without_anything_to_replace_is_refused():
    with pytest.raises(ValueError, match=r"to replace; got Conv2d with no norm\.$"):
        convert_norm(nn.Conv2d(3, 4, 1), "bn")
    with pytest.raises(ValueError, match=r"got Sequential with 2 torch\.nn\.modules\.normalization\.LayerNorm\.$"):
        convert_norm(nn.Sequential(nn.LayerNorm(4), nn.Sequential(nn.LayerNorm(8))), "bn")


def test_convnext_has_nothing_to_replace():
    torchvision = pytest.importorskip("torchvision")
    with pytest.raises(ValueError, match=r"got ConvNeXt with 5 torchvision.*LayerNorm2d, 18 torch.*LayerNorm\."):
        convert_norm(torchvision.models.convnext_tiny(), "bgn", num_groups=4)


def test_norms_that_are_left_are_logged_once(log):
    for _ in range(2):
        net = nn.Sequential(
            nn.BatchNorm2d(8), nn.LayerNorm(8), nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
        )
        convert_norm(net, "bgn", num_groups=4)
    assert log() == [
        "convert_norm: replaced 1 norm layers; left as they are: 1 torch.nn.modules.normalization.LayerNorm."
    ]


def test_virtual_workers_around_an_unknown_norm_are_refused():
    wrapped = VirtualWorkerNorm(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()), 2)
    with pytest.raises(
        ValueError, match=r"layer '0' must have virtual workers around a norm of torch.*got Sequential"
    ):
        convert_norm(nn.Sequential(wrapped), "bn")


def test_half_precision_statistics_are_pooled_in_float32(randomised):
    old = randomised(nn.BatchNorm2d(8)).bfloat16()
    new = convert_norm(copy.deepcopy(old), "bgn", num_groups=2, statistics="pool")
    expected, _ = pool_channel_statistics(old.running_mean.float(), old.running_var.float(), num_groups=2)
    assert torch.equal(new.statistics.running_mean, expected)


def test_places_of_the_statistics_go_along_where_the_groups_stay():
    net = nn.Sequential(make_norm("bgn", 8, num_groups=16))
    net(torch.randn(2, 8, 4, 4))
    assert convert_norm(net, "bgn", num_groups=16)[0].get_extra_state().tolist() == [4, 4, -1]
    assert convert_norm(net, "bgn", num_groups=32, statistics="pool")[0].get_extra_state().tolist() == [0, 0, 0]
