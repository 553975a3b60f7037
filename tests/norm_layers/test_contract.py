"""What every norm in NORMS promises, whatever it computes."""

import copy
import pickle

import pytest
import torch
from torch import nn

from norm_layers import NORMS, make_norm, norm_factory

NAMES = list(NORMS)
SHAPES = [(4, 8), (4, 8, 6), (4, 8, 6, 5), (2, 8, 3, 4, 2)]


def build(name, num_channels=8, **options):
    groups = {"num_groups": 4} if NORMS[name].has_groups else {}
    return make_norm(name, num_channels, **(groups | options))


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.mark.parametrize("shape", SHAPES, ids=len)
def test_every_rank_trains_and_evaluates(name, shape):
    norm, x = build(name), torch.randn(shape, requires_grad=True)
    y = norm(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert x.grad.shape == x.shape
    assert norm.eval()(x).shape == x.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_output_has_dtype_and_memory_format_of_the_input(name, dtype, channels_last):
    norm = build(name).to(dtype)
    x = torch.randn(4, 8, 6, 5).to(dtype)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    for _ in range(2):
        y = norm(x)
        assert y.dtype == dtype
        assert y.stride() == x.stride()
        norm.eval()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_close_to_float32(name, dtype):
    exact = build(name)
    half = copy.deepcopy(exact).to(dtype)
    x = torch.randn(4, 8, 6, 5).to(dtype)
    torch.testing.assert_close(half(x).float(), exact(x.float()), rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(half.eval()(x).float(), exact.eval()(x.float()), rtol=2e-2, atol=2e-2)


def test_half_precision_input_with_float32_parameters(name):
    norm, x = build(name), torch.randn(4, 8, 6, 5, dtype=torch.bfloat16)
    assert norm(x).dtype == torch.bfloat16
    assert norm.eval()(x).dtype == torch.bfloat16


def test_autocast_on_the_cpu(name):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), build(name), nn.Conv2d(8, 4, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(torch.randn(2, 3, 8, 8))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("half", ["bfloat16", "half"])
def test_running_statistics_stay_float32_in_a_half_precision_model(name, half):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), build(name))
    before = {key: value.clone() for key, value in net.state_dict().items() if "running" in key}
    getattr(net, half)()
    for key, value in before.items():
        assert net.state_dict()[key].dtype == torch.float32
        assert torch.equal(net.state_dict()[key], value)
    assert bool(before) == NORMS[name].has_running_statistics
    assert net.double().state_dict()[next(iter(before))].dtype == torch.float64 if before else True


