"""DARTS' search step, written plainly for today's torch: what `benchmarks.nas` measures ours against.

Written anew after the description of the official code (quark0/darts, commit f276dd3, which needs torch 0.3.1), with
its way of working: each operation has its own ReLU, "none" multiplies by zero, the mixture is a sum over all
operations, the step of the alphas computes the gradients of the weights, too, and the second order builds a new
network at every step and moves the weights of the real one forth and back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def plain_norm(channels: int) -> nn.Module:
    """Return the norm of a search's cells."""
    return nn.BatchNorm2d(channels, affine=False)


class Zero(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x.mul(0.0) if self.stride == 1 else x[:, :, :: self.stride, :: self.stride].mul(0.0)


class FactorizedReduce(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(c_in, c_out // 2, 1, stride=2, bias=False)
        self.conv2 = nn.Conv2d(c_in, c_out // 2, 1, stride=2, bias=False)
        self.norm = plain_norm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        return self.norm(torch.cat([self.conv1(x), self.conv2(x[:, :, 1:, 1:])], dim=1))


def relu_conv_norm(c_in: int, c_out: int) -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(c_in, c_out, 1, bias=False), plain_norm(c_out))


def depthwise(c: int, kernel: int, stride: int, dilation: int) -> list[nn.Module]:
    padding = dilation * (kernel - 1) // 2
    spatial = nn.Conv2d(c, c, kernel, stride, padding, dilation, groups=c, bias=False)
    return [nn.ReLU(), spatial, nn.Conv2d(c, c, 1, bias=False), plain_norm(c)]


def operations(c: int, stride: int) -> list[nn.Module]:
    """Return the eight operations in the official order."""

    def separable(kernel: int) -> nn.Module:
        return nn.Sequential(*depthwise(c, kernel, stride, 1), *depthwise(c, kernel, 1, 1))

    return [
        Zero(stride),
        nn.Sequential(nn.MaxPool2d(3, stride, padding=1), plain_norm(c)),
        nn.Sequential(nn.AvgPool2d(3, stride, padding=1, count_include_pad=False), plain_norm(c)),
        nn.Identity() if stride == 1 else FactorizedReduce(c, c),
        separable(3),
        separable(5),
        nn.Sequential(*depthwise(c, 3, stride, 2)),
        nn.Sequential(*depthwise(c, 5, stride, 2)),
    ]


class MixedOp(nn.Module):
    def __init__(self, c: int, stride: int) -> None:
        super().__init__()
        self.ops = nn.ModuleList(operations(c, stride))

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum((w * op(x) for w, op in zip(weights, self.ops)), start=torch.zeros((), dtype=x.dtype))


class Cell(nn.Module):
    def __init__(self, c_before: int, c_last: int, c: int, *, nodes: int, reduction: bool, after: bool) -> None:
        super().__init__()
        self.preprocess0 = FactorizedReduce(c_before, c) if after else relu_conv_norm(c_before, c)
        self.preprocess1 = relu_conv_norm(c_last, c)
        self.nodes = nodes
        strides = [2 if reduction and j < 2 else 1 for i in range(nodes) for j in range(2 + i)]
        self.edges = nn.ModuleList(MixedOp(c, stride) for stride in strides)

    def forward(self, before: Tensor, last: Tensor, weights: Tensor) -> Tensor:
        states = [self.preprocess0(before), self.preprocess1(last)]
        offset = 0
        for _ in range(self.nodes):
            new = [self.edges[offset + j](state, weights[offset + j]) for j, state in enumerate(states)]
            offset += len(states)
            states.append(sum(new[1:], start=new[0]))
        return torch.cat(states[2:], dim=1)


class PlainSearchNetwork(nn.Module):
    """The search network with its alphas; parameters in the order of the suite's own."""

    def __init__(self, *, channels: int, num_cells: int, num_nodes: int, num_classes: int) -> None:
        super().__init__()
        self.sizes = {
            "channels": channels, "num_cells": num_cells, "num_nodes": num_nodes, "num_classes": num_classes
        }  # fmt: skip
        self.stem = nn.Sequential(nn.Conv2d(3, 3 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(3 * channels))
        self.reductions = {num_cells // 3, 2 * num_cells // 3}
        cells, before, last = [], 3 * channels, 3 * channels
        for index in range(num_cells):
            channels *= 2 if index in self.reductions else 1
            reduction, after = index in self.reductions, index - 1 in self.reductions
            cells.append(Cell(before, last, channels, nodes=num_nodes, reduction=reduction, after=after))
            before, last = last, num_nodes * channels
        self.cells = nn.ModuleList(cells)
        self.classifier = nn.Linear(last, num_classes)
        edges = sum(2 + i for i in range(num_nodes))
        self.alphas = [torch.zeros(edges, 8, requires_grad=True) for _ in range(2)]  # no parameters, as there

    def forward(self, x: Tensor) -> Tensor:
        before = last = self.stem(x)
        for index, cell in enumerate(self.cells):
            weights = F.softmax(self.alphas[int(index in self.reductions)], dim=-1)
            before, last = last, cell(before, last, weights)
        return self.classifier(F.adaptive_avg_pool2d(last, 1).flatten(1))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self(x), y)

    def new(self) -> PlainSearchNetwork:
        """Return another network with these alphas, as the official code does at every step."""
        found = PlainSearchNetwork(**self.sizes).to(self.classifier.weight.dtype)
        found.alphas = [alpha.detach().clone().requires_grad_() for alpha in self.alphas]
        return found


class PlainSearch:
    """One step: the alphas on one batch, then the weights on the other.

    Args:
        network: The network.
        second_order: Whether the alphas look one step of the weights ahead.
        learning_rate: Of the weights.
        architecture_learning_rate: Of the alphas.
    """

    momentum, weight_decay, clip, radius = 0.9, 3e-4, 5.0, 0.01

    def __init__(
        self,
        network: PlainSearchNetwork,
        *,
        second_order: bool,
        learning_rate: float,
        architecture_learning_rate: float,
    ) -> None:
        self.network, self.second_order = network.train(), second_order
        self.optimizer = torch.optim.SGD(
            network.parameters(), learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        self.architect = torch.optim.Adam(
            network.alphas, lr=architecture_learning_rate, betas=(0.5, 0.999), weight_decay=1e-3
        )

    def step(self, x: Tensor, y: Tensor, x_alpha: Tensor, y_alpha: Tensor) -> None:
        """Make the step."""
        self.architect.zero_grad()
        if self.second_order:
            self._look_ahead(x, y, x_alpha, y_alpha)
        else:
            self.network.loss(x_alpha, y_alpha).backward()
        self.architect.step()
        self.optimizer.zero_grad()
        self.network.loss(x, y).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        self.optimizer.step()

    def _look_ahead(self, x: Tensor, y: Tensor, x_alpha: Tensor, y_alpha: Tensor) -> None:
        rate = self.optimizer.param_groups[0]["lr"]
        ahead = self._one_step_ahead(x, y, rate)
        ahead.loss(x_alpha, y_alpha).backward()
        vector = [weight.grad for weight in ahead.parameters()]
        product = self._product([v for v in vector if v is not None], x, y)
        for alpha, moved, second in zip(self.network.alphas, ahead.alphas, product):
            assert moved.grad is not None
            alpha.grad = moved.grad - rate * second

    def _one_step_ahead(self, x: Tensor, y: Tensor, rate: float) -> PlainSearchNetwork:
        weights = list(self.network.parameters())
        theta = torch.cat([weight.detach().flatten() for weight in weights])
        buffers = [self.optimizer.state[weight].get("momentum_buffer") for weight in weights]
        moment = torch.cat(
            [torch.zeros_like(w).flatten() if b is None else b.flatten() for w, b in zip(weights, buffers)]
        )
        gradients = torch.autograd.grad(self.network.loss(x, y), weights)
        change = torch.cat([gradient.flatten() for gradient in gradients]) + self.weight_decay * theta
        moved = theta - rate * (self.momentum * moment + change)
        ahead, state, offset = self.network.new(), self.network.state_dict(), 0
        for name, weight in self.network.named_parameters():
            state[name] = moved[offset : offset + weight.numel()].view_as(weight)
            offset += weight.numel()
        ahead.load_state_dict(state)
        return ahead.train()

    def _product(self, vector: Sequence[Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
        distance = self.radius / torch.cat([v.flatten() for v in vector]).norm()
        self._move(vector, distance)
        plus = torch.autograd.grad(self.network.loss(x, y), self.network.alphas)
        self._move(vector, -2 * distance)
        minus = torch.autograd.grad(self.network.loss(x, y), self.network.alphas)
        self._move(vector, distance)
        return [(a - b) / (2 * distance) for a, b in zip(plus, minus)]

    @torch.no_grad()
    def _move(self, vector: Sequence[Tensor], distance: Tensor) -> None:
        for weight, v in zip(self.network.parameters(), vector):
            weight += distance * v
