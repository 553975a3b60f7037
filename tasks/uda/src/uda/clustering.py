"""Pseudo-labels: spherical k-means over the target, started from the source's class centres and matched to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

CHUNK = 1000
"""Images converted to float64 at once (the official code's budget)."""


@dataclass(frozen=True, eq=False)
class Clustering:
    """Clusters of the target, in the order of the classes.

    Args:
        labels: Pseudo-label of each image, int64 (N,).
        distances: Distance of each image to the centre of its cluster, in [0, 1], float64 (N,).
        centres: Sum of the images of each class, float64 (classes, d); only its direction has a meaning.
        iterations: Times that the centres were moved.
        converged: Whether they moved by less than the tolerance in the end.
    """

    labels: Tensor
    distances: Tensor
    centres: Tensor
    iterations: int
    converged: bool


def cosine_distances(first: Float[Tensor, "N D"], second: Float[Tensor, "C D"]) -> Float[Tensor, "N C"]:
    r"""Return :math:`d(a, b) = \tfrac12 (1 - \cos(a, b))`, in [0, 1], of every row with every row; 0.5 for a zero row.

    Args:
        first: Any rows.
        second: Any rows.

    Source: Kang et al. 2019, the distance of the spherical k-means.
    """
    return (0.5 * (1 - F.normalize(first, dim=1) @ F.normalize(second, dim=1).T)).clamp(0, 1)


def source_centres(
    features: Float[Tensor, "N D"],
    labels: Int64[Tensor, " N"],
    *,
    num_classes: int,
    normalise: bool,
    chunk: int = CHUNK,
) -> Float[Tensor, "num_classes D"]:
    r"""Return the centre of each class, :math:`O_c = \sum_{y_i = c} f_i`, or of :math:`f_i / \|f_i\|_2`.

    Args:
        features: Of all source images, network in eval mode.
        labels: Class of each.
        num_classes: Number of classes; each needs an image.
        normalise: Whether an image counts by its direction alone (the article), or also by its length (the official
            code).
        chunk: Images converted to float64 at once.

    Returns:
        float64 sums on the device of the features.

    Raises:
        ValueError: If a class has no image, sizes do not fit, or a feature is not finite.

    Source: Kang et al. 2019, initial centres of the spherical k-means; raw sums as in `get_centers` of the official
        code (commit 39acc51).
    """
    _check_features(features, name="features", chunk=chunk)
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels must be one for each of the {len(features)} features; got {len(labels)}.")
    labels = labels.to(features.device)
    present, expected = set(labels.unique().tolist()), set(range(num_classes))
    if present != expected:
        raise ValueError(
            f"labels must hold every class from 0 to {num_classes - 1} and no other; got none of "
            f"{sorted(expected - present)}, and besides {sorted(present - expected)}."
        )
    return _class_sums(features, labels, num_classes=num_classes, normalise=normalise, chunk=chunk)


def cluster(
    target_features: Float[Tensor, "N D"],
    initial_centres: Float[Tensor, "C D"],
    *,
    tolerance: float = 0.005,
    max_iterations: int = 1000,
    normalise: bool,
    chunk: int = CHUNK,
) -> Clustering:
    r"""Cluster the target by spherical k-means, then give each cluster a class.

    .. math::
        y_i = \arg\min_c d(f_i, O_c), \quad O'_c = \sum_{y_i = c} f_i, \quad
        \text{until } \tfrac1C \sum_c d(O'_c, O_c) < \text{tolerance}

    A cluster without an image goes back to its initial centre. With the last centres, every image is assigned once
    more; `match_clusters` names the clusters. Computed in float64, in a fixed order: the same input gives the same
    labels.

    Args:
        target_features: Of all target images, network in eval mode with the target's norm branch.
        initial_centres: Of the source's classes, from `source_centres`.
        tolerance: Mean movement of the centres, as a distance in [0, 1], below which they are at rest.
        max_iterations: Movements of the centres at most.
        normalise: Whether the sums are of directions (the article) or of features as they are (the official code).
        chunk: Images converted to float64 at once.

    Returns:
        Pseudo-labels, distances and centres in the order of the classes, on the device of the features.

    Raises:
        ValueError: If a size or number does not fit, or a feature is not finite.

    Source: Kang et al. 2019, spherical k-means; tolerance and empty clusters as in the official code (commit 39acc51).
    """
    _check_features(target_features, name="target_features", chunk=chunk)
    if initial_centres.ndim != 2 or initial_centres.shape[1:] != target_features.shape[1:]:
        raise ValueError(
            f"initial_centres must be (classes, {target_features.shape[1]}), as wide as the features; "
            f"got {tuple(initial_centres.shape)}."
        )
    if not initial_centres.isfinite().all():
        raise ValueError("initial_centres must be finite; got NaN or infinity. The network has diverged.")
    if tolerance <= 0:
        raise ValueError(f"tolerance must be above 0; got {tolerance}.")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1; got {max_iterations}.")
    initial = initial_centres.to(target_features.device, torch.float64)
    centres, converged, iterations = initial, False, 0
    while not converged and iterations < max_iterations:
        labels, _ = _assign(target_features, centres, chunk=chunk)
        sums = _class_sums(target_features, labels, num_classes=len(initial), normalise=normalise, chunk=chunk)
        is_empty = torch.bincount(labels, minlength=len(initial)) == 0
        moved = torch.where(is_empty[:, None], initial, sums)
        converged = _mean_distance(moved, centres) < tolerance
        centres, iterations = moved, iterations + 1
    labels, distances = _assign(target_features, centres, chunk=chunk)
    classes = match_clusters(centres, initial)
    return Clustering(classes[labels], distances, in_class_order(centres, classes), iterations, converged)


def match_clusters(centres: Float[Tensor, "C D"], initial_centres: Float[Tensor, "C D"]) -> Int64[Tensor, " C"]:
    r"""Return the class of each cluster, the one-to-one π with the least :math:`\sum_k d(O_k, O^S_{\pi(k)})`.

    Args:
        centres: Of the clusters.
        initial_centres: Of the classes.

    Source: `align_centers` of the official code (commit 39acc51), the Hungarian method.
    """
    costs = cosine_distances(centres.double(), initial_centres.double())
    _, classes = linear_sum_assignment(costs.cpu().numpy())
    return torch.as_tensor(classes, dtype=torch.int64, device=centres.device)


def in_class_order(centres: Float[Tensor, "C D"], classes: Int64[Tensor, " C"]) -> Float[Tensor, "C D"]:
    r"""Return the centres by class: row c is that of the cluster k with :math:`\pi(k) = c`, :math:`O_{\pi^{-1}(c)}`.

    The official code (commit 39acc51) returns :math:`O_{\pi(c)}`, which is another order unless π is its own inverse.

    Args:
        centres: By cluster.
        classes: π, the class of each cluster.
    """
    return centres[torch.argsort(classes)]


def shift(centres: Float[Tensor, "C D"], initial_centres: Float[Tensor, "C D"]) -> float:
    r"""Return the distance between the domains, :math:`\tfrac1C \sum_c d(O_c, O^S_c)`, in [0, 1].

    Args:
        centres: Of the target, by class.
        initial_centres: Of the source, by class.

    Source: paper, Unsupervised Domain Adaptation on Office-31 ("the distance between source and target features'
        center"); `center_change` of the official code (commit 39acc51).
    """
    return _mean_distance(centres, initial_centres)


def drift(centres: Float[Tensor, "C D"], previous_centres: Float[Tensor, "C D"]) -> float:
    r"""Return the movement of the target's centres since the loop before, :math:`\tfrac1C \sum_c d(O_c, O'_c)`.

    Args:
        centres: Of the target in this loop, by class.
        previous_centres: Of the target in the loop before, by class.

    Source: first stop criterion of the official code (commit 39acc51).
    """
    return _mean_distance(centres, previous_centres)


def label_change(labels: Int64[Tensor, " N"], previous_labels: Int64[Tensor, " N"]) -> float:
    """Return the share of the images whose pseudo-label is not that of the loop before, in [0, 1].

    Args:
        labels: In this loop.
        previous_labels: In the loop before, of the same images.

    Raises:
        ValueError: If the numbers of images differ, or there is none.

    Source: third stop criterion of the official code (commit 39acc51), where it is always 0: both loops share a dict.
    """
    if labels.shape != previous_labels.shape or len(labels) == 0:
        raise ValueError(
            f"previous_labels must be of the same images, at least one; got {len(previous_labels)} labels beside "
            f"{len(labels)}."
        )
    return (labels != previous_labels.to(labels.device)).double().mean().item()


def _mean_distance(first: Tensor, second: Tensor) -> float:
    if first.shape != second.shape:
        raise ValueError(f"centres must be of the same classes; got {tuple(first.shape)} and {tuple(second.shape)}.")
    first = F.normalize(first.double(), dim=1)
    second = F.normalize(second.to(first.device, torch.float64), dim=1)
    return (0.5 * (1 - (first * second).sum(1))).clamp(0, 1).mean().item()


def _class_sums(features: Tensor, labels: Tensor, *, num_classes: int, normalise: bool, chunk: int) -> Tensor:
    # a product with a one-hot matrix adds in a fixed order, which index_add does not on a GPU; in float64 it has no
    # TF32 either
    sums = features.new_zeros((num_classes, features.shape[1]), dtype=torch.float64)
    for rows, of_rows in zip(features.split(chunk), labels.split(chunk)):
        vectors = rows.double()
        one_hot = F.one_hot(of_rows, num_classes).double()
        sums += one_hot.T @ (F.normalize(vectors, dim=1) if normalise else vectors)
    return sums


def _assign(features: Tensor, centres: Tensor, *, chunk: int) -> tuple[Tensor, Tensor]:
    """Return the nearest centre of each image, the first of equally near ones, and the distance to it."""
    nearest = [cosine_distances(rows.double(), centres) for rows in features.split(chunk)]
    labels = torch.cat([distances.argmin(dim=1) for distances in nearest])
    return labels, torch.cat([distances.amin(dim=1) for distances in nearest])


def _check_features(features: Tensor, *, name: str, chunk: int) -> None:
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1; got {chunk}.")
    if features.ndim != 2 or len(features) == 0:
        raise ValueError(f"{name} must be (images, d) with at least one image; got {tuple(features.shape)}.")
    if not features.isfinite().all():
        raise ValueError(f"{name} must be finite; got NaN or infinity. The network has diverged.")
