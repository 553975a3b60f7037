"""The paper's ImageNet protocol as data and pure functions.

Source: Zhou et al. 2020, "Image Classification on ImageNet with ResNet-50"; what it leaves open is named where it is
decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

NUM_WORKERS = 8
"""GPUs of the paper: gradients are averaged over them, norm statistics are not."""
EPOCHS = 120
MILESTONES = (30, 60, 90)
WEIGHT_DECAY = 1e-4
"""On all trainable parameters, norms and biases included."""
MOMENTUM = 0.9
"""Not stated; Goyal et al. 2017, whom the paper follows, without Nesterov."""
LEARNING_RATES = {128: 0.4, 64: 0.2, 32: 0.1, 16: 0.05, 8: 0.025, 4: 0.0125, 2: 0.00625}
"""Images per worker to initial learning rate."""
SWEEP_BATCH_SIZES = (128, 2)
"""Images per worker at which Table 1 varies G."""
LAST_EPOCHS = 5
"""The reported accuracy is the median over this many last epochs."""


def learning_rate(total_batch_size: int) -> float:
    r"""Return the initial learning rate, :math:`0.1 \cdot B / 256`.

    Args:
        total_batch_size: B, images per optimiser step over all workers.

    Source: Goyal et al. 2017, the linear scaling rule; gives every rate that the paper lists.
    """
    return 0.1 * total_batch_size / 256


def learning_rate_factor(
    step: int, *, steps_per_epoch: int, milestones: Sequence[int] = MILESTONES, warmup_epochs: int = 0
) -> float:
    """Return by what the initial learning rate is multiplied at an optimiser step.

    Args:
        step: Steps done before this one, from 0.
        steps_per_epoch: Optimiser steps in an epoch.
        milestones: Epochs (from 0) from which the rate is ten times smaller than before.
        warmup_epochs: Epochs over which the rate rises linearly to its initial value; 0 for none, as in the paper.
    """
    epoch = step // steps_per_epoch
    factor = 0.1 ** sum(epoch >= milestone for milestone in milestones)
    warmup_steps = warmup_epochs * steps_per_epoch
    return factor * (step + 1) / warmup_steps if step < warmup_steps else factor


def accumulation(*, total_workers: int, world_size: int, virtual_workers: int) -> int:
    """Return how many micro-batches make one optimiser step, so that it averages over `total_workers` workers.

    Args:
        total_workers: Workers of the protocol.
        world_size: Processes that train.
        virtual_workers: Workers that each process plays at once.

    Raises:
        ValueError: If the processes and virtual workers do not divide the workers.
    """
    at_once = world_size * virtual_workers
    if total_workers % at_once:
        raise ValueError(
            f"total_workers must be a multiple of processes × virtual_workers = {world_size} × {virtual_workers}; "
            f"got {total_workers}."
        )
    return total_workers // at_once


def headline_accuracy(accuracies: Sequence[float]) -> float:
    """Return the median of the last five epochs' accuracies (of all, if there are fewer).

    Args:
        accuracies: One per epoch, the last epoch last.

    Source: the paper, "the median accuracy in the last five epochs is reported", after Wu and He 2018.
    """
    return float(median(accuracies[-LAST_EPOCHS:]))
