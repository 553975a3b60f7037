"""Gradients of the architecture: first order, and second order through one step of the weights.

All functions return gradients and leave weights, `.grad`, running statistics and random generators as they found them
(the losses they are given keep running statistics and draw nothing).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Hvp = Literal["finite_difference", "exact"]
Loss = Callable[[], Tensor]
Reduce = Callable[[Sequence[Tensor]], list[Tensor]]
RADIUS = 0.01
"""The paper's R = 0.01 / ||v|| of the finite difference."""


def keep(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients as they are: the mean over one process."""
    return list(gradients)


@dataclass(frozen=True, kw_only=True)
class InnerStep:
    """The step of the weights that the second order looks ahead.

    Args:
        learning_rate: eta, as in force.
        momentum: m of SGD.
        weight_decay: lambda of SGD.
    """

    learning_rate: float
    momentum: float
    weight_decay: float


def first_order(val_loss: Loss, alphas: Sequence[Tensor], *, reduce: Reduce = keep) -> list[Tensor]:
    r"""Return :math:`\nabla_\alpha L_{val}(w, \alpha)`; no gradient of the weights is computed.

    Args:
        val_loss: Computes the loss on the images of the alphas.
        alphas: The architecture's parameters.
        reduce: Averages gradients over processes.

    Source: Liu et al. 2019, Section 2.3, xi = 0.
    """
    return reduce(torch.autograd.grad(val_loss(), list(alphas)))


def unrolled_weights(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], momenta: Sequence[Tensor | None], *, step: InnerStep
) -> list[Tensor]:
    r"""Return the weights after one step of SGD, without clipping.

    .. math:: w' = w - \eta\,(m\,b + g + \lambda w)

    Args:
        weights: w.
        gradients: g, of the training loss.
        momenta: b, the momentum buffers; None before the first step.
        step: eta, m and lambda.

    Source: quark0/darts, commit f276dd3, `Architect._compute_unrolled_model`.
    """
    with torch.no_grad():
        directions = torch._foreach_add(list(gradients), torch._foreach_mul(list(weights), step.weight_decay))
        has_momentum = [(direction, buffer) for direction, buffer in zip(directions, momenta) if buffer is not None]
        if has_momentum:
            moving, buffers = zip(*has_momentum)
            torch._foreach_add_(moving, torch._foreach_mul(buffers, step.momentum))
        return list(torch._foreach_sub(list(weights), torch._foreach_mul(directions, step.learning_rate)))


@contextmanager
def replaced(weights: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """Give the weights other values inside the block; afterwards they are what they were, bit for bit.

    Args:
        weights: Leaf tensors.
        values: Their values meanwhile.
    """
    saved = [weight.detach().clone() for weight in weights]
    try:
        _copy(weights, values)
        yield
    finally:
        _copy(weights, saved)


def _copy(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        torch._foreach_copy_(list(weights), list(values))


def finite_difference_hvp(
    train_loss: Loss,
    weights: Sequence[Tensor],
    alphas: Sequence[Tensor],
    vector: Sequence[Tensor],
    *,
    radius: float = RADIUS,
    reduce: Reduce = keep,
) -> list[Tensor]:
    r"""Return :math:`\nabla^2_{\alpha,w} L_{train}\, v` by a central difference.

    .. math:: \frac{\nabla_\alpha L(w + R v) - \nabla_\alpha L(w - R v)}{2 R}, \qquad R = r / \lVert v \rVert

    In a network with ReLUs the difference is mostly the kinks that lie between the two points; `exact_hvp` has none.

    Args:
        train_loss: Computes the training loss.
        weights: w.
        alphas: The architecture's parameters.
        vector: v, one tensor for each weight.
        radius: r.
        reduce: Averages gradients over processes.

    Source: Liu et al. 2019, eq. 8.
    """
    norm = torch.sqrt(sum((v.detach().double().square().sum() for v in vector), start=torch.zeros(())))
    if not bool(norm > 0):
        return [torch.zeros_like(alpha) for alpha in alphas]
    distance = radius / float(norm)
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            moved = torch._foreach_add(list(weights), torch._foreach_mul(list(vector), sign * distance))
        with replaced(weights, moved):
            sides.append(reduce(torch.autograd.grad(train_loss(), list(alphas))))
    return [(plus - minus) / (2 * distance) for plus, minus in zip(*sides)]


def exact_hvp(
    train_loss: Loss,
    weights: Sequence[Tensor],
    alphas: Sequence[Tensor],
    vector: Sequence[Tensor],
    *,
    reduce: Reduce = keep,
) -> list[Tensor]:
    r"""Return :math:`\nabla_\alpha (v \cdot \nabla_w L_{train})` by differentiating twice.

    Args:
        train_loss: Computes the training loss.
        weights: w.
        alphas: The architecture's parameters.
        vector: v, one tensor for each weight.
        reduce: Averages gradients over processes.
    """
    gradients = torch.autograd.grad(train_loss(), list(weights), create_graph=True)
    product = sum((g * v.detach()).sum() for g, v in zip(gradients, vector))
    assert isinstance(product, Tensor)
    return reduce(torch.autograd.grad(product, list(alphas)))


@dataclass(frozen=True, kw_only=True)
class ArchitectureGradient:
    """A gradient of the architecture with what its second-order part weighs.

    Args:
        gradients: One for each alpha.
        first_norm: Norm of the part at fixed weights, or at w' in the second order.
        second_norm: Norm of eta times the Hessian-vector product; 0 in the first order.
    """

    gradients: list[Tensor]
    first_norm: Tensor
    second_norm: Tensor


def second_order(
    train_loss: Loss,
    val_loss: Loss,
    weights: Sequence[Tensor],
    alphas: Sequence[Tensor],
    momenta: Sequence[Tensor | None],
    *,
    step: InnerStep,
    hvp: Hvp = "finite_difference",
    radius: float = RADIUS,
    reduce: Reduce = keep,
) -> ArchitectureGradient:
    r"""Return the gradient of the validation loss after one step of the weights.

    .. math:: \nabla_\alpha L_{val}(w', \alpha)
        - \eta \nabla^2_{\alpha,w} L_{train}(w, \alpha)\, \nabla_{w'} L_{val}(w', \alpha)

    Args:
        train_loss: Computes the training loss at the weights as they are.
        val_loss: Computes the loss on the images of the alphas, at the weights as they are.
        weights: w, leaf tensors; no alphas among them.
        alphas: The architecture's parameters.
        momenta: The momentum buffers of the weights' optimiser; None before its first step.
        step: The step that is looked ahead.
        hvp: How the Hessian-vector product is computed.
        radius: Of the finite difference.
        reduce: Averages gradients over processes.

    Source: Liu et al. 2019, eq. 7 and 8.
    """
    weights, alphas = list(weights), list(alphas)
    gradients = reduce(torch.autograd.grad(train_loss(), weights))
    with replaced(weights, unrolled_weights(weights, gradients, momenta, step=step)):
        both = reduce(torch.autograd.grad(val_loss(), [*alphas, *weights]))
    direct, vector = both[: len(alphas)], both[len(alphas) :]
    product = (
        exact_hvp(train_loss, weights, alphas, vector, reduce=reduce)
        if hvp == "exact"
        else finite_difference_hvp(train_loss, weights, alphas, vector, radius=radius, reduce=reduce)
    )
    total = [first - step.learning_rate * second for first, second in zip(direct, product)]
    return ArchitectureGradient(
        gradients=total, first_norm=_norm(direct), second_norm=step.learning_rate * _norm(product)
    )


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([tensor.detach().square().sum() for tensor in tensors]).sum().sqrt()
