"""Two gloo ranks: synchronised statistics against the whole batch, and virtual workers against real ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from norm_layers import BatchNorm, batch_group_norm, make_norm, synchronise_statistics
from norm_layers.sync import AllReduceSum
from norm_layers.sync_functional import synchronised_batch_group_norm

WORLD = 2
KINDS = {
    "bn": ("bn", {}),
    "gbgn": ("gbgn", {"num_groups": 4}),
    "one-group": ("bgn", {"num_groups": 1}),
    "bands": ("bgn", {"num_groups": 16}),
    "uneven": ("bgn", {"num_groups": 5}),
    "cumulative": ("bgn", {"num_groups": 4, "momentum": None}),
    "literal": ("bgn", {"num_groups": 4, "unbiased_running_var": False}),
}
PARTS = {"unequal": [3, 4], "empty": [7, 0], "empty-first": [0, 7]}
LAYERS = {f"{kind}/{part}": (*KINDS[kind], PARTS[part]) for kind in KINDS for part in PARTS}
EMPTY = {f"{kind}/nothing": (*KINDS[kind], [0, 0]) for kind in KINDS}
REFUSED = {
    f"refused/{name}/{part}": (name, options, parts)
    for name, options in (("bn", {}), ("bgn", {"num_groups": 8}), ("bgn", {"num_groups": 5}))
    for part, parts in (("first", [1, 0]), ("second", [0, 1]))
}
NETS = {
    "ddp/bn": ("bn", {}, False),
    "ddp/bgn": ("bgn", {"num_groups": 4}, False),
    "ddp/gbgn": ("gbgn", {"num_groups": 4}, False),
    "sync/bn": ("bn", {}, True),
    "sync/bgn": ("bgn", {"num_groups": 5}, True),
}


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(7)
    return {
        "features": torch.randn(7, 8, 3, 2, dtype=torch.float64) * 2 + 1,
        "coefficients": torch.randn(7, 8, 3, 2, dtype=torch.float64),
        "weight": torch.rand(8, dtype=torch.float64) + 0.5,
        "bias": torch.randn(8, dtype=torch.float64),
        "batches": [torch.randn(8, 3, 6, 6, dtype=torch.float64) for _ in range(2)],
        "layers": LAYERS | EMPTY,
        "refused": REFUSED,
        "counters": {"bn": "num_batches_tracked", "bgn": "statistics.num_batches_tracked"},
        "nets": NETS,
    }


@pytest.fixture(scope="module")
def ranks(data, tmp_path_factory):
    """What the two ranks computed."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(data, folder / "input.pt")
    script = Path(__file__).with_name("rank_worker.py")
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(WORLD), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD)
    ]
    errors = [worker.communicate(timeout=240)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(errors)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.slow
@pytest.mark.parametrize("key", LAYERS)
def test_synchronised_layers_compute_what_the_whole_batch_gives(key, ranks, data):
    name, options, _ = LAYERS[key]
    norm = make_norm(name, 8, **options).double()
    with torch.no_grad():
        norm.weight.copy_(data["weight"])
        norm.bias.copy_(data["bias"])
    x = data["features"].clone().requires_grad_()
    y = norm(x)
    (y * data["coefficients"]).sum().backward()
    parts = [rank[key] for rank in ranks]
    torch.testing.assert_close(torch.cat([part["y"] for part in parts]), y.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat([part["x"] for part in parts]), x.grad, rtol=1e-11, atol=1e-11)
    for parameter in ("weight", "bias"):
        total = sum(part[parameter] for part in parts)
        torch.testing.assert_close(total, getattr(norm, parameter).grad, rtol=1e-11, atol=1e-11)
    for buffer, value in parts[0]["buffers"].items():
        torch.testing.assert_close(value, norm.state_dict()[buffer], rtol=1e-12, atol=1e-12)
        assert torch.equal(value, parts[1]["buffers"][buffer])


@pytest.mark.slow
@pytest.mark.parametrize("key", EMPTY)
def test_nothing_on_all_ranks_leaves_no_trace(key, ranks):
    name, options, _ = EMPTY[key]
    fresh = make_norm(name, 8, **options).double().state_dict()
    for rank in ranks:
        assert rank[key]["y"].shape == (0, 8, 3, 2)
        assert torch.equal(rank[key]["weight"], torch.zeros(8, dtype=torch.float64))
        for buffer, value in rank[key]["buffers"].items():
            assert torch.equal(value, fresh[buffer])


@pytest.mark.slow
@pytest.mark.parametrize("key", REFUSED)
def test_one_value_over_all_ranks_is_refused_on_all_of_them(key, ranks):
    for rank in ranks:
        assert rank[key]["message"].startswith("Expected more than 1 value per channel (group) when training; got N=")
        assert "which is 1 value per statistic over all ranks" in rank[key]["message"]
        assert rank[key]["counter"] == 0


def direct(x, running, counter, **options):
    """The pure function on one rank."""
    return synchronised_batch_group_norm(
        x, *running, None, None, all_reduce=lambda values: values, num_batches_tracked=counter, **options
    )


@pytest.mark.parametrize("num_groups", [1, 4, 8, 16, 5])
@pytest.mark.parametrize("unbiased", [True, False])
def test_the_function_on_one_rank_is_the_local_one(num_groups, unbiased):
    x = torch.randn(3, 8, 2, 3, dtype=torch.float64) + 2
    runs = []
    for forward in (
        lambda running: direct(x, running, None, num_groups=num_groups, unbiased_running_var=unbiased),
        lambda running: batch_group_norm(
            x, *running, None, None, num_groups=num_groups, training=True, unbiased_running_var=unbiased
        ),
    ):
        running = (torch.zeros(num_groups, dtype=torch.float64), torch.ones(num_groups, dtype=torch.float64))
        runs.append((forward(running), *running))
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_function_without_samples_moves_nothing(dtype):
    running, counter = (torch.randn(5), torch.rand(5)), torch.tensor(3)
    before = [buffer.clone() for buffer in running]
    assert direct(torch.empty(0, 8, 2, 2, dtype=dtype), running, counter, num_groups=5).shape == (0, 8, 2, 2)
    assert all(torch.equal(a, b) for a, b in zip(running, before))
    assert counter == 3
    direct(torch.randn(2, 8, 2, 2).to(dtype), running, counter, num_groups=5)
    assert counter == 4


def test_one_value_is_refused_with_and_without_ranks(unchecked):
    counter = torch.tensor(0)
    with pytest.raises(ValueError, match=r"Expected more than 1 value.*got N=1, C=8, D=8, G=8 on this rank"):
        direct(torch.randn(1, 8), (torch.zeros(8), torch.ones(8)), counter, num_groups=8)
    assert counter == 0
    for norm in (make_norm("bn", 8), make_norm("bgn", 8, num_groups=8)):
        with pytest.raises(ValueError, match=r"Expected more than 1 value.*which is 1 value per statistic\. Take"):
            synchronise_statistics(norm)(torch.randn(1, 8, 1, 1))


def train(net, batches):
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    steps = []
    for batch in batches:
        y = net(batch)
        optimiser.zero_grad()
        y.pow(3).mean().backward()
        gradients = [parameter.grad.clone() for parameter in net.parameters()]
        optimiser.step()
        steps.append({"y": y.detach(), "gradients": gradients})
    return steps


def build_net(name, options):
    torch.manual_seed(11)
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), make_norm(name, 8, **options), nn.ReLU()).double()


