"""A fair start for untrained features."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from fewshot.imprinting import ImprintingNetwork


@torch.no_grad()
def calibrated_copy(network: ImprintingNetwork, batches: Iterable[Tensor]) -> ImprintingNetwork:
    """Return a copy in eval mode whose running statistics are the plain mean over some batches.

    An untrained network with running statistics of 0 and 1 would not be normalised at all, so its features would look
    worse than they are.

    Args:
        network: The network; not changed.
        batches: Normalised images.
    """
    copy = deepcopy(network)
    update_bn(batches, copy)
    return copy.eval()
