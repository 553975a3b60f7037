"""What the CPU kernels must not be asked for, or must do whatever else goes on in the process."""

import sys
import threading

import pytest
import torch
from torch import nn

from norm_layers import batch_group_norm, make_norm
from norm_layers.cpu_kernel import cpu_functions
from norm_layers.plain import plain_batch_group_norm

pytestmark = pytest.mark.skipif(not cpu_functions(), reason="there is no C++ compiler with OpenMP to build the kernel")
NORMS = [("bgn", {"num_groups": 4}), ("bgn", {"num_groups": 16}), ("gn", {"num_groups": 12}), ("pn", {})]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize(("name", "options"), NORMS)
def test_a_layer_that_comes_twice_has_the_same_gradients_with_a_graph_of_them(name, options):
    norm = make_norm(name, 8, **options).double()
    nn.init.uniform_(norm.weight)
    x = torch.randn(3, 8, 6, 5, dtype=torch.float64, requires_grad=True)
    loss = norm(norm(x).sin()).pow(3).sum()
    inputs = [x, norm.weight, norm.bias]
    expected = torch.autograd.grad(loss, inputs, retain_graph=True)
    actual = torch.autograd.grad(loss, inputs, create_graph=True)
    torch.testing.assert_close(actual, expected)
    (penalty,) = torch.autograd.grad(sum(values.square().sum() for values in actual), [norm.weight])
    assert bool(penalty.isfinite().all())


def test_parameters_that_depend_on_the_input():
    def function(x, weight):
        own = weight * x.mean((0, 2))
        return batch_group_norm(x, None, None, own, own, num_groups=4, training=True)

    inputs = [torch.randn(2, 6, 4, dtype=torch.float64), torch.randn(6, dtype=torch.float64)]
    inputs = [values.requires_grad_() for values in inputs]
    first = torch.autograd.grad(function(*inputs).pow(3).sum(), inputs)
    graphed = torch.autograd.grad(function(*inputs).pow(3).sum(), inputs, create_graph=True)
    torch.testing.assert_close(graphed, first)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(("name", "options"), NORMS)
def test_a_batch_of_output_gradients(name, options, layout, unchecked):
    norm = make_norm(name, 8, **options)
    x = torch.randn(2, 8, 40, 40).contiguous(memory_format=layout).requires_grad_()
    y = norm(x).flatten()[:3]
    inputs = [x, norm.weight]
    actual = torch.autograd.grad(y, inputs, torch.eye(3), is_grads_batched=True, retain_graph=True)
    for row, unit in enumerate(torch.eye(3)):
        expected = torch.autograd.grad(y, inputs, unit, retain_graph=True)
        torch.testing.assert_close([values[row] for values in actual], list(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "options"), NORMS)
def test_another_default_device(name, options):
    norm = make_norm(name, 8, **options)
    x = torch.randn(2, 8, 6, 5, requires_grad=True)
    with torch.device("meta"):
        norm(x).pow(3).sum().backward()
    assert x.grad.is_cpu
    assert norm.weight.grad.is_cpu


def test_threads_whose_shapes_push_one_another_out_of_the_cache():
    wrong = []

    def work():
        for width in range(3, 150):
            x = torch.full((2, 6, 5, width), 2.0)
            y = batch_group_norm(x, None, None, None, None, num_groups=4, training=True)
            wrong.extend([width] if y.any() else [])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert not wrong


def test_one_running_statistic_without_the_other_is_refused():
    x, statistic = torch.randn(2, 8, 6, 5), torch.zeros(4)
    for running in ((statistic, None), (None, statistic)):
        with pytest.raises(ValueError, match="running_mean and running_var must"):
            batch_group_norm(x, *running, None, None, num_groups=4, training=True)
    assert not statistic.any()


def test_tensors_whose_memory_does_not_hold_their_values():
    x = torch.randn(2, 8, 6, 5)
    for values, same in ((torch._neg_view(x), -x), (torch._efficientzerotensor((2, 8, 6, 5)), torch.zeros_like(x))):
        actual = batch_group_norm(values, None, None, None, None, num_groups=4, training=True)
        expected = plain_batch_group_norm(same, None, None, None, None, num_groups=4, training=True)
        torch.testing.assert_close(actual, expected)
