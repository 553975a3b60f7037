"""Attacks of torchattacks, so wrapped that they leave a network exactly as they found it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from norm_layers import frozen_statistics

if TYPE_CHECKING:
    from torchattacks.attack import Attack

MODES = ("eval", "train", "train_frozen")
SMALL_BATCH = 2
"""torchattacks' AutoAttack drops the batch dimension of a single image in places; such a batch is given twice."""


@dataclass(frozen=True, kw_only=True)
class Pgd:
    r"""Projected gradient descent in the maximum norm, from a uniformly random start.

    :math:`x_{t+1} = \Pi_{|x - x_0| \le \epsilon,\, [0, 1]} (x_t + \alpha\, \mathrm{sign} \nabla_x L(x_t, y))`

    Args:
        eps: Largest change of a pixel, on the scale [0, 1].
        step: Change of a pixel in a step, on the same scale.
        steps: Number of steps.
        restarts: Random starts; an image counts as classified right if it is after all of them.

    Raises:
        ValueError: If eps or step is outside (0, 1], or there is no step or start.

    Source: Madry et al. 2018.
    """

    eps: float
    step: float
    steps: int
    restarts: int = 1

    def __post_init__(self) -> None:
        for name in ("eps", "step"):
            check_unit(name, getattr(self, name))
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")


def check_unit(name: str, value: float) -> None:
    """Check a change of a pixel.

    Raises:
        ValueError: If it is not in (0, 1]; a value on the scale of 255 is converted in the message.
    """
    if not 0 < value <= 1 or not math.isfinite(value):
        hint = f" For {value:g}/255 give {value / 255:.6f}." if 1 < value <= 255 else ""
        raise ValueError(f"{name} must be in (0, 1], the scale of pixels between 0 and 1; got {value:g}.{hint}")


class Held(nn.Module):
    """A network for torchattacks, which sets a network's mode by itself: here, that changes nothing.

    torchattacks calls eval() and train() on what it attacks, which would thaw norm layers that were frozen, and goes
    by class names that contain "BatchNorm".

    Args:
        network: The network, in the mode in which it shall be attacked.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._held = (network,)  # in a tuple, so that it is no submodule whose mode could be set

    def train(self, mode: bool = True) -> Held:  # noqa: ARG002
        """Leave the network's mode alone."""
        return self

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Return the network's parameters: torchattacks looks there for the device."""
        return self._held[0].parameters(recurse)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits in float32."""
        return self._held[0](images).float()


@contextmanager
def crafting_mode(network: nn.Module, mode: str) -> Iterator[None]:
    """Set the mode in which a network is attacked, and restore every module's own afterwards.

    Args:
        network: The network.
        mode: eval: running statistics; train: the batch's, which also move the running ones; train_frozen: the
            batch's, without moving them.

    Raises:
        ValueError: If the mode is none of these.
    """
    if mode not in MODES:
        raise ValueError(f"attack_bn_mode must be one of {', '.join(MODES)}; got {mode!r}.")
    flags = [(module, module.training) for module in network.modules()]
    try:
        if mode == "eval":
            network.eval()  # in the other modes parts that are frozen by eval() stay so
        elif not network.training:
            network.train()
        if mode == "train_frozen":
            with frozen_statistics(network, mode="train"):
                yield
        else:
            yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def keyed_random(seed: int, device: torch.device) -> Iterator[None]:
    """Seed all generators for an attack, and put their states back: torchattacks draws from the global ones.

    Only those of the CPU and of the images' device: `torch.manual_seed` also notes the seed, with a stack trace, for
    every kind of device that was not used yet, which takes a millisecond and is never forgotten.

    Args:
        seed: Key of this attack; the same key gives the same random starts, whatever was drawn before.
        device: Where the images are.
    """
    python, numpy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                torch.cuda.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def craft(
    network: nn.Module,
    images: Float[Tensor, "N C H W"],
    labels: Int64[Tensor, " N"],
    *,
    attack: Pgd,
    mode: str = "eval",
    seed: int,
    check: bool = True,
) -> Float[Tensor, "N C H W"]:
    """Return adversarial images by PGD, from one random start.

    Weights, their gradients, modes, global generators and (except in mode "train") running statistics are left as they
    are.

    Args:
        network: Pixels to logits; on any device.
        images: Pixels in [0, 1].
        labels: Their classes.
        attack: The attack.
        mode: As `crafting_mode`.
        seed: Key of the random start.
        check: Whether to check the pixels, which waits for a GPU.

    Raises:
        ValueError: If pixels are outside [0, 1], or in inference mode.
    """
    import torchattacks

    check_mode()
    if check:
        check_pixels(images)
    with crafting_mode(network, mode), keyed_random(seed, images.device), torch.enable_grad():
        attacker = torchattacks.PGD(Held(network), eps=attack.eps, alpha=attack.step, steps=attack.steps)
        return attacker(images, labels)


def check_mode() -> None:
    """Check that gradients can be had.

    Raises:
        ValueError: In inference mode, which no_grad's opposite does not end.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "attacks must run outside inference mode; got inference mode. Use Trainer(inference_mode=False)."
        )


