"""The kernel for training on the CPU against torch's own operations: values, gradients, statistics, memory."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from norm_layers import batch_group_norm, make_norm
from norm_layers.cpu_kernel import cpu_functions
from norm_layers.instance_functional import flat_group_norm, group_norm
from norm_layers.plain import plain_batch_group_norm, plain_flat_group_norm
from norm_layers.shapes import memory_format

pytestmark = pytest.mark.skipif(not cpu_functions(), reason="there is no C++ compiler with OpenMP to build the kernel")

TOLERANCES = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
    torch.float32: {"rtol": 1e-4, "atol": 1e-4},
    torch.bfloat16: {"rtol": 3e-2, "atol": 3e-2},
}
# Whole channels, bands inside channels, groups that straddle channels, and uneven ones.
CASES = [
    ((4, 8, 6, 5), 1),
    ((4, 8, 6, 5), 4),
    ((4, 8, 6, 5), 16),
    ((4, 36, 8, 8), 256),
    ((3, 6, 5, 5), 7),
    ((150, 12, 3, 3), 5),
    ((2, 6, 32, 32), 4),
    ((2, 5, 40, 33), 3),
    ((300, 96), 32),
    ((5, 768, 1, 1), 256),
    ((2, 16, 11), 8),
    ((2, 8, 3, 4, 5), 4),
    ((1, 8, 7, 7), 2),
    ((3, 36, 7, 5), 12),
    ((2, 100, 6, 6), 400),
    ((2, 600, 3, 3), 7),
    ((40, 24, 5, 5), 32),
]
LAYOUTS = ["contiguous", "channels_last", "sliced", "transposed", "expanded"]


def arrange(values, layout):
    """Lay values out in memory, with the same values."""
    if layout == "channels_last" and values.ndim in (4, 5):
        return values.to(memory_format=torch.channels_last if values.ndim == 4 else torch.channels_last_3d)
    if layout == "sliced":
        wide = torch.cat([values, values], dim=-1)
        return wide.narrow(-1, 0, values.shape[-1])
    if layout == "transposed":
        return values.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "expanded":
        return values[:, :, :1].expand(values.shape) if values.ndim > 2 else values[:1].expand(values.shape)
    return values


def run(norm, x, weight, bias, gradient, *, num_groups, dtype, **options):
    """One training step: output, gradients of x, weight and bias, running mean and variance."""
    leaves = [values.clone(memory_format=torch.preserve_format).requires_grad_() for values in (x, weight, bias)]
    running = [torch.full((num_groups,), 0.5, dtype=dtype), torch.full((num_groups,), 2.0, dtype=dtype)]
    y = norm(leaves[0], *running, *leaves[1:], num_groups=num_groups, training=True, **options)
    return [y.detach(), *torch.autograd.grad(y, leaves, gradient), *running]


@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "num_groups"), CASES)
def test_kernel_is_the_plain_function(shape, num_groups, layout, dtype):
    kept = torch.promote_types(dtype, torch.float32)
    x = arrange((torch.randn(shape) * 2 + 1).to(dtype), layout)
    gradient = arrange(torch.randn(shape).to(dtype), layout)
    weight, bias = torch.rand(shape[1], dtype=kept) - 0.3, torch.randn(shape[1], dtype=kept)
    options = {"num_groups": num_groups, "dtype": kept, "momentum": 0.3, "unbiased_running_var": layout != "sliced"}
    actual = run(batch_group_norm, x, weight, bias, gradient, **options)
    # In float64: in lower precision the reference itself is the less exact of the two.
    exact = [values.double() for values in (x, weight, bias, gradient)]
    expected = run(plain_batch_group_norm, *exact, **options | {"dtype": torch.float64})
    for name, ours, reference in zip(("y", "dx", "dweight", "dbias", "mean", "var"), actual, expected):
        scale = max(1.0, reference.abs().max().item())
        torch.testing.assert_close(
            ours.double() / scale,
            reference / scale,
            **TOLERANCES[dtype],
            msg=lambda text, name=name: f"{name}: {text}",
        )
    plain = run(plain_batch_group_norm, x, weight, bias, gradient, **options)
    assert memory_format(actual[0]) == memory_format(plain[0])
    assert [values.dtype for values in actual] == [values.dtype for values in plain]


@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "num_groups"), [((3, 6, 5, 5), 7), ((4, 36, 8, 8), 32), ((2, 5, 40, 33), 3)])
def test_flat_groups_are_the_plain_function(shape, num_groups, layout, dtype):
    kept = torch.promote_types(dtype, torch.float32)
    x, gradient = (arrange(torch.randn(shape).to(dtype), layout) for _ in range(2))
    affine = [torch.rand(shape[1], dtype=kept) - 0.3, torch.randn(shape[1], dtype=kept)]
    results = []
    for norm, wide in ((flat_group_norm, dtype), (plain_flat_group_norm, torch.float64)):
        leaves = [values.to(torch.promote_types(values.dtype, wide)).requires_grad_() for values in (x, *affine)]
        y = norm(*leaves, num_groups=num_groups, eps=1e-3)
        assert memory_format(y) == memory_format(x)
        results.append([y.detach(), *torch.autograd.grad(y, leaves, gradient.to(y.dtype))])
    for ours, reference in zip(*results):
        scale = max(1.0, reference.abs().max().item())
        torch.testing.assert_close(ours.double() / scale, reference / scale, **TOLERANCES[dtype])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("shape", "num_groups"), [((16, 8, 12, 12), 4), ((16, 36, 8, 8), 64), ((600, 8, 2, 2), 2)])
@pytest.mark.parametrize("outlier", [False, True])
def test_a_small_variance_around_a_huge_mean(shape, num_groups, layout, outlier):
    x = torch.randn(shape) * 0.01 + 100
    if outlier:
        x[0, 0, 0, 0] = 0.0
    x = arrange(x, layout)
    running = [torch.zeros(num_groups), torch.ones(num_groups)]
    exact = [values.double() for values in running]
    y = batch_group_norm(x, *running, None, None, num_groups=num_groups, training=True, momentum=1.0)
    expected = plain_batch_group_norm(
        x.double(), *exact, None, None, num_groups=num_groups, training=True, momentum=1.0
    )
    torch.testing.assert_close(running[0].double(), exact[0], rtol=1e-7, atol=0)
    torch.testing.assert_close(running[1].double(), exact[1], rtol=2e-5, atol=0)
    torch.testing.assert_close(y.double(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize(("shape", "num_groups"), [((4, 8, 6, 5), 16), ((4, 36, 8, 8), 256), ((3, 6, 5, 5), 7)])
def test_evaluation_is_the_plain_function(shape, num_groups, layout, dtype):
    kept = torch.promote_types(dtype, torch.float32)
    x, gradient = (arrange(torch.randn(shape).to(dtype), layout) for _ in range(2))
    tensors = [
        torch.randn(num_groups),
        torch.rand(num_groups) + 0.3,
        torch.rand(shape[1]) - 0.3,
        torch.randn(shape[1]),
    ]
    results = []
    for norm, wide in ((batch_group_norm, dtype), (plain_batch_group_norm, torch.float64)):
        mean, var, *affine = (values.to(torch.promote_types(kept, wide)) for values in tensors)
        leaves = [values.clone().requires_grad_() for values in (x.to(torch.promote_types(dtype, wide)), *affine)]
        y = norm(leaves[0], mean, var, *leaves[1:], num_groups=num_groups, training=False)
        results.append([y.detach(), *torch.autograd.grad(y, leaves, gradient.to(y.dtype)), mean, var])
    for ours, reference in zip(*results):
        scale = max(1.0, reference.abs().max().item())
        torch.testing.assert_close(ours.double() / scale, reference / scale, **TOLERANCES[dtype])


def test_no_gradients_that_nobody_wants():
    x, weight, bias = torch.randn(4, 8, 5, 5), torch.rand(8), torch.rand(8)
    gradient = torch.randn_like(x)
    full = run(batch_group_norm, x, weight, bias, gradient, num_groups=4, dtype=torch.float32)[1:4]
    for wanted in range(3):
        leaves = [x.clone(), weight.clone(), bias.clone()]
        leaves[wanted].requires_grad_()
        y = batch_group_norm(leaves[0], None, None, *leaves[1:], num_groups=4, training=True)
        y.backward(gradient)
        assert torch.equal(leaves[wanted].grad, full[wanted])
    assert not batch_group_norm(x, None, None, weight, bias, num_groups=4, training=True).requires_grad


@pytest.mark.parametrize("num_groups", [2, 12, 5])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_in_evaluation_a_bad_value_spoils_itself_alone(num_groups, layout):
    """Where statistics are given, no gradient depends on another value's."""
    x, gradient = (arrange(torch.randn(2, 6, 4, 4), layout) for _ in range(2))
    gradient[1, 2, 3, 0], x[0, 0, 0, 0] = torch.nan, torch.inf
    x.requires_grad_()
    running = [torch.zeros(num_groups), torch.ones(num_groups)]
    y = batch_group_norm(x, *running, None, None, num_groups=num_groups, training=False)
    (dx,) = torch.autograd.grad(y, x, gradient)
    assert dx.isnan().nonzero().tolist() == [[1, 2, 3, 0]]
    assert dx.isfinite().sum() == dx.numel() - 1


