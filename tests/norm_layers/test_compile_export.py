"""torch.compile without graph breaks, and torch.export with dynamic shapes."""

import copy
import shutil

import pytest
import torch
from torch import nn

from norm_layers import NORMS, frozen_statistics, make_norm

GROUPS = [1, 4, 8, 16, 5]


@pytest.fixture(autouse=True)
def _fresh_compiler(unchecked):
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def build(name, num_groups=4, **options):
    groups = {"num_groups": num_groups} if NORMS[name].has_groups else {}
    return make_norm(name, 8, **groups, **options)


def assert_compiles(norm, *, backend, training=True):
    norm.train(training)
    eager = copy.deepcopy(norm)
    compiled = torch.compile(norm, backend=backend, fullgraph=True)
    for step in range(2):
        x = torch.randn(4, 8, 4, 4, generator=torch.Generator().manual_seed(step))
        leaves = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [compiled(leaves[0]), eager(leaves[1])]
        torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
        for y in outputs:
            y.pow(3).sum().backward()
        torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.state_dict(), eager.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in NORMS if name != "bgn"])
@pytest.mark.parametrize("training", [True, False])
def test_every_norm_compiles_in_one_graph(name, training, randomised):
    assert_compiles(randomised(build(name)), backend="eager", training=training)


@pytest.mark.parametrize("num_groups", GROUPS)
@pytest.mark.parametrize("training", [True, False])
def test_bgn_compiles_in_one_graph(num_groups, training, randomised):
    assert_compiles(randomised(build("bgn", num_groups)), backend="aot_eager", training=training)


@pytest.mark.parametrize("options", [{"virtual_workers": 2}, {"unbiased_running_var": False}])
def test_bgn_options_compile_in_one_graph(options):
    assert_compiles(build("bgn", **options), backend="aot_eager")


def test_ghost_batches_compile_in_one_graph():
    assert_compiles(build("gbgn", ghost_size=2), backend="aot_eager")


@pytest.mark.parametrize(("num_groups", "num_graphs"), [(4, 2), (16, 2), (5, 3)])
def test_compiled_training_at_several_resolutions(num_groups, num_graphs):
    """One graph for the first and one for all others; where G does not divide, one for each C·H·W mod G."""
    graphs = []

    def counting(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    norm = build("bgn", num_groups)
    compiled = torch.compile(norm, backend=counting, fullgraph=True)
    for height, width in ((4, 6), (6, 8), (8, 4)):
        compiled(torch.randn(2, 8, height, width))
        assert norm.get_extra_state().tolist() == [height, width, -1]
    assert len(graphs) == num_graphs


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="the inductor backend needs a C++ compiler; there is no gcc")
def test_bgn_compiles_to_code():
    assert_compiles(build("bgn", 4), backend="inductor")


def test_frozen_blocks_around_a_compiled_net():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), build("bgn"))
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    x = torch.randn(4, 3, 6, 6)
    compiled(x)
    before = copy.deepcopy(net.state_dict())
    for mode in ("train", "eval"):
        with frozen_statistics(net, mode=mode):
            torch.testing.assert_close(compiled(x), net(x))
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("num_groups", [1, 2, 4, 8])
def test_export_with_dynamic_batch_and_resolution(num_groups, randomised):
    norm = randomised(build("bgn", num_groups)).eval()
    dims = {0: torch.export.Dim("n", max=64), 2: torch.export.Dim("h", max=64), 3: torch.export.Dim("w", max=64)}
    program = torch.export.export(norm, (torch.randn(2, 8, 4, 5),), dynamic_shapes=(dims,))
    for shape in ((1, 8, 7, 3), (5, 8, 1, 1), (3, 8, 16, 9)):
        x = torch.randn(shape)
        torch.testing.assert_close(program.module()(x), norm(x))
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("batch_norm" in target for target in targets)


@pytest.mark.parametrize("num_groups", [16, 5])
def test_export_at_a_fixed_resolution(num_groups, randomised):
    norm = randomised(build("bgn", num_groups)).eval()
    program = torch.export.export(
        norm, (torch.randn(2, 8, 4, 5),), dynamic_shapes=({0: torch.export.Dim("n", max=64)},)
    )
    x = torch.randn(7, 8, 4, 5)
    torch.testing.assert_close(program.module()(x), norm(x))


@pytest.mark.parametrize("name", list(NORMS))
def test_export_of_every_norm(name, randomised):
    norm = randomised(build(name)).eval()
    x = torch.randn(2, 8, 4, 5)
    torch.testing.assert_close(torch.export.export(norm, (x,)).module()(x), norm(x))
