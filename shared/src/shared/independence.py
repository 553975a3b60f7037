"""The check that what a network says of an image does not depend on the other images."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from shared.errors import UserError

INDEPENDENCE_TOLERANCE = 1e-2
"""Largest relative distance between two embeddings of one image that rounding, in bfloat16 too, may explain."""


def check_independence(embed: Callable[[Tensor], Tensor], images: Tensor) -> None:
    """Refuse a norm whose eval output for an image depends on the others of the batch.

    Such a network would see all test images together (transductive), and its numbers would depend on how they are
    batched. Embeddings with NaN or infinity pass: they tell of divergence, whatever the norm.

    Args:
        embed: Gives the embeddings, (N, d), of images; the network in eval mode.
        images: Normalised images, two or more.

    Raises:
        UserError: If an image alone and in the batch have different embeddings.
    """
    alone, together = embed(images[:1]), embed(images)[:1]
    distance = float((alone - together).norm() / together.norm().clamp(min=1e-12))
    if distance > INDEPENDENCE_TOLERANCE and math.isfinite(distance):
        raise UserError(
            "norm must give an image the same embedding whatever else is in the batch in eval mode; "
            f"got a relative distance of {distance:.2g} between an image alone and in a batch of {len(images)}. "
            "Use running statistics in eval mode."
        )
