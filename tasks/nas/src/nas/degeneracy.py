"""Whether a network can learn at all: do its logits depend on the image, and does the loss depend on the alphas?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.supernet import SearchNetwork
from norm_layers import frozen_statistics
from shared.callbacks import Degenerate

if TYPE_CHECKING:
    from nas.module import NasModule

SMALLEST_SPREAD = 1e-5
"""Standard deviation of the logits over images below which they are constant: with IN it is about 1e-8, with the norms
that learn at least 0.01 (both at the start, in float32)."""


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What a network's outputs depend on, at the start.

    Args:
        spread: Standard deviation of the logits over images, the largest of the classes.
        alpha_gradient: Norm of the gradient of the alphas at even weights; None for a network without.
    """

    spread: float
    alpha_gradient: float | None = None

    def __str__(self) -> str:
        gradient = "" if self.alpha_gradient is None else f", gradient of the alphas {self.alpha_gradient:.1e}"
        return f"the logits do not depend on the image (spread {self.spread:.1e}{gradient})"


def sensitivity(network: nn.Module, images: Tensor, labels: Tensor) -> Sensitivity:
    """Measure what a network's outputs depend on; running statistics and gradients stay what they are.

    Args:
        network: A search network, whose operations are weighed evenly, or an evaluation network.
        images: At least two images.
        labels: Their classes.
    """
    with frozen_statistics(network, mode="train"), torch.autocast(images.device.type, enabled=False):
        if isinstance(network, SearchNetwork):
            alphas = torch.zeros_like(network.uniform()).requires_grad_()
            logits = network(images, mixing=alphas.softmax(-1))
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels), alphas)
            return Sensitivity(spread=_spread(logits), alpha_gradient=float(gradient.norm()))
        with torch.no_grad():
            found = network(images)
        return Sensitivity(spread=_spread(found[0] if isinstance(found, tuple) else found))


def _spread(logits: Tensor) -> float:
    return float(logits.detach().double().std(dim=0).max())


def examine(module: NasModule, batch: Any) -> None:
    """End a run that cannot learn, unless it is to go on.

    Norm, then global average pooling: with Instance Normalization the mean over a map is a constant of the channel,
    and every path to the classifier of a search network ends that way.

    Args:
        module: The module, at its first batch of a phase.
        batch: The batch.

    Raises:
        Degenerate: If its logits are the same for all images on every process.
    """
    network = module.network
    found = sensitivity(network, batch.images, batch.labels)
    spread = float(module.stepping.summed([torch.tensor(found.spread, device=module.device)])[0])
    if spread > SMALLEST_SPREAD or len(batch.labels) < 2:
        return
    phase = "search" if isinstance(network, SearchNetwork) else "retraining"
    module.degenerate = f"in {phase}, {found}"
    if not module.allow_degenerate:
        raise Degenerate(
            f"{module.degenerate}. {module.norm} followed by global average pooling leaves nothing of it; "
            "args=--model.allow_degenerate=true goes on."
        )
