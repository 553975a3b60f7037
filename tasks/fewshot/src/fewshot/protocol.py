"""The protocol of Gidaris and Komodakis, as the paper uses it, as data and pure functions.

Source: Zhou et al. 2020, "Few shot learning"; Gidaris and Komodakis 2018 and its published code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fewshot.resnet12 import WIDTHS
from norm_layers.registry import NORMS, default_num_groups
from shared.runs import Metric

EPOCHS = 60
MILESTONES = (20, 40, 50)
LEARNING_RATES = (0.1, 0.006, 0.0012, 0.00024)
"""Before the first milestone, from it on, from the second on, from the third on (epochs from 0)."""
BATCH_SIZE = 256
MOMENTUM = 0.9
"""Nesterov's."""
WEIGHT_DECAY = 5e-4
"""On everything: convolutions, norms, the classifier's weights and its scale."""
CODE_ITERATIONS = 1000
"""Iterations that the published code calls an epoch; a pass over 38,400 images in batches of 256 has 150."""
CODE_BLOCK = 32
"""Images that the published code draws together: their classes uniformly, the images of a class without repeats."""
SCALE = 10.0
WAYS, SHOTS, QUERIES, EPISODES, VAL_EPISODES = 5, (1, 5), 15, 600, 2000
IMAGE_SIZE, CROP_PADDING = 84, 8
FULL_WIDTH = 64
"""Channels of ResNet-12's first block."""
BGN_GROUPS, METAOPTNET_GROUPS = 256, 64
"""G of BGN; the paper names none. The largest powers of two that divide C·H·W of every layer at 84 pixels, with
TADAM's and MetaOptNet's widths."""
MEAN = (120.39586422 / 255, 115.59361427 / 255, 104.54012653 / 255)
STD = (70.68188272 / 255, 68.27635443 / 255, 72.54505529 / 255)
"""Of miniImageNet's base classes, from the published code."""


def learning_rate(
    epoch: int, *, rates: Sequence[float] = LEARNING_RATES, milestones: Sequence[int] = MILESTONES
) -> float:
    """Return the learning rate of an epoch.

    Args:
        epoch: Epochs done before, from 0.
        rates: One more than milestones.
        milestones: Epochs from which the next rate holds.
    """
    return rates[sum(epoch >= milestone for milestone in milestones)]


def check_schedule(rates: Sequence[float], milestones: Sequence[int]) -> None:
    """Check a learning-rate table.

    Raises:
        ValueError: If there is not one rate more than milestones, or the milestones do not increase.
    """
    if len(rates) != len(milestones) + 1 or min(rates, default=0) <= 0:
        raise ValueError(
            "learning_rates must be positive and one more than milestones; "
            f"got {tuple(rates)} and {tuple(milestones)}."
        )
    if list(milestones) != sorted(set(milestones)):
        raise ValueError(f"milestones must increase; got {tuple(milestones)}.")


def num_groups(norm: str, *, widths: Sequence[int]) -> int | None:
    """Return G when the user gives none: a group holds as many channels of another width as of the full one.

    ``G = max(1, G_full * widths[0] // 64)`` with G_full = 256 for BGN and 32 for GN and GBGN; for BGN with
    MetaOptNet's widths 64, the largest power of two that divides all layers there.

    Args:
        norm: The norm.
        widths: Channels of the four blocks.

    Returns:
        G; None for a norm without groups, or from outside.
    """
    if norm == "bgn":
        full: int | None = METAOPTNET_GROUPS if tuple(widths) == WIDTHS["metaoptnet"] else BGN_GROUPS
    else:
        full = default_num_groups(norm) if norm in NORMS else None
    return None if full is None else max(1, full * widths[0] // FULL_WIDTH)


def crop_padding(image_size: int) -> int:
    """Return the padding of the random crop: 8 pixels at 84, in proportion elsewhere.

    Args:
        image_size: Side in pixels.
    """
    return round(CROP_PADDING * image_size / IMAGE_SIZE)


def episode_metric(hits: Tensor, queries: int) -> Metric:
    r"""Return the mean accuracy over episodes in percent, with :math:`\pm 1.96\, s / \sqrt n`, s with n − 1.

    Args:
        hits: Right answers in each of the n ≥ 2 episodes.
        queries: Queries of an episode.
    """
    accuracies = 100 * hits.double().cpu() / queries
    mean, half = float(accuracies.mean()), 1.96 * float(accuracies.std(correction=1)) / math.sqrt(len(hits))
    return Metric(value=mean, n=len(hits), ci95=(mean - half, mean + half))


def pooled_hits(*parts: tuple[Tensor, int]) -> tuple[Tensor, int]:
    """Return the hits and queries of several groups of queries of the same episodes taken together."""
    return torch.stack([hits for hits, _ in parts]).sum(0), sum(queries for _, queries in parts)
