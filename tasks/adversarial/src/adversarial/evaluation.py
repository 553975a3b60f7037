"""The test of a robust network: clean, the training's attack, a stronger one, one without gradients, AutoAttack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from adversarial import protocol
from adversarial.attacks import (
    Pgd,
    auto_attack_survivors,
    check_unit,
    is_right,
    pgd_survivors,
    square_survivors,
)
from shared.data.loaders import Batch

STEP_SHARE = 2.5
"""The stronger PGD's step is this times eps over its number of steps, so that it can reach any point of the ball."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What a test consists of, besides clean images and the training's attack on all of them.

    Args:
        strong: The stronger PGD.
        strong_images: Test images that it attacks.
        square_queries: Queries of Square on these images; 0: not run.
        autoattack_images: Test images that AutoAttack attacks.
        curve: PGD with the strong one's steps at several values of eps.
        curve_images: Test images that these attack.
    """

    strong: Pgd
    strong_images: int
    square_queries: int
    autoattack_images: int
    curve: tuple[Pgd, ...]
    curve_images: int


def check_evaluation(
    *,
    eps: float,
    strong_steps: int,
    strong_restarts: int,
    strong_images: int,
    square_queries: int,
    autoattack_images: int,
    curve_images: int,
    curve_eps: Sequence[float],
) -> EvaluationSettings:
    """Return the settings of a test.

    Raises:
        ValueError: If a number is out of its range, or the values of eps do not increase.
    """
    counts = {"square_queries": square_queries, "autoattack_images": autoattack_images, "curve_images": curve_images}
    for name, value in counts.items():
        if value < 0:
            raise ValueError(f"{name} must be at least 0; got {value}.")
    if strong_images < 1:
        raise ValueError(f"strong_images must be at least 1; got {strong_images}.")
    for size in curve_eps:
        check_unit("curve_eps", size)
    if list(curve_eps) != sorted(set(curve_eps)) or (curve_images and not curve_eps):
        raise ValueError(f"curve_eps must be increasing numbers; got {list(curve_eps)}.")

    def pgd(size: float, restarts: int) -> Pgd:
        step = min(1.0, STEP_SHARE * size / max(strong_steps, 1))
        return Pgd(eps=size, step=step, steps=strong_steps, restarts=restarts)

    return EvaluationSettings(
        strong=pgd(eps, strong_restarts), strong_images=strong_images, square_queries=square_queries,
        autoattack_images=autoattack_images, curve=tuple(pgd(size, 1) for size in curve_eps),
        curve_images=curve_images,
    )  # fmt: skip


class Evaluation:
    """Attacks test images, and sorts the answers by test.

    Random starts have keys of their own, so that every network meets the same ones.

    Args:
        settings: What the test consists of.
        attack: The training's attack.
        num_classes: Number of classes.
        num_images: Test images.

    Raises:
        ValueError: If AutoAttack is asked for with fewer than four classes.
    """

    def __init__(self, settings: EvaluationSettings, *, attack: Pgd, num_classes: int, num_images: int) -> None:
        if settings.autoattack_images and num_classes < 4:
            raise ValueError(f"autoattack_images must be 0 with fewer than 4 classes; got {num_classes} classes.")
        self.settings = replace(
            settings, strong_images=min(settings.strong_images, num_images),
            autoattack_images=min(settings.autoattack_images, num_images),
            curve_images=min(settings.curve_images, num_images),
        )  # fmt: skip
        self.attack, self.num_classes, self.num_images = attack, num_classes, num_images

    def limits(self, *, whole: bool) -> dict[str, int]:
        """Return how many images, the first ones of the set, each test takes; in the order of the answers' columns.

        Args:
            whole: Whether all tests are run; if not, only clean images and the training's attack.
        """
        settings = self.settings
        limits = {"clean_top1": self.num_images, "robust_top1": self.num_images}
        if not whole:
            return limits
        limits[self.strong_name] = settings.strong_images
        if settings.square_queries:
            limits["square_top1"] = settings.strong_images
        if settings.autoattack_images:
            limits["autoattack_top1"] = settings.autoattack_images
        if settings.curve_images:
            limits |= {f"eps {255 * pgd.eps:g}": settings.curve_images for pgd in settings.curve}
        return limits

    @property
    def strong_name(self) -> str:
        """The metric of the stronger PGD."""
        return f"pgd{self.settings.strong.steps}_top1"

    def answer(self, network: nn.Module, batch: Batch, *, whole: bool) -> Tensor:
        """Return which images are classified right in each test, shape (N, tests); 0 where a test leaves them out.

        Args:
            network: Pixels to logits.
            batch: Test images.
            whole: As for `limits`.
        """
        limits = self.limits(whole=whole)
        answers = torch.zeros(len(batch.labels), len(limits), dtype=torch.float32, device=batch.labels.device)
        for column, (name, limit) in enumerate(limits.items()):
            chosen = (batch.indices < limit) & batch.valid
            if bool(chosen.any()):
                key = protocol.attack_key("test", name, int(batch.indices[0]))
                right = self._survivors(network, batch.images[chosen], batch.labels[chosen], name, key)
                answers[chosen, column] = right.to(answers.dtype)
        return answers

    def _survivors(self, network: nn.Module, images: Tensor, labels: Tensor, name: str, key: int) -> Tensor:
        settings = self.settings
        if name == "clean_top1":
            return is_right(network, images, labels)
        if name == "square_top1":
            return square_survivors(
                network, images, labels, eps=self.attack.eps, queries=settings.square_queries, seed=key
            )
        if name == "autoattack_top1":
            return auto_attack_survivors(
                network, images, labels, eps=self.attack.eps, num_classes=self.num_classes, seed=key
            )
        attacks = {"robust_top1": self.attack, self.strong_name: settings.strong}
        attacks |= {f"eps {255 * pgd.eps:g}": pgd for pgd in settings.curve}
        return pgd_survivors(network, images, labels, attack=attacks[name], seed=key)

    def by_test(self, answers: Tensor, *, whole: bool) -> dict[str, Tensor]:
        """Return the answers of each test on the images that it takes.

        Args:
            answers: Of all images, shape (images, tests).
            whole: As for `limits`.
        """
        limits = self.limits(whole=whole)
        return {name: answers[:limit, column].bool().cpu() for column, (name, limit) in enumerate(limits.items())}
