"""Virtual workers against what separate workers compute."""

import copy

import pytest
import torch
from torch import nn

from norm_layers import NORMS, VirtualWorkerNorm, frozen_statistics, make_norm, norm_factory

NAMES = [name for name, spec in NORMS.items() if spec.has_running_statistics]


def build(name, **options):
    groups = {"num_groups": 4} if NORMS[name].has_groups else {}
    return make_norm(name, 8, **groups, **options).double()


def running(norm):
    return {key: value.clone() for key, value in norm.state_dict().items() if "running" in key or "num_batches" in key}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["rank0", "mean"])
@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_each_part_is_normalised_alone(name, mode, num_workers, randomised):
    norm = randomised(build(name))
    virtual = VirtualWorkerNorm(copy.deepcopy(norm), num_workers, running_statistics=mode)
    workers = [copy.deepcopy(norm) for _ in range(num_workers)]
    x = torch.randn(8, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    expected = torch.cat([worker(part) for worker, part in zip(workers, x.chunk(num_workers))])
    y = virtual(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    gradient = torch.randn_like(y)
    (ours,) = torch.autograd.grad(y, x, gradient, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected, x, gradient)
    assert torch.equal(ours, theirs)
    for key, value in running(virtual).items():
        values = [running(worker)[key] for worker in workers]
        target = values[0] if mode == "rank0" or "num" in key else torch.stack(values).mean(0)
        assert torch.equal(value, target)


def test_two_passes_before_one_backward():
    for mode in ("rank0", "mean"):
        norm = VirtualWorkerNorm(build("bgn"), 2, running_statistics=mode)
        x = torch.randn(4, 8, 2, 2, dtype=torch.float64, requires_grad=True)
        (norm(x).square().sum() + norm(x + 1).pow(3).sum()).backward()
        assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_is_that_of_the_wrapped_norm(name, randomised):
    norm = randomised(build(name))
    virtual = VirtualWorkerNorm(norm, 3).eval()
    x = torch.randn(5, 8, 2, 2, dtype=torch.float64)
    assert torch.equal(virtual(x), norm(x))


def test_without_running_statistics_only_training_is_in_parts():
    virtual = build("bgn", track_running_stats=False, virtual_workers=2)
    x = torch.randn(4, 8, 2, 2, dtype=torch.float64)
    parts = torch.cat([virtual.norm(part) for part in x.chunk(2)])
    assert torch.equal(virtual(x), parts)
    assert not torch.equal(virtual.eval()(x), parts)


def test_frozen_in_train_mode_is_in_parts_too():
    virtual = build("bgn", virtual_workers=2)
    x = torch.randn(4, 8, 2, 2, dtype=torch.float64)
    expected, before = copy.deepcopy(virtual)(x), running(virtual)
    with frozen_statistics(virtual, mode="train"):
        assert torch.equal(virtual(x), expected)
    assert all(torch.equal(before[key], value) for key, value in running(virtual).items())


@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_pass_both_ways(name, randomised):
    def net(workers):
        options = {"num_groups": 4} if NORMS[name].has_groups else {}
        factory = norm_factory(name, virtual_workers=workers, **options)
        return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(factory(8), nn.ReLU()), factory(8))

    plain, virtual = randomised(net(1)), randomised(net(2))
    assert list(plain.state_dict()) == list(virtual.state_dict())
    for source, target in ((plain, virtual), (virtual, plain)):
        target = copy.deepcopy(target)
        target.load_state_dict(source.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(target.state_dict().values(), source.state_dict().values()))
    missing = {key: value for key, value in plain.state_dict().items() if key != "2.weight"}
    with pytest.raises(RuntimeError, match=r"Missing key.*2\.norm\.weight"):
        virtual.load_state_dict(missing)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        virtual.load_state_dict({**plain.state_dict(), "2.surplus": torch.zeros(1)})


def test_batch_norm_checkpoints_load_into_virtual_bgn(randomised):
    old = randomised(nn.BatchNorm2d(8).double()).eval()
    virtual = build("bgn", virtual_workers=2).eval()
    virtual.load_state_dict(old.state_dict())
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(virtual(x), old(x), rtol=1e-12, atol=1e-12)


def test_batch_that_cannot_be_cut():
    virtual = build("bn", virtual_workers=4)
    with pytest.raises(ValueError, match=r"batch size must be a multiple of num_workers=4 in training; got 6\."):
        virtual(torch.randn(6, 8, 2, 2, dtype=torch.float64))
    virtual.eval()(torch.randn(6, 8, 2, 2, dtype=torch.float64))


def test_empty_batch_and_channels_last():
    virtual = build("bgn", virtual_workers=2)
    assert virtual(torch.empty(0, 8, 2, 2, dtype=torch.float64)).shape == (0, 8, 2, 2)
    x = torch.randn(4, 8, 2, 2, dtype=torch.float64).to(memory_format=torch.channels_last)
    assert virtual(x).is_contiguous(memory_format=torch.channels_last)


def test_attributes_that_backbones_use():
    virtual = build("bgn", virtual_workers=2)
    assert virtual.weight is virtual.norm.weight
    assert virtual.bias is virtual.norm.bias
    assert virtual.num_channels == VirtualWorkerNorm(nn.BatchNorm2d(8), 2).num_channels == 8
    assert "num_workers=2, running_statistics='rank0'" in repr(virtual)


def test_a_failing_part_restores_the_buffers():
    virtual = make_norm("bgn", 8, num_groups=8, virtual_workers=2)
    before = dict(virtual.named_buffers())
    with pytest.raises(ValueError, match="Expected more than 1 value"):
        virtual(torch.randn(2, 8, 1, 1))
    after = dict(virtual.named_buffers())
    assert all(after[name] is buffer for name, buffer in before.items())
