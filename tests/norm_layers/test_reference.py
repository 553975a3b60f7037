"""Values and running statistics of every norm against plain loops in float64, over shapes, groups and formats."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from norm_layers import make_norm
from norm_layers.functional import batch_group_norm, group_blocks
from norm_layers.sync_functional import synchronised_batch_group_norm

SETTINGS = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def cases(draw):
    """An input shape with 0 to 3 spatial axes and a group number that fits it."""
    spatial = tuple(draw(st.lists(st.integers(1, 4), min_size=0, max_size=3)))
    batch, channels = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    elements = channels * math.prod(spatial)
    return (batch, channels, *spatial), draw(st.integers(1, elements))


def build_input(shape, *, seed, channels_last=False):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 0.5
    if channels_last and x.ndim == 4:
        x = x.to(memory_format=torch.channels_last)
    return x


@SETTINGS
@given(case=cases(), channels_last=st.booleans(), unbiased=st.booleans(), seed=st.integers(0, 99))
def test_batch_group_norm_is_the_loop_of_equations_8_and_9(case, channels_last, unbiased, seed, reference, randomised):
    shape, num_groups = case
    x = build_input(shape, seed=seed, channels_last=channels_last)
    norm = make_norm("bgn", shape[1], num_groups=num_groups, unbiased_running_var=unbiased).double()
    randomised(norm)
    before = [buffer.clone() for buffer in (norm.statistics.running_mean, norm.statistics.running_var)]
    smallest = shape[0] * (math.prod(shape[1:]) // num_groups)
    if smallest <= 1:
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            norm(x)
        return
    expected, found = reference(x, "bgn", num_groups=num_groups, weight=norm.weight, bias=norm.bias)
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)
    means, biased, counts = (torch.tensor(column, dtype=torch.float64) for column in zip(*found))
    kept_vars = biased * counts / (counts - 1) if unbiased else biased
    torch.testing.assert_close(norm.statistics.running_mean, 0.9 * before[0] + 0.1 * means, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.statistics.running_var, 0.9 * before[1] + 0.1 * kept_vars, rtol=1e-12, atol=1e-12)
    norm.eval()
    kept = list(zip(norm.statistics.running_mean.tolist(), norm.statistics.running_var.tolist()))
    expected, _ = reference(x, "bgn", num_groups=num_groups, weight=norm.weight, bias=norm.bias, stats=kept)
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)


@SETTINGS
@given(case=cases(), seed=st.integers(0, 99))
def test_the_synchronised_form_is_the_same_function(case, seed, reference):
    shape, num_groups = case
    if shape[0] * (math.prod(shape[1:]) // num_groups) <= 1:
        return
    x = build_input(shape, seed=seed)
    state = [
        (torch.zeros(num_groups, dtype=torch.float64), torch.ones(num_groups, dtype=torch.float64)) for _ in range(2)
    ]
    weight, bias = (torch.randn(shape[1], dtype=torch.float64) for _ in range(2))
    local = batch_group_norm(x, *state[0], weight, bias, num_groups=num_groups, training=True)
    alone = synchronised_batch_group_norm(
        x, *state[1], weight, bias, num_groups=num_groups, all_reduce=lambda values: values
    )
    torch.testing.assert_close(alone, local, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(state[1], state[0], rtol=1e-12, atol=1e-12)


@SETTINGS
@given(case=cases(), name=st.sampled_from(["bn", "in", "ln", "pn", "gn"]), seed=st.integers(0, 99))
def test_the_other_norms_are_their_loops(case, name, seed, reference, randomised):
    shape, num_groups = case
    if name == "bn" and shape[0] * math.prod(shape[2:]) == 1:
        return
    x = build_input(shape, seed=seed)
    options = {"num_groups": num_groups} if name == "gn" else {}
    norm = randomised(make_norm(name, shape[1], **options).double())
    expected, _ = reference(x, name, num_groups=num_groups, weight=norm.weight, bias=norm.bias)
    # A set of one value has variance 0: rounding of (x - mean) is scaled by 1/sqrt(eps).
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)


@given(elements=st.integers(1, 400), data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_groups_are_those_of_tensor_split(elements, data):
    num_groups = data.draw(st.integers(1, elements))
    blocks = group_blocks(elements, num_groups=num_groups)
    sizes = [block.group_size for block in blocks for _ in range(block.num_groups)]
    assert sizes == [len(part) for part in torch.arange(elements).tensor_split(num_groups)]
    assert [block.first_element for block in blocks] == [sum(sizes[: block.first_group]) for block in blocks]


@pytest.mark.parametrize("num_groups", [1, 3, 6, 12, 24, 7, 72, 5])
def test_gradients_of_batch_group_norm(num_groups):
    torch.manual_seed(0)
    x = torch.randn(3, 6, 4, 3, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(6, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def function(x, weight, bias):
        return batch_group_norm(x, None, None, weight, bias, num_groups=num_groups, training=True)

    assert torch.autograd.gradcheck(function, (x, weight, bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (x, weight, bias), fast_mode=True)


@pytest.mark.parametrize("num_groups", [3, 6, 12, 7])
def test_gradients_in_evaluation(num_groups):
    norm = make_norm("bgn", 6, num_groups=num_groups).double().eval()
    x = torch.randn(2, 6, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,))


@pytest.mark.parametrize(("name", "num_groups"), [("in", None), ("ln", None), ("pn", None), ("gn", 3), ("gn", 4)])
def test_gradients_of_the_other_norms(name, num_groups):
    norm = make_norm(name, 6, num_groups=num_groups).double()
    x = torch.randn(2, 6, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,))


def test_known_values_by_hand():
    """Two samples of C = 2, H = 1, W = 2 and G = 2: groups are the channels."""
    x = torch.tensor([[[[0.0, 2.0]], [[4.0, 4.0]]], [[[4.0, 6.0]], [[8.0, 8.0]]]], dtype=torch.float64)
    norm = make_norm("bgn", 2, num_groups=2, eps=1e-12).double()
    y = norm(x)
    root = math.sqrt(5.0)
    expected = [[[[-3 / root, -1 / root]], [[-1, -1]]], [[[1 / root, 3 / root]], [[1, 1]]]]
    torch.testing.assert_close(y, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-11)
    torch.testing.assert_close(
        norm.statistics.running_var, torch.tensor([0.9 + 0.1 * 20 / 3, 0.9 + 0.1 * 16 / 3], dtype=torch.float64)
    )


def test_large_means_do_not_cancel():
    """Mean 100, deviation 0.01 in float32: E[x²] - E[x]² would be wrong by a factor of about 40."""
    x = torch.randn(64, 8, 8, 8, dtype=torch.float64) * 0.01 + 100
    for num_groups in (1, 8, 7, 16):
        norm = make_norm("bgn", 8, num_groups=num_groups, momentum=1.0)
        norm(x.float())
        exact = make_norm("bgn", 8, num_groups=num_groups, momentum=1.0).double()
        exact(x)
        # float32 holds 100.01 to 4e-6, which is 4e-4 of the deviation
        torch.testing.assert_close(
            norm.statistics.running_var.double(), exact.statistics.running_var, rtol=2e-3, atol=0
        )
