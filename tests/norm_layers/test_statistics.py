"""Freezing of running statistics, for a block or until unfrozen."""

import copy
import pickle

import pytest
import torch
from torch import nn

from norm_layers import (
    NORMS,
    freeze_statistics,
    frozen_statistics,
    is_batch_statistic_norm,
    make_norm,
    unfreeze_statistics,
)


class NormOnTop(nn.modules.batchnorm._BatchNorm):
    """A norm from outside, built on torch's base class."""

    def _check_input_dim(self, input):
        pass


class Stubborn(nn.Module):
    """A norm from outside with statistics of its own, which it updates whenever it trains."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(8))

    def forward(self, x):
        if not self.training:
            return x - self.running_mean.view(1, -1, 1, 1)
        mean = x.mean(dim=(0, 2, 3))
        with torch.no_grad():
            self.running_mean.mul_(0.9).add_(0.1 * mean)
        return x - mean.view(1, -1, 1, 1)


OWNERS = {
    "bn": lambda: make_norm("bn", 8),
    "bgn": lambda: make_norm("bgn", 8, num_groups=4),
    "gbgn": lambda: make_norm("gbgn", 8, num_groups=4, ghost_size=2),
    "bgn-virtual": lambda: make_norm("bgn", 8, num_groups=4, virtual_workers=2),
    "bgn-cumulative": lambda: make_norm("bgn", 8, num_groups=5, momentum=None),
    "torch": lambda: nn.BatchNorm2d(8),
    "torch-instance": lambda: nn.InstanceNorm2d(8, track_running_stats=True),
    "outside": lambda: NormOnTop(8),
    "stubborn": Stubborn,
}


@pytest.fixture(params=OWNERS)
def net(request, randomised):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), OWNERS[request.param](), nn.Dropout(0.5))
    randomised(net[1])
    return net


def snapshot(net):
    flags = {
        name: {key: module.__dict__.get(key) for key in ("training", "track_running_stats", "momentum", "train")}
        for name, module in net.named_modules()
    }
    return flags, {name: (id(buffer), buffer.clone()) for name, buffer in net.named_buffers()}


def assert_same(net, before):
    flags, buffers = snapshot(net)
    assert flags == before[0]
    assert buffers.keys() == before[1].keys()
    for name, (identity, value) in buffers.items():
        assert identity == before[1][name][0]
        assert torch.equal(value, before[1][name][1])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_block_leaves_no_trace(net, mode, training):
    net.train(training)
    before, x = snapshot(net), torch.randn(4, 3, 6, 6)
    with frozen_statistics(net, mode=mode):
        assert net[2].training == training
        for _ in range(2):
            net(x)
    assert_same(net, before)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_block_leaves_no_trace_after_an_exception(net, mode):
    before = snapshot(net)

    def failing():
        net(torch.randn(4, 3, 6, 6))
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"), frozen_statistics(net, mode=mode):
        failing()
    assert_same(net, before)


def test_eval_block_normalises_by_running_statistics_and_train_block_by_the_batch(net):
    norm, x = net[1], torch.randn(4, 8, 4, 4) * 3 + 1
    evaluated = copy.deepcopy(norm).eval()(x)
    trained = copy.deepcopy(norm).train()(x)
    for training in (True, False):
        norm.train(training)
        with frozen_statistics(norm, mode="eval"):
            torch.testing.assert_close(norm(x), evaluated)
            norm.train()
            torch.testing.assert_close(norm(x), evaluated)
        with frozen_statistics(norm, mode="train"):
            torch.testing.assert_close(norm(x), trained)
            norm.eval()
            torch.testing.assert_close(norm(x), trained)
        owners = [module for module in norm.modules() if "running_mean" in module._buffers]
        assert [owner.training for owner in owners] == [training]


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_gradients_taken_after_the_block_are_right(mode):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), make_norm("bgn", 8, num_groups=5), nn.BatchNorm2d(8)).double()
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    with frozen_statistics(net, mode=mode):
        loss = net(x).pow(3).sum()
    net(torch.randn(4, 3, 6, 6, dtype=torch.float64))
    loss.backward()
    inside = x.grad.clone()
    x.grad = None
    fresh = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    assert torch.isfinite(inside).all()
    with frozen_statistics(net, mode="train"):
        net(fresh)


def test_blocks_nest():
    norm, x = make_norm("bgn", 8, num_groups=4), torch.randn(4, 8, 4, 4)
    before = snapshot(norm)
    with frozen_statistics(norm, mode="train"):
        trained = norm(x)
        with frozen_statistics(norm, mode="eval"):
            assert not torch.equal(norm(x), trained)
        assert torch.equal(norm(x), trained)
    assert_same(norm, before)


def test_frozen_layers_stay_frozen_through_train_copies_and_blocks(net):
    x = torch.randn(4, 8, 4, 4)
    freeze_statistics(net)
    assert freeze_statistics(net) is net
    expected = net[1](x).detach()
    before = snapshot(net)[1]
    for copied in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net)) if picklable(net) else net):
        copied.train()
        assert copied[2].training
        torch.testing.assert_close(copied[1](x), expected)
        with frozen_statistics(copied, mode="train"):
            torch.testing.assert_close(copied[1](x), expected)
        copied.train()
        torch.testing.assert_close(copied[1](x), expected)
    assert all(torch.equal(value, before[name][1]) for name, value in net.named_buffers())
    unfreeze_statistics(net)
    assert all("train" not in module.__dict__ for module in net.modules())
    assert all(module.training for module in net.modules())
    net[1](x + 1)
    assert any(not torch.equal(value, before[name][1]) for name, value in net.named_buffers())


def picklable(net):
    return type(net[1]) not in (NormOnTop, Stubborn)


def test_a_copy_thaws_without_its_original():
    net = freeze_statistics(nn.Sequential(make_norm("bgn", 8, num_groups=4)))
    thawed = unfreeze_statistics(copy.deepcopy(net))
    net.train()
    assert thawed[0].statistics.training
    assert not net[0].statistics.training


def test_unfreezing_takes_the_mode_of_the_model():
    net = freeze_statistics(nn.Sequential(make_norm("bn", 8))).eval()
    unfreeze_statistics(net)
    assert not net[0].training


def test_affine_of_a_frozen_norm_stays_trainable():
    net = freeze_statistics(nn.Sequential(make_norm("bgn", 8, num_groups=4))).train()
    net(torch.randn(4, 8, 4, 4)).square().sum().backward()
    assert net[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", list(NORMS))
def test_which_norms_have_batch_statistics(name):
    groups = {"num_groups": 4} if NORMS[name].has_groups else {}
    for tracks in (True, False):
        norm = make_norm(name, 8, track_running_stats=tracks, **groups)
        assert is_batch_statistic_norm(norm) == NORMS[name].has_running_statistics
    assert is_batch_statistic_norm(make_norm(name, 8, virtual_workers=2, **groups)) == (
        NORMS[name].has_running_statistics
    )


def test_which_outside_modules_have_batch_statistics():
    for module in (nn.BatchNorm1d(4), nn.SyncBatchNorm(4), NormOnTop(4), Stubborn()):
        assert is_batch_statistic_norm(module)
    for module in (nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, track_running_stats=True), nn.Conv2d(3, 4, 1)):
        assert not is_batch_statistic_norm(module)
