"""Fixtures for the norm layers: checked shape annotations, references in plain loops, a small trained net."""

import copy
import logging
import math
import sys

import pytest
import torch
from jaxtyping import install_import_hook
from torch import nn

if "norm_layers.functional" not in sys.modules:
    # From here on every annotation of the package is checked against the tensors that pass.
    install_import_hook("norm_layers", "beartype.beartype")


def loop_norm(x, kind, *, num_groups=1, weight=None, bias=None, eps=1e-5, stats=None):
    """Normalise by the textbook, element by element in float64: sets of elements that share a statistic.

    Returns the output and, per statistic in order, (mean, biased variance, count). `stats` gives the statistics
    instead of the batch, for evaluation.
    """
    x = x.detach().double()
    n, c = x.shape[:2]
    positions = math.prod(x.shape[2:])
    flat = x.reshape(n, c, positions)
    y = torch.empty_like(flat)
    bounds, size, extra = [0], *divmod(c * positions, num_groups)
    for g in range(num_groups):
        bounds.append(bounds[-1] + size + (1 if g < extra else 0))

    def group_of(ci, p):
        d = ci * positions + p
        return next(g for g in range(num_groups) if bounds[g] <= d < bounds[g + 1])

    def key(ni, ci, p):
        return {
            "bn": (ci,),
            "in": (ni, ci),
            "ln": (ni,),
            "pn": (ni, p),
            "gn": (ni, group_of(ci, p)),
            "bgn": (group_of(ci, p),),
        }[kind]

    members = {}
    for ni in range(n):
        for ci in range(c):
            for p in range(positions):
                members.setdefault(key(ni, ci, p), []).append((ni, ci, p))
    found = []
    for index, key in enumerate(sorted(members)):
        values = [flat[i].item() for i in members[key]]
        mean = sum(values) / len(values)
        var = sum((v - mean) ** 2 for v in values) / len(values)
        found.append((mean, var, len(values)))
        if stats is not None:
            mean, var = stats[index]
        for (ni, ci, p), value in zip(members[key], values):
            out = (value - mean) / math.sqrt(var + eps)
            gain = 1.0 if weight is None else weight[ci].item()
            shift = 0.0 if bias is None else bias[ci].item()
            y[ni, ci, p] = gain * out + shift
    return y.reshape(x.shape), found


def randomise(norm, *, generator=None):
    """Give affine parameters and running statistics values that are not those of a fresh layer."""
    with torch.no_grad():
        for name, parameter in norm.named_parameters():
            parameter.copy_(
                torch.rand(parameter.shape, generator=generator) + (0.5 if name.endswith("weight") else -0.5)
            )
        for name, buffer in norm.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
            if name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return norm


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def reference():
    """The loop reference."""
    return loop_norm


@pytest.fixture
def randomised():
    """The function that gives a layer non-trivial parameters and statistics."""
    return randomise


@pytest.fixture
def log(caplog):
    """Messages logged by the package in this test; what was logged before does not suppress them."""
    from norm_layers.shapes import warn_once

    warn_once.cache_clear()
    caplog.set_level(logging.WARNING, logger="norm_layers")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "norm_layers"]


@pytest.fixture
def batch_norm_net():
    """A small net with torch's own batch norms and non-trivial statistics, in float64 and eval mode."""
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(12, 36, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(36, eps=1e-3), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(36, 16),
        nn.BatchNorm1d(16),
    )
    return copy.deepcopy(randomise(net.double()).eval())
