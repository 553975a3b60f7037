"""The paper's architecture search as data and pure functions.

Source: Zhou et al. 2020, "Image Classification on CIFAR-10 with NAS"; where it refers to DARTS (Liu et al. 2019) and
MANAS (Carlucci et al. 2019), theirs.
"""

from __future__ import annotations

import math
from typing import Literal

from norm_layers.registry import NORMS, default_num_groups

Method = Literal["darts", "manas", "manas_ls", "random"]
Order = Literal["first", "second"]

SEARCH_EPOCHS, RETRAIN_EPOCHS = 50, 600
PER_CELL_SEARCH_EPOCHS = 500
"""Of a MANAS search of 20 cells with their own agents (Carlucci et al. 2019)."""
SEARCH_BATCH_SIZE = 64
RETRAIN_BATCH_SIZE = {"darts": 96, "manas": 64}
SEARCH_CHANNELS, SEARCH_CELLS, NUM_NODES = 16, 8, 4
CHANNELS, CELLS = 36, 20
LEARNING_RATE, SEARCH_LEARNING_RATE_END = 0.025, 0.001
MOMENTUM, WEIGHT_DECAY, CLIP = 0.9, 3e-4, 5.0
ARCHITECTURE_LEARNING_RATE, ARCHITECTURE_BETAS, ARCHITECTURE_WEIGHT_DECAY = 3e-4, (0.5, 0.999), 1e-3
ALPHA_SCALE = 1e-3
"""Standard deviation of the alphas at the start."""
DROP_PATH, AUXILIARY_WEIGHT, CUTOUT = 0.2, 0.4, 16
CROP_PADDING = 4
GN_GROUPS = 32
BGN_GROUPS = {"darts": 256, "manas": 64}
TABLES = {"darts": 3, "manas": 4}


def family(method: str) -> str:
    """Return whose protocol a method follows: that of darts (as the random baseline does) or of manas."""
    return "manas" if method.startswith("manas") else "darts"


def num_groups(norm: str, *, method: str, channels: int) -> int | None:
    """Return G when the user gives none: 32 for GN and GBGN; for BGN 256 with DARTS, 64 with MANAS.

    GN's is in proportion to the width of networks narrower than the paper's search network: with one channel or less
    to a group in the last cell, GN followed by global average pooling is as degenerate as IN.

    Args:
        norm: The norm.
        method: The search.
        channels: C of the narrowest network of the run.

    Returns:
        G; None for a norm without groups, or from outside.
    """
    if norm == "bgn":
        return BGN_GROUPS[family(method)]
    if norm == "gn":
        return max(1, GN_GROUPS * min(channels, SEARCH_CHANNELS) // SEARCH_CHANNELS)
    return default_num_groups(norm) if norm in NORMS else None


def cosine(epoch: int, *, num_epochs: int, start: float, end: float = 0.0) -> float:
    r"""Return the learning rate of an epoch.

    .. math:: \eta_e = \eta_{end} + \tfrac12 (\eta_{start} - \eta_{end}) (1 + \cos \pi e / E)

    Args:
        epoch: e, from 0.
        num_epochs: E.
        start: Learning rate of epoch 0.
        end: What it would reach at epoch E.
    """
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * epoch / num_epochs))


def drop_path_probability(epoch: int, *, num_epochs: int, largest: float) -> float:
    """Return the probability of drop path in an epoch: linear from 0.

    Args:
        epoch: From 0.
        num_epochs: Epochs of the training.
        largest: What it would reach after the last epoch.

    Source: quark0/darts, commit f276dd3, `train.py`.
    """
    return largest * epoch / num_epochs
