"""What a loop of the adaptation starts from: pseudo-labels, what passed the filter, and how the domains moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from uda.clustering import Clustering, cluster, drift, label_change, shift, source_centres
from uda.filtering import Kept, keep


@dataclass(frozen=True, kw_only=True, eq=False)
class LoopState:
    """The start of one loop; all tensors are on the CPU.

    Args:
        loop: Number of the loop, from 0.
        labels: Pseudo-label of each target image.
        distances: Distance of each to its centre.
        centres: Centres of the target, by class.
        kept: What passed the filter.
        measures: Label-free numbers of the clustering: shift, drift, label_change (from the second loop on),
            kept_share, kept_classes.
    """

    loop: int
    labels: Tensor
    distances: Tensor
    centres: Tensor
    kept: Kept
    measures: dict[str, float]

    def state_dict(self) -> dict[str, Any]:
        """Return the state as types that load with `weights_only`."""
        return {
            "loop": self.loop, "labels": self.labels, "distances": self.distances, "centres": self.centres,
            "kept_images": self.kept.images, "kept_classes": self.kept.classes, "measures": self.measures,
        }  # fmt: skip

    @staticmethod
    def from_state_dict(state: dict[str, Any]) -> LoopState:
        """Return the state that `state_dict` told."""
        return LoopState(
            loop=state["loop"], labels=state["labels"], distances=state["distances"], centres=state["centres"],
            kept=Kept(state["kept_images"], list(state["kept_classes"])), measures=dict(state["measures"]),
        )  # fmt: skip


def start_loop(
    *,
    previous: LoopState | None,
    source_features: Float[Tensor, "Ns D"],
    source_labels: Int64[Tensor, " Ns"],
    target_features: Float[Tensor, "Nt D"],
    num_classes: int,
    threshold: float,
    minimum: int,
    normalise: bool,
) -> LoopState:
    """Cluster the target from the source's centres, and filter.

    Args:
        previous: State of the loop before; None for the first.
        source_features: Of all source images.
        source_labels: Class of each.
        target_features: Of all target images.
        num_classes: Number of classes.
        threshold: D_0 of the filter.
        minimum: N_0 of the filter.
        normalise: Whether centres are sums of directions (the article) or of features (the official code).

    Raises:
        ValueError: As `cluster` and `source_centres`.

    Source: Kang et al. 2019, section 3.4; the official code (commit 39acc51).
    """
    centres = source_centres(source_features, source_labels, num_classes=num_classes, normalise=normalise)
    found: Clustering = cluster(target_features, centres, normalise=normalise)
    kept = keep(found.labels, found.distances, threshold=threshold, minimum=minimum, num_classes=num_classes)
    measures = {"shift": shift(found.centres, centres)}
    if previous is not None:
        measures["drift"] = drift(found.centres, previous.centres.to(found.centres.device))
        measures["label_change"] = label_change(found.labels, previous.labels)
    measures["kept_share"] = float(kept.images.double().mean())
    measures["kept_classes"] = float(len(kept.classes))
    return LoopState(
        loop=0 if previous is None else previous.loop + 1, labels=found.labels.cpu(), distances=found.distances.cpu(),
        centres=found.centres.cpu(), kept=Kept(kept.images.cpu(), kept.classes), measures=measures,
    )  # fmt: skip


def neighbourhood_density(
    probabilities: Float[Tensor, "N C"], *, temperature: float = 0.05, chunk: int = 1000
) -> float:
    r"""Return the soft neighbourhood density of a target, a score that needs no labels; larger is better.

    With :math:`p_i` scaled to length 1 and :math:`q_{ij} = \mathrm{softmax}_{j \ne i}(p_i^\top p_j / T)`, the mean
    over i of the entropy :math:`-\sum_j q_{ij} \ln q_{ij}`.

    Args:
        probabilities: The classifier's, of two target images or more.
        temperature: T.
        chunk: Rows at once.

    Source: Saito et al. 2021, "Tune it the Right Way".
    """
    directions = torch.nn.functional.normalize(probabilities.double(), dim=1)
    total = 0.0
    for start in range(0, len(directions), chunk):
        rows = directions[start : start + chunk]
        similarities = rows @ directions.T / temperature
        own = torch.arange(len(rows), device=rows.device)
        similarities[own, start + own] = -torch.inf
        log_q = torch.log_softmax(similarities, dim=1)
        total += float(-(log_q.exp() * log_q.masked_fill(log_q.isneginf(), 0)).sum())
    return total / len(directions)


def mean_entropy(probabilities: Float[Tensor, "N C"]) -> float:
    r"""Return the mean entropy of the classifier's answers, :math:`-\tfrac1N \sum_{ic} p_{ic} \ln p_{ic}`, in nats.

    Args:
        probabilities: The classifier's.
    """
    return float(torch.special.entr(probabilities.double()).sum(dim=1).mean())