@pytest.mark.parametrize("num_groups", [4, 5, 12, 97, 1000])
def test_group_norm_refuses_what_torch_refuses_in_any_layout(num_groups):
    x = torch.randn(2, 6, 4, 4)
    for layout in ("contiguous", "channels_last"):
        with pytest.raises(RuntimeError, match="divisible by num_groups"):
            group_norm(arrange(x, layout), None, None, num_groups=num_groups)


@pytest.mark.parametrize(("shape", "num_groups"), [((3, 6, 5, 5), 6), ((4, 36, 8, 8), 12), ((2, 100, 3, 7), 50)])
@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
def test_group_norm_of_narrow_groups_in_channels_last(shape, num_groups, dtype):
    x, gradient = (arrange(torch.randn(shape).to(dtype), "channels_last") for _ in range(2))
    affine = [torch.rand(shape[1], dtype=dtype) - 0.3, torch.randn(shape[1], dtype=dtype)]
    results = []
    for norm, wide in (
        (group_norm, dtype),
        (lambda *args, num_groups: F.group_norm(args[0], num_groups, *args[1:]), torch.float64),
    ):
        leaves = [values.to(wide).requires_grad_() for values in (x, *affine)]
        y = norm(*leaves, num_groups=num_groups)
        results.append([y.detach(), *torch.autograd.grad(y, leaves, gradient.to(wide))])
    for ours, reference in zip(*results):
        scale = max(1.0, reference.abs().max().item())
        torch.testing.assert_close(ours.double() / scale, reference / scale, **TOLERANCES[dtype])


