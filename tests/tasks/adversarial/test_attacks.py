"""Attacks: torchattacks' own images, in the mode asked for, and a network that is left as it was."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
import torchattacks

from adversarial.attacks import (
    MODES,
    Pgd,
    auto_attack_survivors,
    check_pixels,
    craft,
    crafting_mode,
    is_right,
    pgd_survivors,
    square_survivors,
)
from adversarial.wideresnet import WideResNet
from norm_layers import is_batch_statistic_norm, norm_factory
from norm_layers.registry import NORMS

ATTACK = Pgd(eps=0.0157, step=2 / 255, steps=4)
NAMES = [name for name in NORMS if name != "none"]


def network_with(norm: str, *, classes: int = 10, dtype: torch.dtype = torch.float32) -> WideResNet:
    torch.manual_seed(0)
    groups = {"bgn": 64, "gn": 8, "gbgn": 8}.get(norm)
    network = WideResNet(
        norm_layer=norm_factory(norm, num_groups=groups, batch_size=8), width=1, num_classes=classes
    ).to(dtype)
    network(torch.rand(8, 3, 32, 32, dtype=dtype))  # running statistics that are not 0 and 1
    return network


def batch(dtype: torch.dtype = torch.float32, classes: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(8, 3, 32, 32, generator=generator, dtype=dtype)
    return images, torch.randint(classes, (8,), generator=generator)


def test_without_batch_statistics_the_images_are_torchattacks_own():
    """Bit for bit, on a network without a norm and on one with LayerNorm."""
    images, labels = batch()
    for norm in ("none", "ln"):
        network = network_with(norm).eval()
        torch.manual_seed(5)
        expected = torchattacks.PGD(network, eps=0.0157, alpha=2 / 255, steps=4)(images, labels)
        assert torch.equal(craft(network, images, labels, attack=ATTACK, seed=5), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("norm", ["bn", "bgn"])
def test_images_are_those_of_a_loop(norm, mode):
    images, labels = batch(torch.float64)
    network = network_with(norm, dtype=torch.float64).train()
    crafted = craft(network, images, labels, attack=ATTACK, mode=mode, seed=3)

    reference = network_with(norm, dtype=torch.float64).train(mode != "eval")
    torch.manual_seed(3)
    x = (images + torch.empty_like(images).uniform_(-ATTACK.eps, ATTACK.eps)).clamp(0, 1)
    for _ in range(ATTACK.steps):
        x.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(reference(x), labels), x)
        x = x.detach() + ATTACK.step * gradient.sign()
        x = torch.minimum(torch.maximum(x, images - ATTACK.eps), images + ATTACK.eps).clamp(0, 1)
    assert float((crafted - x).abs().max()) < 1e-7  # torchattacks takes cross-entropy of float32 logits
    assert float((crafted - images).abs().max()) <= ATTACK.eps + 1e-12
    assert 0 <= float(crafted.min()) <= float(crafted.max()) <= 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("norm", NAMES)
def test_nothing_is_left_changed(norm, mode):
    """Weights, gradients, every module's mode; and running statistics, unless mode is train."""
    network = network_with(norm).train()
    first_norm = network.blocks[0].norm1
    first_norm.eval()  # a part that somebody froze
    flags = [module.training for module in network.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    craft(network, *batch(), attack=ATTACK, mode=mode, seed=0)
    assert [module.training for module in network.modules()] == flags
    assert all(parameter.grad is None for parameter in network.parameters())
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    if mode == "train" and is_batch_statistic_norm(first_norm):
        assert moved
        assert all("running" in name or "num_batches" in name for name in moved)
    else:
        assert not moved


@pytest.mark.parametrize("training", [True, False])
def test_a_network_in_any_mode_keeps_it(training):
    network = network_with("bn").train(training)
    for mode in MODES:
        craft(network, *batch(), attack=ATTACK, mode=mode, seed=0)
        assert all(module.training is training for module in network.modules())
    with pytest.raises(RuntimeError), crafting_mode(network, "train"):
        raise RuntimeError
    assert all(module.training is training for module in network.modules())


def test_inference_mode_is_refused():
    network, (images, labels) = network_with("bn"), batch()
    with torch.inference_mode(), pytest.raises(ValueError, match="attacks must run outside inference mode"):
        craft(network, images, labels, attack=ATTACK, seed=0)
    with torch.inference_mode(), pytest.raises(ValueError, match="attacks must run outside inference mode"):
        square_survivors(network, images, labels, eps=0.1, queries=2, seed=0)


@pytest.mark.parametrize("norm", NAMES)
def test_keys_decide(norm):
    images, labels = batch()
    network = network_with(norm)
    first = craft(network, images, labels, attack=ATTACK, seed=1)
    torch.rand(3)
    assert torch.equal(first, craft(network, images, labels, attack=ATTACK, seed=1))
    assert not torch.equal(first, craft(network, images, labels, attack=ATTACK, seed=2))


IN_A_PROCESS_OF_ITS_OWN = """
import random, numpy, torch
from adversarial.attacks import Pgd, craft, square_survivors
from adversarial.wideresnet import WideResNet
from norm_layers import norm_factory

images, labels = torch.rand(4, 3, 16, 16), torch.arange(4)
for norm in NAMES:
    network = WideResNet(norm_layer=norm_factory(norm, num_groups={"bgn": 64, "gn": 8, "gbgn": 8}.get(norm)), width=1)
    states = random.getstate(), numpy.random.get_state()[1].copy(), torch.get_rng_state()
    craft(network, images, labels, attack=Pgd(eps=0.1, step=0.1, steps=2), seed=1)
    square_survivors(network, images, network.eval()(images).argmax(1), eps=0.1, queries=3, seed=0)
    assert random.getstate() == states[0], norm
    assert numpy.array_equal(numpy.random.get_state()[1], states[1]), norm
    assert torch.equal(torch.get_rng_state(), states[2]), norm
"""


def test_global_generators_are_left_alone():
    """In a process of its own: W&B's threads draw from Python's generator."""
    code = f"NAMES = {NAMES}" + IN_A_PROCESS_OF_ITS_OWN
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]


