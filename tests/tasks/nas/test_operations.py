"""Operations, cells and networks: the published sizes, and the forward pass against plain loops in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas.genotype import PUBLISHED, random_genotype
from nas.network import EvaluationCell, EvaluationNetwork, auxiliary_loss, drop_path
from nas.operations import TwoOffsets, Zero, build_operation
from nas.space import PRIMITIVES, Cell, Gene, num_edges
from nas.supernet import SearchNetwork, genotype_path
from norm_layers import NORMS, norm_factory
from norm_layers.audit import audit_norms

NO_AFFINE, AFFINE = norm_factory("bn", affine=False), norm_factory("bn")


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def num_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def test_the_search_network_has_the_published_size():
    network = SearchNetwork(norm_layer=NO_AFFINE, stem_norm=AFFINE)
    assert (num_parameters(network), num_norms(network)) == (1_930_618, 929)
    affine = [name for name, _ in network.named_parameters() if "norm" in name]
    assert not affine, "norms of cells learn nothing"
    assert network.stem[1].weight is not None


@pytest.mark.parametrize(("name", "parameters", "norms"), [("DARTS_V1", 3_169_414, 223), ("DARTS_V2", 3_349_342, 241)])
def test_the_evaluation_network_has_the_published_size(name, parameters, norms):
    whole = EvaluationNetwork(PUBLISHED[name], norm_layer=AFFINE)
    without = EvaluationNetwork(PUBLISHED[name], norm_layer=AFFINE, auxiliary=False)
    assert num_parameters(without) == parameters
    assert num_parameters(whole) == parameters + 476_426
    assert (num_norms(whole), num_norms(without)) == (norms, norms - 2)


def test_the_search_network_s_layers_are_the_tabled_ones():
    network = SearchNetwork(norm_layer=NO_AFFINE, stem_norm=AFFINE)
    shapes = [(audit.channels, audit.height) for audit in audit_norms(network, torch.zeros(1, 3, 32, 32))]
    expected = {(16, 32): 228, (32, 32): 2, (48, 32): 1, (32, 16): 348, (64, 16): 2, (64, 8): 348}
    assert {shape: shapes.count(shape) for shape in set(shapes)} == expected


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_builds_both_networks_and_every_layer_is_audited(norm):
    groups = {"gn": 8, "bgn": 64, "gbgn": 8}.get(norm)
    layers = norm_factory(norm, num_groups=groups, affine=False), norm_factory(norm, num_groups=groups)
    search = SearchNetwork(channels=4, num_cells=3, num_nodes=2, norm_layer=layers[0], stem_norm=layers[1])
    evaluation = EvaluationNetwork(PUBLISHED["DARTS_V2"], channels=4, num_cells=3, norm_layer=layers[1])
    for network in (search, evaluation):
        audits = audit_norms(network, torch.zeros(2, 3, 32, 32))
        assert {audit.norm for audit in audits} == {norm}
    assert torch.isfinite(search(torch.randn(2, 3, 32, 32))).all()


def plain_norm(x: torch.Tensor) -> torch.Tensor:
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    return (x - mean) / ((x - mean).square().mean(dim=(0, 2, 3), keepdim=True) + 1e-5).sqrt()


def plain_operation(name: str, operation: nn.Module, x: torch.Tensor, stride: int, *, in_search: bool) -> torch.Tensor:
    """An operation as the paper describes it, with the weights of ours."""
    if name == "none":
        return x[:, :, ::stride, ::stride] * 0
    if name == "max_pool_3x3":
        padded = F.pad(x, (1, 1, 1, 1), value=-torch.inf)
        y = padded.unfold(2, 3, stride).unfold(3, 3, stride).flatten(-2).max(-1).values
        return plain_norm(y) if in_search else y
    if name == "avg_pool_3x3":
        total = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, stride).unfold(3, 3, stride).sum((-1, -2))
        number = F.pad(torch.ones_like(x), (1, 1, 1, 1)).unfold(2, 3, stride).unfold(3, 3, stride).sum((-1, -2))
        return plain_norm(total / number) if in_search else total / number
    weights = [parameter for parameter in operation.parameters() if parameter.ndim == 4]
    if name == "skip_connect":
        if stride == 1:
            return x
        rectified = x.clamp(min=0)
        halves = [torch.einsum("nchw,dc->ndhw", rectified[:, :, i::2, i::2], weights[i][:, :, 0, 0]) for i in (0, 1)]
        return plain_norm(torch.cat(halves, dim=1))
    channels, kernel = len(weights[0]), int(name[-1])
    dilation = 2 if name.startswith("dil") else 1
    for i in range(0, len(weights), 2):
        padding, step = dilation * (kernel - 1) // 2, stride if i == 0 else 1
        x = F.conv2d(x.clamp(min=0), weights[i], None, step, padding, dilation, channels)
        x = plain_norm(torch.einsum("nchw,dc->ndhw", x, weights[i + 1][:, :, 0, 0]))
    return x


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_operation_against_its_description(name, stride):
    torch.manual_seed(0)
    x = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    for in_search in (True, False):
        operation = build_operation(
            name, 4, stride=stride, norm_layer=NO_AFFINE, norm_after_pool=in_search
        ).double()  # fmt: skip
        expected = plain_operation(name, operation, x, stride, in_search=in_search)
        torch.testing.assert_close(operation(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_dilated_convolution_of_stride_two_and_its_gradients(kernel):
    torch.manual_seed(0)
    name = f"dil_conv_{kernel}x{kernel}"
    layer = build_operation(name, 4, stride=2, norm_layer=NO_AFFINE).double().body[0]
    assert (layer.stride, layer.dilation, layer.padding) == ((2, 2), (2, 2), (kernel - 1, kernel - 1))
    for size in (8, 7):
        x = torch.randn(3, 4, size, size, dtype=torch.float64, requires_grad=True)
        expected = F.conv2d(x, layer.weight, None, 2, kernel - 1, 2, 4)
        found = layer(x)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        gradient = torch.randn_like(expected)
        pairs = (torch.autograd.grad(y, [x, layer.weight], gradient) for y in (found, expected))
        for ours, theirs in zip(*pairs):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["bn", "bgn", "ln"])
def test_a_state_s_pools_are_computed_once_where_nobody_can_tell(norm):
    torch.manual_seed(0)
    how = {"num_groups": 16} if norm == "bgn" else {}
    layer, stem = norm_factory(norm, affine=False, track_running_stats=False, **how), norm_factory(norm, **how)
    network = SearchNetwork(channels=4, num_cells=3, num_nodes=3, norm_layer=layer, stem_norm=stem).double()
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    mixing = torch.rand(2, num_edges(3), len(PRIMITIVES), dtype=torch.float64, requires_grad=True)

    def run() -> list[torch.Tensor]:
        logits = network(images, mixing=mixing)
        return [logits, *torch.autograd.grad(logits.square().sum(), [mixing, *network.parameters()])]

    found = run()
    pools = [edge.operations[1] for cell in network.cells for edge in cell.edges]
    calls = []
    handles = [pool.register_forward_hook(lambda *_: calls.append(1)) for pool in pools]
    expected = run()  # listened to, each is computed for itself
    assert len(calls) == len(pools)
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    for handle in handles:
        handle.remove()
    counted = []
    original = F.max_pool2d
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "max_pool2d", lambda *a, **k: (counted.append(1), original(*a, **k))[1])
        run()
    assert len(counted) == 3 * (2 + 3 - 1), "once for each state that an edge reads"


def plain_search(network: SearchNetwork, images: torch.Tensor, mixing: torch.Tensor) -> torch.Tensor:
    """The search network as explicit loops: all operations of all edges, "none" among them."""
    before = last = plain_norm(F.conv2d(images, network.stem[0].weight, padding=1))
    for place, cell in enumerate(network.cells):
        states = [cell.bring_before(before), cell.bring_last(last)]
        edge = 0
        for node in range(network.num_nodes):
            total = 0
            for j in range(2 + node):
                stride = 2 if place in (1, 2) and j < 2 else 1
                for k, name in enumerate(PRIMITIVES):
                    weight = mixing[int(place in (1, 2)), edge, k]
                    operation = cell.edges[edge].operations[k]
                    total = total + weight * plain_operation(name, operation, states[j], stride, in_search=True)
                edge += 1
            states.append(total)
        before, last = last, torch.cat(states[2:], dim=1)
    return last.mean((2, 3)) @ network.classifier.weight.T + network.classifier.bias


def small_search(num_nodes: int = 2) -> SearchNetwork:
    torch.manual_seed(1)
    return SearchNetwork(channels=4, num_cells=3, num_nodes=num_nodes, norm_layer=NO_AFFINE, stem_norm=AFFINE).double()


def test_mixing_and_paths_against_loops():
    network = small_search()
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    mixing = torch.rand(2, num_edges(2), len(PRIMITIVES), dtype=torch.float64)
    torch.testing.assert_close(network(images, mixing=mixing), plain_search(network, images, mixing))
    genotype = random_genotype(2, generator=torch.Generator().manual_seed(3))
    path = genotype_path(genotype, num_cells=3)
    one_hot = F.one_hot(path[:2], len(PRIMITIVES)).double()
    torch.testing.assert_close(network(images, paths=path), plain_search(network, images, one_hot))
    torch.testing.assert_close(network(images, paths=path[:2]), network(images, paths=path))


def test_a_path_trains_only_its_own_operations():
    network = small_search()
    path = torch.full((3, num_edges(2)), PRIMITIVES.index("sep_conv_3x3"))
    network(torch.randn(2, 3, 8, 8, dtype=torch.float64), paths=path).sum().backward()
    for edge in network.cells[1].edges:
        for name, operation in zip(PRIMITIVES, edge.operations):
            for parameter in operation.parameters():
                assert (parameter.grad is not None) == (name == "sep_conv_3x3")


def test_a_path_of_none_alone_gives_zeros():
    network = small_search()
    path = torch.zeros(3, num_edges(2), dtype=torch.long)
    logits = network(torch.randn(2, 3, 8, 8, dtype=torch.float64), paths=path)
    torch.testing.assert_close(logits, network.classifier.bias.expand(2, -1))


def test_the_evaluation_network_against_a_loop():
    torch.manual_seed(2)
    genotype = random_genotype(3, generator=torch.Generator().manual_seed(1), num_cells=3)
    network = EvaluationNetwork(genotype, channels=4, num_cells=3, resolution=(8, 8), norm_layer=AFFINE).double()
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    before = last = plain_norm(F.conv2d(images, network.stem[0].weight, padding=1))
    for place, cell in enumerate(network.cells):
        states, used = [cell.bring_before(before), cell.bring_last(last)], iter(cell.operations)
        for genes in genotype.cells[place].nodes:
            outputs = [
                plain_operation(
                    gene.operation, next(used), states[gene.input], 2 if place > 0 and gene.input < 2 else 1,
                    in_search=False,
                )
                for gene in genes
            ]  # fmt: skip
            states.append(outputs[0] + outputs[1])
        before, last = last, torch.cat(states[2:], dim=1)
    logits, auxiliary = network(images)
    torch.testing.assert_close(logits, network.classifier(last.mean((2, 3))))
    assert auxiliary is None, "the map is too small for the head"


def test_the_auxiliary_head_follows_the_shape_and_is_there_in_training_only():
    for side, features in ((32, 768), (64, 768 * 9)):
        network = EvaluationNetwork(
            PUBLISHED["DARTS_V2"], channels=4, num_cells=3, resolution=(side, side), norm_layer=AFFINE
        )
        assert network.auxiliary.classifier.in_features == features
        logits, auxiliary = network(torch.randn(2, 3, side, side))
        assert auxiliary.shape == logits.shape == (2, 10)
        assert network.eval()(torch.randn(2, 3, side, side)).shape == (2, 10)
    labels = torch.tensor([1, 2])
    expected = F.cross_entropy(logits, labels) + 0.4 * F.cross_entropy(auxiliary, labels)
    torch.testing.assert_close(auxiliary_loss(logits, auxiliary, labels, weight=0.4), expected)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(20_000, 2, 1, 1)
    y = drop_path(x, probability=0.2)
    assert set(y.flatten().unique().tolist()) == {0.0, 1.25}
    assert torch.equal(y[:, 0], y[:, 1])
    assert float(y.mean()) == pytest.approx(1, abs=0.02)


def test_drop_path_spares_identities_and_evaluation():
    network = EvaluationNetwork(PUBLISHED["DARTS_V2"], channels=4, num_cells=3, norm_layer=AFFINE, auxiliary=False)
    images = torch.randn(4, 3, 8, 8)
    state = torch.get_rng_state()
    network.drop_path_probability = 0.0
    first = network(images)[0]
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn at probability 0"
    network.drop_path_probability = 0.5
    assert not torch.equal(network(images)[0], first)
    network.eval()
    torch.testing.assert_close(network(images), network(images))
    skips = Cell(((Gene("skip_connect", 0), Gene("skip_connect", 1)),))
    for is_reduction in (False, True):
        cell = EvaluationCell(skips, (4, 4), 4, is_reduction=is_reduction, after_reduction=False, norm_layer=AFFINE)
        maps = torch.randn(8, 4, 8, 8)
        kept = torch.equal(cell(maps, maps, drop=0.5), cell(maps, maps, drop=0.0))
        assert kept != is_reduction, "a skip that halves the map is no identity"


def test_odd_sizes_are_refused():
    with pytest.raises(ValueError, match="out_channels must be even, to halve a map; got 3"):
        TwoOffsets(4, 3, norm_layer=AFFINE)
    with pytest.raises(ValueError, match="operation must be one of none, max_pool_3x3"):
        build_operation("sep_conv_9x9", 4, stride=1, norm_layer=AFFINE)
    assert Zero(2)(torch.ones(1, 2, 4, 4)).shape == (1, 2, 2, 2)