def check_pixels(images: Tensor) -> None:
    """Check that images are pixels.

    Raises:
        ValueError: If they are not between 0 and 1.
    """
    low, high = (float(value) for value in torch.aminmax(images.detach()))
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"images must be pixels in [0, 1], since the network normalises them itself; got {low:.3g} to {high:.3g}."
        )


@torch.no_grad()
def is_right(network: nn.Module, images: Tensor, labels: Tensor) -> Bool[Tensor, " N"]:
    """Return which images a network in eval mode classifies right.

    Args:
        network: Pixels to logits.
        images: Pixels in [0, 1].
        labels: Their classes.
    """
    with crafting_mode(network, "eval"):
        return network(images).argmax(1) == labels


def pgd_survivors(network: nn.Module, images: Tensor, labels: Tensor, *, attack: Pgd, seed: int) -> Bool[Tensor, " N"]:
    """Return which images are classified right after PGD from every random start, in eval mode.

    Args:
        network: Pixels to logits.
        images: Pixels in [0, 1].
        labels: Their classes.
        attack: The attack.
        seed: Key of the random starts.
    """
    alive = torch.ones_like(labels, dtype=torch.bool)
    for restart in range(attack.restarts):
        crafted = craft(network, images, labels, attack=attack, seed=seed + restart)
        alive &= is_right(network, crafted, labels)
    return alive


def auto_attack_survivors(
    network: nn.Module, images: Tensor, labels: Tensor, *, eps: float, num_classes: int, seed: int
) -> Bool[Tensor, " N"]:
    """Return which images are classified right before and after torchattacks' AutoAttack (standard, maximum norm).

    APGD on the cross-entropy, targeted APGD on the DLR loss, targeted FAB, and Square with 5,000 queries.

    Args:
        network: Pixels to logits.
        images: Pixels in [0, 1].
        labels: Their classes.
        eps: Largest change of a pixel, on the scale [0, 1].
        num_classes: Number of classes, at least 4 (the DLR loss takes the four largest logits).
        seed: Seed of its attacks.

    Source: Croce and Hein 2020.
    """
    import torchattacks

    def attack(held: Held) -> Attack:
        return torchattacks.AutoAttack(
            held, norm="Linf", eps=eps, version="standard", n_classes=num_classes, seed=seed
        )

    return _survivors(network, images, labels, attack, seed=seed)


def square_survivors(
    network: nn.Module, images: Tensor, labels: Tensor, *, eps: float, queries: int, seed: int
) -> Bool[Tensor, " N"]:
    """Return which images are classified right before and after the black-box Square attack.

    It only asks for logits, so a network that hides its gradients does not hide from it.

    Args:
        network: Pixels to logits.
        images: Pixels in [0, 1].
        labels: Their classes.
        eps: Largest change of a pixel, on the scale [0, 1].
        queries: Queries an image.
        seed: Seed of the attack.

    Source: Andriushchenko et al. 2020.
    """
    import torchattacks

    def attack(held: Held) -> Attack:
        return torchattacks.Square(held, norm="Linf", eps=eps, n_queries=queries, seed=seed)

    return _survivors(network, images, labels, attack, seed=seed)


def _survivors(
    network: nn.Module, images: Tensor, labels: Tensor, make: Callable[[Held], Attack], *, seed: int
) -> Tensor:
    check_mode()
    check_pixels(images)
    alive = is_right(network, images, labels)
    left = alive.nonzero()[:, 0]
    if len(left) == 0:
        return alive
    given = left if len(left) >= SMALL_BATCH else left.repeat(SMALL_BATCH)
    with crafting_mode(network, "eval"), keyed_random(seed, images.device), torch.enable_grad():
        crafted = make(Held(network))(images[given], labels[given])
    alive[left] = is_right(network, crafted, labels[given])[: len(left)]
    return alive