def test_crafting_works_without_gradients_around_and_under_autocast():
    images, labels = batch()
    network = network_with("bgn")
    expected = craft(network, images, labels, attack=ATTACK, seed=1)
    with torch.no_grad():
        assert torch.equal(craft(network, images, labels, attack=ATTACK, seed=1), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        crafted = craft(network, images, labels, attack=ATTACK, seed=1)
    assert crafted.dtype == torch.float32
    assert float((crafted - images).abs().max()) <= ATTACK.eps + 1e-6


def test_more_starts_leave_fewer_images():
    images, _ = batch()
    network = network_with("bn").eval()
    labels = network(images).argmax(1)
    assert is_right(network, images, labels).all()
    weak = Pgd(eps=0.002, step=0.001, steps=2)
    one, five = (
        pgd_survivors(network, images, labels, attack=Pgd(eps=weak.eps, step=weak.step, steps=2, restarts=n), seed=0)
        for n in (1, 5)
    )
    assert (five <= one).all(), "the first start is the same"
    assert not pgd_survivors(network, images, labels, attack=Pgd(eps=0.5, step=0.1, steps=10), seed=0).any()


@pytest.mark.slow
def test_auto_attack_and_square():
    """An image that was wrong before counts as wrong; AutoAttack leaves no image that PGD breaks."""
    images, _ = batch(classes=4)
    network = network_with("bn", classes=4).eval()
    labels = network(images).argmax(1)
    labels[0] = (labels[0] + 1) % 4
    eps = 0.004
    auto = auto_attack_survivors(network, images, labels, eps=eps, num_classes=4, seed=0)
    pgd = pgd_survivors(network, images, labels, attack=Pgd(eps=eps, step=eps / 4, steps=20), seed=0)
    square = square_survivors(network, images, labels, eps=eps, queries=20, seed=0)
    assert not auto[0]
    assert not square[0]
    assert (auto <= (pgd & is_right(network, images, labels))).all()
    one = auto_attack_survivors(network, images[1:2], labels[1:2], eps=0.5, num_classes=4, seed=0)
    assert one.tolist() == [False], "a single image, too"
    assert not auto_attack_survivors(network, images[:1], labels[:1], eps=eps, num_classes=4, seed=0).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 4}, r"eps must be in \(0, 1\], the scale of pixels between 0 and 1; got 4. For 4/255 give 0.015686."),
        ({"eps": 0}, r"eps must be in \(0, 1\]"),
        ({"step": 2}, "For 2/255 give 0.007843"),
        ({"step": -0.1}, r"step must be in \(0, 1\]"),
        ({"eps": float("nan")}, "eps must be in"),
        ({"steps": 0}, "steps must be at least 1; got 0."),
        ({"restarts": 0}, "restarts must be at least 1; got 0."),
    ],
)
def test_impossible_attacks_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Pgd(**({"eps": 0.0157, "step": 2 / 255, "steps": 4} | settings))


def test_images_that_are_no_pixels_are_refused():
    network = network_with("bn")
    images, labels = batch()
    for wrong in (images * 255, images - 0.5, images * float("nan")):
        with pytest.raises(ValueError, match=r"images must be pixels in \[0, 1\]"):
            craft(network, wrong, labels, attack=ATTACK, seed=0)
    check_pixels(images)
    with pytest.raises(ValueError, match="attack_bn_mode must be one of eval, train, train_frozen; got 'test'"):
        craft(network, images, labels, attack=ATTACK, mode="test", seed=0)
