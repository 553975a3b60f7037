"""Gradients of the architecture against explicit references in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas.bilevel import (
    InnerStep,
    exact_hvp,
    finite_difference_hvp,
    first_order,
    replaced,
    second_order,
    unrolled_weights,
)
from nas.space import PRIMITIVES, num_edges
from nas.supernet import SearchNetwork
from norm_layers import NORMS, frozen_statistics, norm_factory

STEP = InnerStep(learning_rate=0.05, momentum=0.9, weight_decay=0.01)


class Toy(nn.Module):
    """A smooth network whose two operations are weighed by alphas."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 4), nn.Linear(5, 4)
        self.last = nn.Linear(4, 3)

    def forward(self, x, alphas):
        a, b = alphas.softmax(-1)
        return self.last(torch.tanh(a * torch.tanh(self.first(x)) + b * torch.sin(self.second(x))))


@pytest.fixture
def problem():
    torch.manual_seed(0)
    toy = Toy().double()
    alphas = torch.randn(2, dtype=torch.float64, requires_grad=True)
    (x, y), (u, v) = ((torch.randn(6, 5, dtype=torch.float64), torch.randint(3, (6,))) for _ in range(2))
    return (
        toy,
        alphas,
        lambda: F.cross_entropy(toy(x, alphas), y),
        lambda: F.cross_entropy(toy(u, alphas), v),
        (x, y, u, v),
    )


def reference(toy, alphas, batch, momenta, step):
    """d/d alpha of L_val(w'(alpha), alpha), differentiating through the step itself."""
    x, y, u, v = batch
    names, weights = zip(*toy.named_parameters())
    gradients = torch.autograd.grad(F.cross_entropy(toy(x, alphas), y), weights, create_graph=True)
    moved = {
        name: w.detach() - step.learning_rate * (step.momentum * b + g + step.weight_decay * w.detach())
        for name, w, b, g in zip(names, weights, momenta, gradients)
    }
    loss = F.cross_entropy(torch.func.functional_call(toy, moved, (u, alphas)), v)
    return torch.autograd.grad(loss, alphas)[0]


def test_first_order_is_the_gradient_and_leaves_no_grad(problem):
    toy, alphas, _, val_loss, _ = problem
    (found,) = first_order(val_loss, [alphas])
    (expected,) = torch.autograd.grad(val_loss(), [alphas])
    torch.testing.assert_close(found, expected)
    assert all(weight.grad is None for weight in toy.parameters())


@pytest.mark.parametrize("has_momentum", [True, False])
def test_second_order_is_the_derivative_through_the_step(problem, has_momentum):
    toy, alphas, train_loss, val_loss, batch = problem
    weights = list(toy.parameters())
    momenta = [torch.randn_like(w) if has_momentum else torch.zeros_like(w) for w in weights]
    expected = reference(toy, alphas, batch, momenta, STEP)
    given = momenta if has_momentum else [None] * len(weights)
    before = [w.detach().clone() for w in weights]
    for hvp, tolerance in (("exact", 1e-10), ("finite_difference", 1e-4)):
        found = second_order(train_loss, val_loss, weights, [alphas], given, step=STEP, hvp=hvp)
        torch.testing.assert_close(found.gradients[0], expected, rtol=tolerance, atol=1e-7)
        assert float(found.second_norm) > 0
    assert all(torch.equal(w, b) for w, b in zip(weights, before)), "bit for bit"
    assert all(w.grad is None for w in weights)
    assert not torch.allclose(expected, first_order(val_loss, [alphas])[0], rtol=1e-3)


def test_the_look_ahead_is_a_step_of_sgd(problem):
    toy, _, train_loss, _, _ = problem
    weights = list(toy.parameters())
    settings = {"lr": STEP.learning_rate, "momentum": STEP.momentum, "weight_decay": STEP.weight_decay}
    optimizer = torch.optim.SGD(weights, **settings)
    for number in range(3):
        momenta = [optimizer.state.get(w, {}).get("momentum_buffer") for w in weights]
        gradients = torch.autograd.grad(train_loss(), weights)
        ahead = unrolled_weights(weights, gradients, momenta, step=STEP)
        assert (momenta[0] is None) == (number == 0)
        for w, g in zip(weights, gradients):
            w.grad = g
        optimizer.step()
        for w, moved in zip(weights, ahead):
            torch.testing.assert_close(w.detach(), moved, rtol=1e-12, atol=1e-12)


def test_the_finite_difference_tends_to_the_exact_product(problem):
    toy, alphas, train_loss, _, _ = problem
    weights = list(toy.parameters())
    vector = [torch.randn_like(w) for w in weights]
    (exact,) = exact_hvp(train_loss, weights, [alphas], vector)
    errors = []
    for radius in (1.0, 0.1, 0.01):
        (found,) = finite_difference_hvp(train_loss, weights, [alphas], vector, radius=radius)
        errors.append(float((found - exact).norm() / exact.norm()))
    assert errors[1] < errors[0] / 50
    assert errors[2] < errors[1] / 50, "as the square of the radius"
    zero = finite_difference_hvp(train_loss, weights, [alphas], [torch.zeros_like(w) for w in weights])
    assert not zero[0].any()


def test_weights_come_back_after_an_error(problem):
    toy, *_ = problem
    weights = list(toy.parameters())
    before = [w.detach().clone() for w in weights]

    def fail():
        with replaced(weights, [w + 1 for w in before]):
            assert torch.equal(weights[0], before[0] + 1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(torch.equal(w, b) for w, b in zip(weights, before))


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_has_both_products_and_keeps_its_statistics(norm):
    """On the search network; the exact product against the finite difference along its own direction."""
    torch.manual_seed(0)
    groups = {"gn": 8, "bgn": 16, "gbgn": 4}.get(norm)
    layers = norm_factory(norm, num_groups=groups, affine=False), norm_factory(norm, num_groups=groups)
    network = SearchNetwork(channels=4, num_cells=3, num_nodes=1, norm_layer=layers[0], stem_norm=layers[1]).double()
    alphas = torch.zeros(2, num_edges(1), len(PRIMITIVES), dtype=torch.float64, requires_grad=True)
    images, labels = torch.randn(4, 3, 16, 16, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    weights = list(network.parameters())
    generator = torch.get_rng_state()

    def loss():
        return F.cross_entropy(network(images, mixing=alphas.softmax(-1)), labels)

    with frozen_statistics(network, mode="train"):
        for hvp in ("finite_difference", "exact"):
            found = second_order(loss, loss, weights, [alphas], [None] * len(weights), step=STEP, hvp=hvp)
            assert bool(found.gradients[0].isfinite().all())
            assert (float(found.gradients[0].norm()) > 1e-6) == (norm != "in"), "IN has no gradient to speak of"
    assert all(torch.equal(value, buffers[name]) for name, value in network.named_buffers())
    assert torch.equal(torch.get_rng_state(), generator)
    assert network.training
