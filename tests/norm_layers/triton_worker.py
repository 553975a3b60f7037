"""What `test_triton.py` runs under TRITON_INTERPRET=1, where Triton's kernels run on the CPU, in NumPy."""

import torch
from torch.utils.checkpoint import checkpoint

from norm_layers import triton_ops
from norm_layers.plain import plain_batch_group_norm
from norm_layers.plan import batch_layout
from norm_layers.triton_route import kernels_agree, triton_normalise

CASES = [
    ((4, 8, 6, 5), 4, False),
    ((4, 8, 6, 5), 4, True),
    ((4, 8, 6, 5), 1, True),
    ((4, 36, 8, 8), 256, False),
    ((3, 6, 5, 5), 7, False),
    ((150, 12, 3, 3), 5, False),
    ((2, 6, 40, 40), 4, False),
    ((2, 6, 40, 40), 3, True),
    ((5, 768, 1, 1), 256, False),
    ((300, 96, 2, 2), 32, True),
    ((2, 8, 3, 4, 5), 4, True),
    ((300, 96), 32, False),
]
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def dense(values, channels_last):
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return values.contiguous(memory_format=formats[values.ndim]) if channels_last else values.contiguous()


def check_values(shape, num_groups, channels_last, dtype, unbiased, affine):
    """Output, gradients and running statistics against torch's own operations in float64."""
    x, gradient = (dense((torch.randn(shape) * 2 + 1).to(dtype), channels_last) for _ in range(2))
    parameters = [torch.rand(shape[1]) - 0.3, torch.randn(shape[1])] if affine else [None, None]
    layout = batch_layout(shape, num_groups, "split", channels_last, True)
    results = []
    for wide in (False, True):
        tensors = [None if v is None else v.double() if wide else v for v in (x, *parameters)]
        tensors = [None if v is None else v.detach().requires_grad_() for v in tensors]
        running = [torch.full((num_groups,), value, dtype=tensors[0].dtype if wide else None) for value in (0.5, 2.0)]
        if wide:
            y = plain_batch_group_norm(
                *(tensors[0], *running, *tensors[1:]),
                num_groups=num_groups,
                training=True,
                momentum=0.3,
                unbiased_running_var=unbiased,
            )
        else:
            y = triton_normalise(*(*tensors, *running, layout), momentum=0.3, unbiased=unbiased, eps=1e-5)
            assert y.dtype == dtype
            assert y.stride() == x.stride()
        leaves = [v for v in tensors if v is not None]
        results.append([y.detach(), *torch.autograd.grad(y, leaves, gradient.to(y.dtype)), *running])
    for ours, expected in zip(*results):
        scale = max(1.0, expected.abs().max().item())
        tolerance = TOLERANCES[dtype]
        torch.testing.assert_close(ours.double() / scale, expected / scale, rtol=tolerance, atol=tolerance)


def check_huge_mean():
    """A small variance around a huge mean survives: sums are centred."""
    for channels_last, num_groups in ((False, 4), (False, 5), (True, 4)):
        x = dense(torch.randn(16, 8, 6, 6) * 0.01 + 100, channels_last)
        running = [torch.zeros(num_groups), torch.zeros(num_groups)]
        exact = [values.double() for values in running]
        layout = batch_layout(tuple(x.shape), num_groups, "split", channels_last, True)
        triton_normalise(x, None, None, *running, layout, momentum=1.0, unbiased=True, eps=1e-5)
        plain_batch_group_norm(x.double(), *exact, None, None, num_groups=num_groups, training=True, momentum=1.0)
        torch.testing.assert_close(running[1].double(), exact[1], rtol=1e-4, atol=0)


def check_operators():
    """Schemas, shapes for tracing, derivatives; compilation, checkpoints, second derivatives."""
    x, weight, bias = torch.randn(3, 6, 4, 4), torch.rand(6), torch.rand(6)
    leaves = [values.requires_grad_() for values in (x, weight, bias)]
    operator = torch.ops.norm_layers.normalise
    torch.library.opcheck(operator, (*leaves, 4, False, True, 1e-5), atol=1e-4, rtol=1e-4)
    _, statistics = operator(*leaves, 4, False, True, 1e-5)
    arguments = (torch.randn_like(x), x.detach(), weight.detach(), statistics, False)
    torch.library.opcheck(torch.ops.norm_layers.differentiate, arguments)

    def function(x, weight, bias):
        return operator(x, weight, bias, 4, False, True, 1e-5)[0].tanh()

    expected = torch.autograd.grad(function(*leaves).sum(), leaves)
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for other in (compiled, lambda *inputs: checkpoint(function, *inputs, use_reentrant=False)):
        torch.testing.assert_close(torch.autograd.grad(other(*leaves).sum(), leaves), expected)

    def plain(x, weight, bias):
        return plain_batch_group_norm(x, None, None, weight, bias, num_groups=4, training=True).tanh()

    second = []
    for norm in (function, plain):
        first = torch.autograd.grad(norm(*leaves).pow(2).sum(), leaves, create_graph=True)
        second.append(torch.autograd.grad(sum(values.pow(2).sum() for values in first), leaves))
    torch.testing.assert_close(*second, rtol=1e-3, atol=1e-4)


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    assert "CPU" in triton_ops._DEVICES
    for index, case in enumerate(CASES):
        for dtype in TOLERANCES if index < 4 else [torch.float32]:
            check_values(*case, dtype, unbiased=index % 2 == 0, affine=index % 3 != 2)
    check_huge_mean()
    check_operators()
    assert kernels_agree(torch.device("cpu"))
    print("agree")
