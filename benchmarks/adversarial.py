"""Adversarial training: a step beside torchattacks' PGD in a plain loop.

    python -m benchmarks.adversarial

Ours is timed under Lightning, with its loader, augmentation and logging; the plain loop gets the same batches, ready
made, or has torchvision's loader: attack, forward, cross-entropy, backward, Adam, and the loss and accuracy that such
loops print. Before that, the images of both attacks from the same random start must be the same, bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F

from adversarial.attacks import craft
from benchmarks.beside import Beside, fit_beside
from benchmarks.classification import endless, torchvision_loader
from benchmarks.rows import Row, main, timed_row, version


def plain_loop(module: Any, *, own_loader: bool) -> Callable[[Any], None]:
    """Return the step of the plain loop, from a module's weights, on given batches or those of its own loader."""
    import torchattacks

    batches = endless(torchvision_loader(module.data.train, batch_size=module.batch_size, mean=None))

    network = copy.deepcopy(module.network).train()
    rate = module.trainer.optimizers[0].param_groups[0]["lr"]
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    attack = torchattacks.PGD(network, eps=module.attack.eps, alpha=module.attack.step, steps=module.attack.steps)
    seen = {"loss": 0.0, "right": 0, "images": 0}

    def step(batch: Any) -> None:
        images, labels = next(batches) if own_loader else (batch.images, batch.labels)
        with patch("adversarial.wideresnet.fast_layout", lambda pixels: pixels):  # the layout in which images come
            attacked = attack(images, labels)
            logits = network(attacked)
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seen["loss"] += loss.item() * len(labels)
        seen["right"] += int((logits.argmax(1) == labels).sum())
        seen["images"] += len(labels)

    return step


def check_same_images(module: Any) -> None:
    """Check that our attack and torchattacks' give the same images from the same random start.

    Raises:
        AssertionError: If they do not.
    """
    import torchattacks

    network = copy.deepcopy(module.network).train()
    side = module.data.test.resolution
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 3, *side, generator=generator)
    labels = torch.arange(8) % module.data.num_classes
    ours = craft(network, images, labels, attack=module.attack, seed=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        attack = torchattacks.PGD(network, eps=module.attack.eps, alpha=module.attack.step, steps=module.attack.steps)
        assert torch.equal(ours, attack(images, labels)), "the attacks differ"


def measure(*, pairs: int = 9, tiny: bool = False) -> list[Row]:
    """Measure a step of the default config, and of the paper's network and image size."""
    paper = ("--model.width=2", "--data.image_size=32", "--data.num_classes=10", "--data.batch_size=32")
    settings: dict[str, tuple[str, ...]] = {"smoke config": ()} if tiny else {
        "default config": (), "the paper's WRN-10-2 at 32 px, batch 32": paper
    }  # fmt: skip
    rows = []
    for sizes, flags in settings.items():
        for own_loader in (False, True) if not flags else (False,):

            def begin(module: Any, own_loader: bool = own_loader) -> Callable[[Any], None]:
                check_same_images(module)
                return plain_loop(module, own_loader=own_loader)

            beside = Beside(begin, steps=1 if tiny else 2, pairs=pairs, wanted=1)
            config = "smoke" if tiny else "default"
            turns, run = fit_beside("adversarial", "--model.norm=bn", *flags, config=config, beside=beside)
            module: Any = run.module
            what = f"PGD-{module.attack.steps} training step, BN, {sizes}, loading and logging included"
            how = "with torchvision's loader and transforms" if own_loader else "on our ready batches"
            note = "same attacked images, bit for bit"
            if not own_loader:
                note += "; our time includes drawing and augmenting the batch, theirs does not"
            reference = f"{version('torchattacks')} and a plain loop, {how}"
            rows.append(timed_row(turns, task="adversarial", what=what, reference=reference, at_least=1, note=note))
    return rows


if __name__ == "__main__":
    raise SystemExit(main(["benchmarks.adversarial"], name="adversarial"))
