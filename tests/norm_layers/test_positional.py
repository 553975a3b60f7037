"""The CPU kernel for positional normalization against torch's own operations."""

import pytest
import torch

from norm_layers import make_norm
from norm_layers.cpu_positional import fused_positional_norm, positional_functions
from norm_layers.instance_functional import positional_norm
from norm_layers.plain import plain_positional_norm
from norm_layers.shapes import memory_format

pytestmark = pytest.mark.skipif(not positional_functions(), reason="there is no C++ compiler with OpenMP")

TOLERANCES = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
    torch.float32: {"rtol": 1e-4, "atol": 1e-4},
    torch.bfloat16: {"rtol": 3e-2, "atol": 3e-2},
}
SHAPES = [(2, 3, 16), (2, 40, 7, 7), (1, 130, 5, 5), (3, 16, 33, 35), (2, 5, 3, 4, 5), (2, 1, 8, 8), (2, 1200, 4, 4)]


def run(norm, x, weight, bias, gradient):
    leaves = [None if v is None else v.detach().clone().requires_grad_() for v in (x, weight, bias)]
    y = norm(*leaves, eps=1e-3)
    return [y.detach(), *torch.autograd.grad(y, [v for v in leaves if v is not None], gradient.to(y.dtype))]


@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_is_the_plain_function(shape, affine, dtype):
    kept = torch.promote_types(dtype, torch.float32)
    x, gradient = (torch.randn(shape) * 2 + 1).to(dtype), torch.randn(shape).to(dtype)
    parameters = [torch.rand(shape[1], dtype=kept) - 0.3, torch.randn(shape[1], dtype=kept)] if affine else [None] * 2
    assert fused_positional_norm(x, *parameters, eps=1e-3) is not None
    actual = run(positional_norm, x, *parameters, gradient)
    exact = [None if v is None else v.double() for v in (x, *parameters, gradient)]
    expected = run(plain_positional_norm, *exact)
    for ours, reference in zip(actual, expected, strict=True):
        scale = max(1.0, reference.abs().max().item())
        torch.testing.assert_close(ours.double() / scale, reference / scale, **TOLERANCES[dtype])
    plain = run(plain_positional_norm, x, *parameters, gradient)
    assert [values.dtype for values in actual] == [values.dtype for values in plain]


def test_a_small_variance_around_a_huge_mean():
    x = torch.randn(2, 300, 6, 6) * 0.01 + 100
    x[0, 0] = 0.0
    expected = plain_positional_norm(x.double(), None, None, eps=1e-5)
    torch.testing.assert_close(positional_norm(x, None, None).double(), expected, rtol=1e-3, atol=1e-3)


def test_other_layouts_and_small_maps_keep_their_format():
    norm = make_norm("pn", 8)
    x = torch.randn(2, 8, 6, 5)
    for other in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        torch.testing.assert_close(norm(other), norm(x))
        assert memory_format(norm(other)) == memory_format(other)
    assert norm(x[:, :, :1, :1]).shape == (2, 8, 1, 1)
    assert norm(x[:0]).shape == (0, 8, 6, 5)
    assert fused_positional_norm(x[:, :, :2, :2].contiguous(), None, None, eps=1e-5) is None


def test_a_not_a_number_stays_at_its_position():
    x = torch.randn(2, 20, 5, 5)
    x[1, 3, 2, 2] = float("nan")
    bad = positional_norm(x, None, None).isnan()
    assert bool(bad[1, :, 2, 2].all())
    assert int(bad.sum()) == 20


def test_second_derivatives_and_gradients_that_nobody_wants():
    inputs = [torch.randn(2, 3, 4, 4, dtype=torch.float64), *(torch.randn(3, dtype=torch.float64) for _ in range(2))]
    inputs = [values.requires_grad_() for values in inputs]
    assert torch.autograd.gradcheck(positional_norm, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(positional_norm, inputs, fast_mode=True)
    full = torch.autograd.grad(positional_norm(*inputs).pow(3).sum(), inputs)
    for wanted in range(3):
        leaves = [values.detach().requires_grad_(index == wanted) for index, values in enumerate(inputs)]
        positional_norm(*leaves).pow(3).sum().backward()
        assert torch.equal(leaves[wanted].grad, full[wanted])


def test_no_result_depends_on_the_number_of_threads():
    x, gradient, weight, bias = torch.randn(4, 24, 30, 30), torch.randn(4, 24, 30, 30), torch.rand(24), torch.rand(24)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(run(positional_norm, x, weight, bias, gradient))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))
