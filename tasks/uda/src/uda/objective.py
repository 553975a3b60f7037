"""What a step minimises: cross-entropy on the source, and the discrepancy of the pairs by class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from uda.cdd import cdd
from uda.loaders import LoopImages
from uda.network import DomainNetwork


def step_loss(
    network: DomainNetwork,
    batch: LoopImages,
    *,
    method: str,
    num_classes: int,
    cdd_weight: float,
    normaliser: str,
    intra_only: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Return :math:`L_{CE} + \beta\, \mathrm{CDD}` of one step, and its parts.

    Three forward passes, since each is a batch of its own to the norms. With norm_branch the two passes of the pairs
    only move the running statistics of both domains' norms, so they keep no graph.

    Args:
        network: The network in train mode.
        batch: Images of the step.
        method: One of `uda.protocol.METHODS`.
        num_classes: Classes of the data set.
        cdd_weight: β.
        normaliser: As in `cdd`.
        intra_only: As in `cdd`.

    Returns:
        The loss, and by name, detached: cross_entropy, and where the discrepancy was computed cdd, intra and inter.

    Source: Kang et al. 2019; the three passes as in the official code (commit 39acc51).
    """
    num_source, of_source, _ = batch.sizes
    first, by_class_source, by_class_target = batch.images.split(batch.sizes)
    logits = network.answer(first, domain="source").logits
    cross_entropy = F.cross_entropy(logits, batch.labels[:num_source].to(logits.device))
    measures = {"cross_entropy": cross_entropy.detach()}
    if not of_source or method == "source_only":
        return cross_entropy, measures
    with torch.set_grad_enabled(method == "can"):
        source = network.answer(by_class_source, domain="source")
        target = network.answer(by_class_target, domain="target")
    if method == "norm_branch":
        return cross_entropy, measures
    terms = cdd(
        [source.features, source.logits.softmax(1)], [target.features, target.logits.softmax(1)],
        source_labels=batch.labels[num_source : num_source + of_source],
        target_labels=batch.labels[num_source + of_source :], num_classes=num_classes, normaliser=normaliser,
        intra_only=intra_only,
    )  # fmt: skip
    measures |= {"cdd": terms.value.detach(), "intra": terms.intra.detach(), "inter": terms.inter.detach()}
    return cross_entropy + cdd_weight * terms.value, measures