def assert_same_training(net, steps, ranks, key):
    results = [rank[key] for rank in ranks]
    for index, step in enumerate(steps):
        theirs = torch.cat([result["steps"][index]["y"] for result in results])
        torch.testing.assert_close(theirs, step["y"], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(results[0]["steps"][index]["gradients"], step["gradients"], rtol=1e-10, atol=1e-11)
    for buffer, value in net.state_dict().items():
        torch.testing.assert_close(results[0]["state"][buffer], value, rtol=1e-10, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in NETS if key.startswith("ddp/")])
def test_virtual_workers_train_as_real_ones(key, ranks, data):
    """Outputs, averaged gradients and rank 0's running statistics over two steps."""
    name, options, _ = NETS[key]
    net = build_net(name, {**options, "virtual_workers": WORLD})
    steps = train(net, data["batches"])
    assert_same_training(net, steps, ranks, key)
    other = [value for buffer, value in ranks[1][key]["state"].items() if buffer.endswith("running_mean")]
    mine = [value for buffer, value in net.state_dict().items() if buffer.endswith("running_mean")]
    assert not torch.equal(other[0], mine[0])


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in NETS if key.startswith("sync/")])
def test_synchronised_nets_train_as_one_process(key, ranks, data):
    name, options, _ = NETS[key]
    net = build_net(name, options)
    steps = train(net, data["batches"])
    assert_same_training(net, steps, ranks, key)


def test_without_a_process_group_nothing_changes():
    for name, options in KINDS.values():
        plain = make_norm(name, 8, **options).double()
        synchronised = synchronise_statistics(make_norm(name, 8, **options).double())
        x = torch.randn(4, 8, 3, 2, dtype=torch.float64)
        torch.testing.assert_close(synchronised(x), plain(x), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(synchronised.state_dict(), plain.state_dict(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(synchronised.eval()(x), plain.eval()(x), rtol=1e-12, atol=1e-12)


def test_batch_norms_of_torch_become_ours(batch_norm_net):
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    expected = batch_norm_net(x)
    net = synchronise_statistics(batch_norm_net)
    layers = [module for module in net.modules() if isinstance(module, BatchNorm)]
    assert len(layers) == 3
    assert all(isinstance(layer.all_reduce, AllReduceSum) for layer in layers)
    torch.testing.assert_close(net(x), expected)
    assert synchronise_statistics(net) is net
    assert [module for module in net.modules() if isinstance(module, BatchNorm)] == layers
    assert isinstance(synchronise_statistics(nn.BatchNorm1d(4)), BatchNorm)


def test_statistics_of_parts_cannot_be_synchronised():
    with pytest.raises(ValueError, match=r"virtual_workers must be 1 to synchronise statistics; got 2 \(0\)"):
        synchronise_statistics(nn.Sequential(make_norm("bn", 8, virtual_workers=2)))
    with pytest.raises(ValueError, match=r"ghost_size must be None to synchronise statistics; got 2 \(0\)"):
        synchronise_statistics(nn.Sequential(make_norm("gbgn", 8, num_groups=4, ghost_size=2)))
