"""The paper's domain adaptation as data and pure functions.

Source: Zhou et al. 2020, "Unsupervised Domain Adaptation on Office-31"; Kang et al. 2019 and the official code of CAN
(commit 39acc51); what the paper leaves open is named where it is decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from norm_layers.registry import NORMS, default_num_groups
from shared.errors import UserError

LOOPS = 50
LEARNING_RATE = 1e-3
HEAD_FACTOR = 10.0
"""The classifier's learning rate, as a multiple of the others'."""
WEIGHT_DECAY = 5e-4
SGD_MOMENTUM = 0.9
BATCH_SIZE = 30
CDD_WEIGHT = 0.3
CLASSES_PER_STEP, IMAGES_PER_CLASS = 10, 3
MIN_IMAGES = 3
"""Kept target images that a class needs to be trained on in a loop."""
DECAY_RATE, DECAY_STEP = 0.1, 25
STOP_SHIFT = STOP_DRIFT = STOP_CHANGE = 0.001
IMAGE_SIZE, CROP_SIZE = 256, 224

LETTERS = {"amazon": "a", "dslr": "d", "webcam": "w"}
"""How the paper abbreviates the domains of Office-31."""
GROUPS = {"da": 512, "wa": 512, "wd": 512, "ad": 1, "aw": 8, "dw": 32}
"""G of BGN by transfer. One was chosen for each pair, and there is no validation set of the target: see README.md."""
OTHER_GROUPS = 32
"""G of BGN for a pair that the paper does not have, a guess: the one of the paper's that small networks take, too."""
THRESHOLDS = {"ad": 0.05, "aw": 0.05}
"""D_0 of the filter by transfer, as in the official code; 1 (every image) elsewhere."""

METHODS = ("can", "norm_branch", "source_only")
"""The whole algorithm; the same with the discrepancy's weight at 0, so that only the target's norm branch adapts; and
cross-entropy on the source alone, tested through the source's norms."""
DECAYS = ("loop", "iteration", "inv", "none")


def transfer_name(source: str, target: str) -> str:
    """Return the paper's name of a pair ("ad"), or "source-target" for other domains.

    Args:
        source: Name of the labelled domain.
        target: Name of the other.
    """
    if source in LETTERS and target in LETTERS:
        return LETTERS[source] + LETTERS[target]
    return f"{source}-{target}"


def domains_of(transfer: str) -> tuple[str, str]:
    """Return source and target of the paper's name of a pair.

    Args:
        transfer: A key of `GROUPS`.
    """
    names = {letter: domain for domain, letter in LETTERS.items()}
    return names[transfer[0]], names[transfer[1]]


def num_groups(norm: str, *, transfer: str) -> int | None:
    """Return G when the user gives none: for BGN the paper's of the pair, 32 for GN and GBGN.

    Args:
        norm: The norm.
        transfer: Name of the pair.

    Returns:
        G; None for a norm without groups, or from outside.

    Source: paper, Unsupervised Domain Adaptation on Office-31.
    """
    if norm == "bgn":
        return GROUPS.get(transfer, OTHER_GROUPS)
    return default_num_groups(norm) if norm in NORMS else None


def check_settings(
    *,
    above_zero: Mapping[str, float],
    at_least_zero: Mapping[str, float],
    at_least_one: Mapping[str, int],
    decay_rate: float,
    threshold: float | None,
) -> None:
    """Check the numbers of a run.

    Args:
        above_zero: By name.
        at_least_zero: By name.
        at_least_one: By name.
        decay_rate: In (0, 1].
        threshold: In (0, 1], or None.

    Raises:
        ValueError: If one is outside its range.
    """
    for name, value in above_zero.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0; got {value}.")
    for name, value in at_least_zero.items():
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0; got {value}.")
    for name, count in at_least_one.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1; got {count}.")
    if not 0 < decay_rate <= 1:
        raise ValueError(f"decay_rate must be in (0, 1]; got {decay_rate}.")
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError(f"threshold must be in (0, 1], a distance; got {threshold}.")


def check_trainer(trainer: Any, *, warmup_epochs: int) -> None:
    """Check that a trainer can carry out loops.

    Args:
        trainer: Lightning's trainer.
        warmup_epochs: Epochs before the first loop.

    Raises:
        UserError: For several devices, for no loop after the warm-up, and for loops without validation.
    """
    if trainer.world_size > 1:
        raise UserError(
            f"trainer.devices must be 1: a loop of CAN is trained on one device; got {trainer.world_size} "
            "processes. Run several pairs beside each other instead (make sweep jobs=)."
        )
    if trainer.max_epochs <= warmup_epochs:
        raise UserError(
            f"trainer.max_epochs must be above the {warmup_epochs} of model.warmup_epochs, which they count; "
            f"got {trainer.max_epochs}."
        )
    if trainer.check_val_every_n_epoch != 1:
        raise UserError(
            "trainer.check_val_every_n_epoch must be 1: the target's accuracy is told after each loop; got "
            f"{trainer.check_val_every_n_epoch}."
        )


def learning_rate_factor(*, loop: int, iteration: int, decay: str, rate: float, step: int) -> float:
    r"""Return by what the learning rates are multiplied.

    loop: :math:`r^{\lfloor l / s \rfloor}`; iteration: :math:`r^{\lfloor i / s \rfloor}`; inv:
    :math:`(1 + 0.001\, i)^{-0.75}`; none: 1.

    Args:
        loop: l, loops of adaptation done before.
        iteration: i, optimiser steps of adaptation done before, over all loops.
        decay: One of `DECAYS`.
        rate: r.
        step: s.

    Source: paper ("exponential decay with rate 0.1 and step 25"), without a unit; in the official code (commit
        39acc51) such a schedule counts iterations, and the one that its configurations choose is inv.
    """
    if decay == "inv":
        return (1 + 0.001 * iteration) ** -0.75
    if decay == "none":
        return 1.0
    return rate ** ((loop if decay == "loop" else iteration) // step)


def is_at_rest(measures: Mapping[str, float], *, rule: str) -> bool:
    """Say whether the adaptation ends before the next loop.

    Args:
        measures: "shift", and from the second loop on "drift" and "label_change", of the clustering.
        rule: "shift" (the paper's: shift < 0.001), "official" (drift and label change below 0.001, too) or "never".
            The official code asks for two loops at least; so do both rules here.

    Source: paper; stop criteria of the official code (commit 39acc51).
    """
    if rule == "never" or "drift" not in measures or measures["shift"] >= STOP_SHIFT:
        return False
    return rule == "shift" or (measures["drift"] < STOP_DRIFT and measures["label_change"] < STOP_CHANGE)
