"""One data-parallel rank on the CPU, run as a script by the tests: rank, world size, directory.

It reads `input.pt` from the directory, runs every scenario, and writes `rank<r>.pt` there.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from norm_layers import make_norm, synchronise_statistics


def build_net(name, options):
    torch.manual_seed(11)
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), make_norm(name, 8, **options), nn.ReLU()).double()


def synchronised_layer(name, options, parts, rank, data):
    """Forward and backward of one layer on this rank's part of the batch."""
    start, stop = sum(parts[:rank]), sum(parts[: rank + 1])
    norm = make_norm(name, 8, **options).double()
    with torch.no_grad():
        norm.weight.copy_(data["weight"])
        norm.bias.copy_(data["bias"])
    synchronise_statistics(norm)
    x = data["features"][start:stop].clone().requires_grad_()
    y = norm(x)
    (y * data["coefficients"][start:stop]).sum().backward()
    buffers = {key: value for key, value in norm.state_dict().items() if "running" in key or "num_batches" in key}
    return {"y": y.detach(), "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad, "buffers": buffers}


def trained_net(name, options, rank, world, data, *, synchronised):
    """Two steps under DistributedDataParallel, each rank with its part of the batch."""
    net = build_net(name, options)
    if synchronised:
        net = synchronise_statistics(net)
    parallel = DistributedDataParallel(net)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    outputs = []
    for batch in data["batches"]:
        y = parallel(batch.chunk(world)[rank])
        optimiser.zero_grad()
        y.pow(3).mean().backward()
        gradients = [parameter.grad.clone() for parameter in net.parameters()]
        optimiser.step()
        outputs.append({"y": y.detach(), "gradients": gradients})
    return {"steps": outputs, "state": net.state_dict()}


def refused(name, options, parts, rank, data):
    """The message with which a layer refuses this rank's part of the first sample's first pixel."""
    start, stop = sum(parts[:rank]), sum(parts[: rank + 1])
    norm = synchronise_statistics(make_norm(name, 8, **options).double())
    try:
        norm(data["features"][:1, :, :1, :1][start:stop])
    except ValueError as error:
        return {"message": str(error), "counter": int(norm.state_dict()[data["counters"][name]])}
    return {"message": "", "counter": -1}


def main():
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=world)
    data = torch.load(folder / "input.pt", weights_only=True)
    results = {
        key: synchronised_layer(name, options, parts, rank, data)
        for key, (name, options, parts) in data["layers"].items()
    }
    for key, (name, options, parts) in data["refused"].items():
        results[key] = refused(name, options, parts, rank, data)
    for key, (name, options, synchronised) in data["nets"].items():
        results[key] = trained_net(name, options, rank, world, data, synchronised=synchronised)
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
