"""The check that an image's embedding is its own, and a fair start for untrained features."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from fewshot.imprinting import ImprintingNetwork
from shared.errors import UserError

INDEPENDENCE_TOLERANCE = 1e-2
"""Largest distance between two embeddings of length 1 of one image that rounding, in bfloat16 too, may explain."""


def check_independence(network: ImprintingNetwork, images: Tensor) -> None:
    """Refuse a norm whose eval output for an image depends on the others of the batch.

    Such a network would see the queries together (transductive), and its numbers would depend on how they are batched.

    Args:
        network: In eval mode.
        images: Normalised images, two or more.

    Raises:
        UserError: If an image alone and in the batch have different embeddings.
    """
    alone, together = network.embed(images[:1]), network.embed(images)[:1]
    distance = float((alone - together).norm())
    if not distance <= INDEPENDENCE_TOLERANCE:
        raise UserError(
            "norm must give an image the same embedding whatever else is in the batch in eval mode; "
            f"got a distance of {distance:.2g} between an image alone and in a batch of {len(images)}. "
            "Use running statistics in eval mode."
        )


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
