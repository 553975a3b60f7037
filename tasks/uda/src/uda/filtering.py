"""Which pseudo-labelled target images are trusted: near ones, of classes with enough of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class Kept(NamedTuple):
    """What passed the filter.

    Attributes:
        images: bool (N,): near to its centre and of a kept class, so class-aware batches may draw it.
        classes: The kept classes, in ascending order; may be empty.
    """

    images: Tensor
    classes: list[int]


def keep(
    labels: Int64[Tensor, " N"],
    distances: Float[Tensor, " N"],
    *,
    threshold: float,
    minimum: int,
    num_classes: int,
) -> Kept:
    r"""Keep the target images with :math:`d_i < D_0`, of the classes that have at least :math:`N_0` of these.

    Args:
        labels: Pseudo-label of each image.
        distances: Distance of each image to the centre of its class, in [0, 1].
        threshold: D_0; 0.05 asks for a cosine above 0.9, 1 keeps every image but one opposite to its centre.
        minimum: N_0, images.
        num_classes: Number of classes.

    Raises:
        ValueError: If a number is outside its range, or sizes do not fit.

    Source: Kang et al. 2019, ambiguous images and classes; `filter_samples` and `filter_class` of the official code
        (commit 39acc51): D_0 = 0.05 for amazon to dslr and webcam, 1 for the other pairs, N_0 = 3.
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be above 0, a distance up to 1; got {threshold}.")
    if minimum < 1:
        raise ValueError(f"minimum must be at least 1; got {minimum}.")
    if labels.shape != distances.shape:
        raise ValueError(f"distances must be one for each of the {len(labels)} labels; got {len(distances)}.")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"labels must be in [0, {num_classes}), the classes; got {int(labels.min())} to {int(labels.max())}."
        )
    is_near = distances < threshold
    is_kept = torch.bincount(labels[is_near], minlength=num_classes) >= minimum
    return Kept(is_near & is_kept[labels], is_kept.nonzero()[:, 0].tolist())