def test_weights_of_a_higher_precision_than_the_input_are_not_rounded():
    x = arrange((torch.randn(2, 6, 4, 4) + 1000), "channels_last")
    weight = torch.rand(6, dtype=torch.float64)
    expected = F.group_norm(x.double(), 6, weight)
    torch.testing.assert_close(group_norm(x, weight, None, num_groups=6).double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num_groups", [2, 12, 5])
@pytest.mark.parametrize("channels_last", [False, True])
def test_second_derivatives(num_groups, channels_last):
    x = torch.randn(2, 6, 3, 2, dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    inputs = [x, *(torch.randn(6, dtype=torch.float64) for _ in range(2))]
    inputs = [values.requires_grad_() for values in inputs]

    def function(x, weight, bias):
        return batch_group_norm(x, None, None, weight, bias, num_groups=num_groups, training=True)

    def flat(x, weight, bias):
        return flat_group_norm(x, weight, bias, num_groups=num_groups)

    running = [torch.randn(num_groups, dtype=torch.float64), torch.rand(num_groups, dtype=torch.float64) + 0.5]

    def evaluation(x, weight, bias):
        return batch_group_norm(x, *running, weight, bias, num_groups=num_groups, training=False)

    assert torch.autograd.gradcheck(evaluation, inputs)
    assert torch.autograd.gradgradcheck(evaluation, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(flat, inputs)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("num_groups", [8, 32, 23])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_no_result_depends_on_the_number_of_threads(layout, num_groups):
    x, gradient = (arrange(torch.randn(8, 16, 30, 30), layout) for _ in range(2))
    weight, bias = torch.rand(16), torch.rand(16)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(run(batch_group_norm, x, weight, bias, gradient, num_groups=num_groups, dtype=torch.float32))
        y = flat_group_norm(x.requires_grad_(), weight, bias, num_groups=num_groups)
        results[-1] += [y.detach(), *torch.autograd.grad(y, x, gradient)]
        x.requires_grad_(False)
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))


def saved_bytes(norm, x):
    """Bytes that a norm keeps for its backward pass, each storage once; parameters and buffers not counted."""
    own = {values.untyped_storage().data_ptr() for values in (*norm.parameters(), *norm.buffers())}
    kept = {}

    def pack(values):
        storage = values.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return values

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values):
        y = norm(x.requires_grad_())
    del y
    return sum(kept.values())