@pytest.fixture(params=[torch.bfloat16, torch.float16], ids=str)
def half_default(request):
    """A half-precision default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@pytest.mark.parametrize("num_groups", [4, 5, 16])
@pytest.mark.parametrize("virtual_workers", [1, 2])
def test_running_statistics_are_float32_under_a_half_precision_default(
    name, num_groups, virtual_workers, half_default
):
    groups = {"num_groups": num_groups} if NORMS[name].has_groups and name != "gn" else {}
    norm = build(name, virtual_workers=virtual_workers, **groups)
    statistics = [buffer for key, buffer in norm.named_buffers() if "running" in key]
    assert {buffer.dtype for buffer in statistics} == ({torch.float32} if statistics else set())
    x = torch.randn(4, 8, 4, 4) + 3
    assert norm(x).dtype == half_default
    assert norm.eval()(x).dtype == half_default
    for key, buffer in norm.named_buffers():
        if key.endswith("running_mean"):
            assert buffer.mean().item() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("assign", [True, False])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_running_statistics_stay_float32_through_a_half_precision_checkpoint(name, half, assign, randomised):
    net = nn.Sequential(randomised(build(name)), randomised(build(name, virtual_workers=2)))
    halved = {key: value.to(half) if value.is_floating_point() else value for key, value in net.state_dict().items()}
    loaded = nn.Sequential(build(name), build(name, virtual_workers=2))
    loaded.load_state_dict(halved, assign=assign)
    for key, value in loaded.state_dict().items():
        if "running" in key:
            assert value.dtype == torch.float32
            assert torch.equal(value, halved[key].float())
    x = torch.randn(4, 8, 4, 4, dtype=half if assign else torch.float32)
    assert loaded(x).dtype == x.dtype
    assert loaded.eval()(x).dtype == x.dtype


def test_half_precision_batch_norm_checkpoint_is_folded_in_float32(randomised):
    old = randomised(nn.BatchNorm2d(8)).eval()
    halved = {key: v.bfloat16() if v.is_floating_point() else v for key, v in old.state_dict().items()}
    old.load_state_dict(halved)
    x = torch.randn(4, 8, 4, 4)
    for num_groups in (2, 5, 8, 16):
        for assign in (True, False):
            new = build("bgn", num_groups=num_groups).eval()
            new.load_state_dict(halved, assign=assign)
            assert new.statistics.running_mean.dtype == torch.float32
            torch.testing.assert_close(new(x), old(x), rtol=1e-5, atol=1e-5)


def test_bfloat16_running_mean_reaches_the_true_mean():
    norm = build("bgn", momentum=0.01).bfloat16()
    for _ in range(1000):
        norm(torch.randn(4, 8, 4, 4).bfloat16() + 3)
    assert norm.statistics.running_mean.mean().item() == pytest.approx(3.0, abs=0.05)


def test_empty_batch_passes_and_gives_zero_gradients(name):
    norm, x = build(name), torch.empty(0, 8, 4, 4, requires_grad=True)
    buffers = [buffer.clone() for buffer in norm.buffers()]
    y = norm(x)
    assert y.shape == x.shape
    y.sum().backward()
    for parameter in norm.parameters():
        assert torch.equal(parameter.grad, torch.zeros(8))
    assert all(torch.equal(a, b) for a, b in zip(norm.buffers(), buffers))
    assert norm.eval()(x).shape == x.shape


def test_batch_of_one_trains(name):
    y = build(name)(torch.randn(1, 8, 4, 4))
    assert torch.isfinite(y).all()


def test_one_pixel_maps_train(name):
    y = build(name)(torch.randn(4, 8, 1, 1))
    assert torch.isfinite(y).all()


def test_evaluation_does_not_mix_samples(name):
    norm = build(name).eval()
    x = torch.randn(4, 8, 4, 4)
    torch.testing.assert_close(norm(x)[:1], norm(x[:1]))


def test_without_affine_there_are_no_parameters(name):
    norm = build(name, affine=False)
    assert list(norm.parameters()) == []
    assert torch.isfinite(norm(torch.randn(4, 8, 4, 4))).all()


def test_affine_starts_as_identity(name):
    norm = build(name)
    for key, parameter in norm.named_parameters():
        assert torch.equal(parameter, torch.full((8,), 1.0 if key.endswith("weight") else 0.0))
    assert len(list(norm.parameters())) == (0 if name == "none" else 2)


def test_without_tracking_there_are_no_buffers_and_evaluation_uses_the_batch(name):
    norm = build(name, track_running_stats=False)
    assert list(norm.buffers()) == []
    x = torch.randn(4, 8, 4, 4) * 5 + 2
    y = norm(x)
    torch.testing.assert_close(norm.eval()(x), y)


def test_copy_pickle_and_state_dict(name, randomised):
    norm = randomised(build(name)).eval()
    x = torch.randn(2, 8, 4, 4)
    for other in (copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))):
        assert torch.equal(other(x), norm(x))
    fresh = build(name).eval()
    fresh.load_state_dict(norm.state_dict())
    assert torch.equal(fresh(x), norm(x))


def test_repr_names_channels_and_options(name):
    text = repr(build(name))
    assert "8" in text
    assert ("eps=1e-05" in text) == (name != "none")
    assert ("num_groups=4" in text) == NORMS[name].has_groups


def test_wrong_inputs_are_named(name):
    norm = build(name)
    with pytest.raises(
        ValueError, match=r"input must have 8 channels on axis 1; got 4 \(input shape \(2, 4, 8, 8\)\)"
    ):
        norm(torch.randn(2, 4, 8, 8))
    with pytest.raises(ValueError, match=r"input must have shape \(N, C, \*spatial\).*got \(8,\)"):
        norm(torch.randn(8))
    with pytest.raises(TypeError, match=r"input must be a floating-point tensor; got torch.int64"):
        norm(torch.zeros(2, 8, 4, 4, dtype=torch.long))


def test_wrong_options_are_named(name):
    with pytest.raises(ValueError, match="num_channels must be positive; got 0"):
        build(name, num_channels=0)
    if name != "none":
        with pytest.raises(ValueError, match=r"eps must be positive; got 0\.0"):
            build(name, eps=0.0)
    if NORMS[name].has_running_statistics:
        with pytest.raises(ValueError, match="momentum must be from 0 to 1, or None for a plain average; got 2"):
            build(name, momentum=2.0)
    if NORMS[name].has_groups:
        with pytest.raises(ValueError, match="num_groups must be positive; got 0"):
            build(name, num_groups=0)


def test_factory_builds_torchvision_nets(name):
    torchvision = pytest.importorskip("torchvision")
    options = {"num_groups": 8} if NORMS[name].has_groups else {}
    net = torchvision.models.resnet18(norm_layer=norm_factory(name, **options), num_classes=3, zero_init_residual=True)
    y = net(torch.randn(2, 3, 64, 64))
    y.sum().backward()
    assert torch.isfinite(y).all()


def test_vmap_and_per_sample_gradients_in_evaluation(name, randomised):
    norm = randomised(build(name)).eval()
    x = torch.randn(3, 2, 8, 3, 3)
    torch.testing.assert_close(torch.func.vmap(norm)(x), torch.stack([norm(part) for part in x]))
    gradients = torch.func.vmap(torch.func.grad(lambda part: norm(part).square().sum()))(x)
    leaf = x.clone().requires_grad_()
    norm(leaf.flatten(0, 1)).square().sum().backward()
    torch.testing.assert_close(gradients, leaf.grad, rtol=1e-4, atol=1e-4)
