"""A ResNet whose norm layers have one copy a domain, and whose first stage may be left as it is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from norm_layers.convert import replace_layers
from shared.backbones.layout import fast_layout
from uda.domain_norm import PerDomain, use_domain


class Answer(NamedTuple):
    """What the network says of images.

    Attributes:
        features: Pooled features, (N, d).
        logits: Of the classifier, (N, classes).
    """

    features: Tensor
    logits: Tensor


class DomainNetwork(nn.Module):
    """A ResNet with one copy of each norm layer for the source and one for the target; all else is shared.

    Args:
        backbone: A ResNet of torchvision or of `shared.backbones`, with a stem (conv1, bn1), stages (layer1, …) and a
            classifier (fc).
        norms: Its norm layers.
        num_classes: Length of the logits; the classifier is made anew, weights by He's normal law and biases 0.

    Source: Kang et al. 2019, section 3.5, and the official code (commit 39acc51): the classifier is one layer.
    """

    def __init__(self, backbone: nn.Module, norms: set[nn.Module], *, num_classes: int) -> None:
        super().__init__()
        self.backbone = replace_layers(backbone, lambda _, layer: PerDomain(layer) if layer in norms else None)
        head = self.backbone.fc
        assert isinstance(head, nn.Linear)
        self.num_features = head.in_features
        self.head = nn.Linear(head.in_features, num_classes)
        nn.init.kaiming_normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.backbone.fc = nn.Identity()
        self.frozen_stage = 0
        """Stages that are not trained: 0 for none, 1 for stem and layer1. Their norms in train mode still are."""

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N classes"]:
        """Return the logits, through the norms of the domain in use.

        Args:
            images: Normalised images.
        """
        return self.head(self._features(images))

    def answer(self, images: Float[Tensor, "N 3 H W"], *, domain: str) -> Answer:
        """Return features and logits through the norms of a domain.

        Args:
            images: Normalised images, all of one domain: in train mode they are one batch to the norms.
            domain: "source" or "target".
        """
        with use_domain(self, domain):
            features = self._features(images)
        return Answer(features, self.head(features))

    @property
    def stages(self) -> list[nn.Module]:
        """The backbone's stages: layer1 and those after it."""
        return [stage for name, stage in self.backbone.named_children() if name.startswith("layer")]

    def _features(self, images: Tensor) -> Tensor:
        images = fast_layout(images)
        if not self.frozen_stage:
            return self.backbone(images)
        net = self.backbone
        first, *others = self.stages
        with torch.no_grad():  # the same as to stop the gradient after the stage, without keeping its graph
            x = first(net.maxpool(torch.relu(net.bn1(net.conv1(images)))))  # type: ignore[operator]
        for stage in others:
            x = stage(x)
        return x.mean(dim=(2, 3))