@pytest.mark.parametrize("num_groups", [4, 8, 16, 96, 100])
def test_saved_activations_are_those_of_batch_norm(num_groups):
    x = torch.randn(4, 8, 16, 15)
    assert saved_bytes(nn.BatchNorm2d(8), x) >= x.numel() * 4
    assert saved_bytes(make_norm("bgn", 8, num_groups=num_groups), x) <= x.numel() * 4 + 2 * 4 * num_groups
    if 8 % num_groups != 0:
        assert saved_bytes(make_norm("gn", 8, num_groups=num_groups), x) <= x.numel() * 4 + 4 * 2 * 4 * num_groups


def test_activation_checkpoints_give_the_same_gradients():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), make_norm("bgn", 8, num_groups=16, track_running_stats=False), nn.ReLU())
    x = torch.randn(2, 3, 10, 10)
    gradients = []
    for forward in (net, lambda x: checkpoint(net, x, use_reentrant=False)):
        net.zero_grad()
        forward(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # torch's own forward-mode formulas
def test_what_the_kernel_cannot_do_falls_back(unchecked):
    from torch._subclasses import FakeTensorMode
    from torch.autograd import forward_ad

    norm = make_norm("bgn", 8, num_groups=4, track_running_stats=False)
    x = torch.randn(4, 8, 5, 5)
    expected = norm(x)
    gradient = torch.func.grad(lambda x: norm(x).pow(3).sum())(x)
    leaf = x.clone().requires_grad_()
    norm(leaf).pow(3).sum().backward()
    torch.testing.assert_close(gradient, leaf.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.func.vmap(norm)(torch.stack([x, x]))[1], expected)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert norm(mode.from_tensor(x)).shape == x.shape
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(norm(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
    torch.testing.assert_close(tangent, torch.zeros_like(x), rtol=0, atol=1e-4)  # a constant added changes nothing
    assert norm(x.half()).dtype == torch.float16
    assert make_norm("bgn", 8, num_groups=4).to("meta")(x.to("meta")).shape == x.shape


PROGRAM = """
import logging, torch
from norm_layers import make_norm
from norm_layers.cpu_kernel import cpu_functions
logging.basicConfig(level=logging.INFO)
torch.manual_seed(0)
x = torch.randn(4, 8, 6, 6, requires_grad=True)
make_norm("bgn", 8, num_groups=16)(x).pow(3).sum().backward()
print(bool(cpu_functions()), x.grad.abs().sum().item())
"""


def start(tmp_path, **environment):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_processes_that_build_at_once_and_those_that_cannot(tmp_path):
    answers = []
    builders = [start(tmp_path) for _ in range(3)]
    without = [
        start(tmp_path / "empty", CXX=str(tmp_path / "no-compiler")),
        start(tmp_path / "broken", CXX="false"),
        start(tmp_path, NORM_LAYERS_KERNEL="0"),
        start(tmp_path, XDG_CACHE_HOME=os.devnull),
    ]
    for process in (*builders, *without):
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        built, total = output.split()
        answers.append((built == "True", float(total), errors.count("no CPU kernel")))
    assert [built for built, _, _ in answers] == [True] * 3 + [False] * 4
    assert [reason for _, _, reason in answers] == [0, 0, 0, 1, 1, 0, 1]
    assert [total for _, total, _ in answers] == pytest.approx([answers[0][1]] * 7, rel=1e-5)
    (library,) = (tmp_path / "norm_layers").iterdir()
    library.write_bytes(b"no library")
    process = start(tmp_path)
    output, errors = process.communicate(timeout=120)
    assert (output.split()[0], process.returncode) == ("False", 0), errors
