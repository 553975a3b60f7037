"""Copies between memory formats are torch's, bit for bit."""

import pytest
import torch

from norm_layers import make_norm
from norm_layers.cpu_transpose import in_format, transpose_functions
from norm_layers.shapes import memory_format

pytestmark = pytest.mark.skipif(not transpose_functions(), reason="there is no C++ compiler with OpenMP")
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(2, 36, 16, 17), (3, 64, 10, 10), (1, 16, 64, 33), (2, 19, 5, 9, 11), (2, 3, 2, 2)])
def test_both_ways(shape, dtype):
    x = torch.randn(shape).to(dtype)
    other = FORMATS[len(shape)]
    there = in_format(x, other)
    back = in_format(there, torch.contiguous_format)
    assert there.is_contiguous(memory_format=other)
    assert back.is_contiguous()
    assert torch.equal(there, x)
    assert torch.equal(back, x)
    assert in_format(x, torch.contiguous_format) is x


def test_values_that_are_not_dense_take_the_copy_of_torch():
    x = torch.randn(4, 64, 20, 20).to(memory_format=torch.channels_last)[:, :48]
    assert torch.equal(in_format(x, torch.contiguous_format), x)


def test_gradients_keep_the_format_of_the_input():
    x = torch.randn(2, 36, 16, 16, dtype=torch.float64).to(memory_format=torch.channels_last)
    gradient = torch.randn_like(x)
    results = []
    for values in (x, x.contiguous()):
        norm = make_norm("bgn", 36, num_groups=256).double()
        leaf = values.clone(memory_format=torch.preserve_format).requires_grad_()
        y = norm(leaf)
        first = torch.autograd.grad(y, [leaf, *norm.parameters()], gradient, create_graph=True)
        second = torch.autograd.grad(first[0].pow(2).sum(), [leaf, norm.weight])
        assert memory_format(y) == memory_format(values) == memory_format(first[0])
        results.append([y, *first, *second])
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected)
