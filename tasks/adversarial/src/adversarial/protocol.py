"""The paper's adversarial training as data and pure functions.

Source: Zhou et al. 2020, "Adversarial Training on CIFAR-10"; what it leaves open is named where it is decided.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence

from norm_layers.registry import NORMS, default_num_groups

EPS = 0.0157
"""Largest change of a pixel, as printed; 4.0035/255."""
STEP, STEPS = 2 / 255, 4
EPOCHS = 200
LEARNING_RATE = 0.01
BATCH_SIZE = 128
"""Not stated."""
DEPTH, WIDTH = 10, 2
NUM_GROUPS = 128
"""G of GN and BGN at width 2."""
SCHEDULES = ("constant", "cosine", "steps")
STEP_SHARES = (0.5, 0.75)
"""Shares of the training after which the schedule "steps" divides the learning rate by ten."""


def num_groups(norm: str, *, width: int) -> int | None:
    """Return G when the user gives none: 128 for GN and BGN at width 2, in proportion elsewhere; 32 for GBGN.

    Args:
        norm: The norm.
        width: Widening factor.

    Returns:
        G; None for a norm without groups, or from outside.
    """
    if norm in ("gn", "bgn"):
        return NUM_GROUPS * width // WIDTH
    return default_num_groups(norm) if norm in NORMS else None


def learning_rate_factor(step: int, *, total_steps: int, schedule: str) -> float:
    r"""Return by what the initial learning rate is multiplied at an optimiser step.

    cosine: :math:`\tfrac12 (1 + \cos \pi t / T)`; steps: a tenth from T / 2 on, a hundredth from 3 T / 4 on.

    Args:
        step: t, steps done before this one, from 0.
        total_steps: T, steps of the whole training.
        schedule: One of `SCHEDULES`.
    """
    share = min(step / total_steps, 1.0)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    return 0.1 ** sum(share >= each for each in STEP_SHARES) if schedule == "steps" else 1.0


def attack_key(*parts: int | str) -> int:
    """Return a seed for the random start of one attack, the same on every machine.

    Args:
        parts: What names the attack: purpose, seed, epoch, batch, rank.
    """
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def masking_warnings(
    accuracies: dict[str, float], *, curve: Sequence[tuple[float, float]], chance: float, slack: float = 1.0
) -> list[str]:
    """Return reasons to think that a network hides its gradients instead of being robust.

    A weaker attack must not beat a stronger one, an attack without gradients must not beat one with them, and accuracy
    must fall to about zero as eps grows.

    Args:
        accuracies: In percent on the same images, by attack, from the weakest to the strongest; "square" for the
            attack without gradients, which must not beat the strongest with them by PGD.
        curve: Accuracy in percent over eps on the scale of 255, eps increasing.
        chance: Accuracy of guessing, in percent.
        slack: Percentage points that noise may explain.

    Source: Athalye, Carlini, Wagner 2018, section 3.1; Carlini et al. 2019, section 5.
    """
    warnings = []
    white = [(name, value) for name, value in accuracies.items() if name != "square"]
    for (weaker, left), (stronger, more_left) in itertools.pairwise(white):
        if more_left > left + slack:
            warnings.append(
                f"{stronger} leaves {more_left:.1f} % and the weaker {weaker} {left:.1f} %: gradients may be masked"
            )
    pgd = [(name, value) for name, value in white if name.startswith("PGD")]
    if "square" in accuracies and pgd and accuracies["square"] < pgd[-1][1] - slack:
        name, value = pgd[-1]
        warnings.append(
            f"Square, which sees no gradients, leaves {accuracies['square']:.1f} % and {name} {value:.1f} %: "
            "gradients may be masked"
        )
    for (eps, value), (larger, more) in itertools.pairwise(curve):
        if more > value + slack:
            warnings.append(
                f"accuracy rises from {value:.1f} % to {more:.1f} % as eps grows from {eps:g}/255 to {larger:g}/255: "
                "gradients may be masked"
            )
    if curve and curve[-1][1] > max(slack, chance / 2):
        eps, value = curve[-1]
        warnings.append(f"accuracy is still {value:.1f} % at eps = {eps:g}/255: gradients may be masked")
    return warnings
