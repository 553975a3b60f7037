"""Imprinted weights: a cosine classifier whose weights for a new class are the mean of its embeddings."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

CHUNK = 100
"""Episodes scored at once: 600 × (5 × 15 queries × 512 numbers) need not be in memory together."""


class CosineClassifier(nn.Module):
    r"""Logits from cosines: :math:`\ell_{nc} = s \, \hat f_n \cdot \hat w_c` with :math:`\hat v = v / \|v\|_2`.

    One learnable scale s; no bias, which would be the same for every class. Cosines are taken in float32 at least,
    under autocast too: bfloat16 has steps of 0.004 near 1.

    Args:
        embedding_size: d.
        num_classes: Number of classes.
        scale: s at the start.

    Source: Qi, Brown, Lowe 2018, equation 3; W from N(0, 2/d) and s = 10 as in Gidaris and Komodakis 2018.
    """

    def __init__(self, embedding_size: int, num_classes: int, *, scale: float = 10.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_classes, embedding_size) * math.sqrt(2 / embedding_size))
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def forward(self, embeddings: Float[Tensor, "N D"]) -> Float[Tensor, "N classes"]:
        """Return the logits.

        Args:
            embeddings: Not normalised.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.scale * F.linear(unit(at_least_float32(embeddings)), unit(at_least_float32(self.weight)))


class ImprintingNetwork(nn.Module):
    """A feature extractor and the cosine classifier of the base classes.

    Args:
        features: Images (N, 3, H, W) to embeddings (N, d).
        classifier: Embeddings to logits over the base classes.
    """

    def __init__(self, features: nn.Module, classifier: CosineClassifier) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N classes"]:
        """Return the logits over the base classes.

        Args:
            images: Normalised images.
        """
        return self.classifier(self.features(images))

    def embed(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
        """Return embeddings of length 1, in eval mode only.

        In train mode the statistics of the batch would tell the network about the other queries.

        Args:
            images: Normalised images.

        Raises:
            RuntimeError: If a part of the feature extractor is in train mode.
        """
        if any(module.training for module in self.features.modules()):
            raise RuntimeError("network must be in eval mode to embed images; got train mode. Call network.eval().")
        return unit(at_least_float32(self.features(images)))


def at_least_float32(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return a half-precision tensor as float32, any other as it is.

    Args:
        tensor: Any floating tensor.
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def unit(vectors: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
    """Return the vectors divided by their Euclidean length (at least 1e-12).

    Args:
        vectors: Any vectors along the last dimension.
    """
    return F.normalize(vectors, dim=-1)


def imprint(embeddings: Float[Tensor, "*classes shots D"]) -> Float[Tensor, "*classes D"]:
    r"""Return the weights of new classes, :math:`w_c = \widehat{\tfrac1k \sum_i z_{ci}}`.

    Args:
        embeddings: Embeddings of the k labelled images of each class, of length 1.

    Source: Qi, Brown, Lowe 2018, section 3.2 (average of normalised embeddings, normalised again).
    """
    return unit(embeddings.mean(dim=-2))


def episode_hits(
    embeddings: Float[Tensor, "N D"],
    episodes: Int64[Tensor, "episodes ways images"],
    *,
    shots: int,
) -> Int64[Tensor, " episodes"]:
    """Count the queries of each episode that are nearest to their own class.

    Args:
        embeddings: Of all images of a split, of length 1.
        episodes: Image numbers; the first `shots` of each class are labelled, the others are queries.
        shots: Labelled images a class.

    Returns:
        Hits per episode, of ``ways * (images - shots)`` queries; where two classes are equally near, the first counts.
    """
    hits = []
    for chunk in episodes.to(embeddings.device).split(CHUNK):
        prototypes = imprint(embeddings[chunk[:, :, :shots]])
        scores = torch.einsum("eqd,ewd->eqw", embeddings[chunk[:, :, shots:].flatten(1)], prototypes)
        truth = torch.arange(chunk.shape[1], device=scores.device).repeat_interleave(chunk.shape[2] - shots)
        hits.append((scores.argmax(dim=2) == truth).sum(dim=1))
    return torch.cat(hits)


def joint_hits(
    novel: Float[Tensor, "N D"],
    episodes: Int64[Tensor, "episodes ways images"],
    base: Float[Tensor, "M D"],
    base_queries: Int64[Tensor, "episodes queries"],
    base_labels: Int64[Tensor, " M"],
    base_weights: Float[Tensor, "classes D"],
    *,
    shots: int,
) -> tuple[Int64[Tensor, " episodes"], Int64[Tensor, " episodes"]]:
    """Count the hits when every query may be of a base class or of a new one.

    Args:
        novel: Embeddings of the novel split, of length 1.
        episodes: Image numbers in it; the first `shots` of each class are labelled, the others are queries.
        base: Embeddings of images of the base classes that were not trained on, of length 1.
        base_queries: Image numbers in it, for each episode.
        base_labels: Base class of each image in it.
        base_weights: Trained weights of the base classes.
        shots: Labelled images a class.

    Returns:
        Hits per episode among the queries of the novel classes, and among those of the base classes.

    Source: Gidaris and Komodakis 2018, section 4.1 ("both" accuracy).
    """
    weights = unit(base_weights)
    novel_hits: list[Tensor] = []
    base_hits: list[Tensor] = []
    for chunk, queries in zip(episodes.to(novel.device).split(CHUNK), base_queries.to(novel.device).split(CHUNK)):
        prototypes = imprint(novel[chunk[:, :, :shots]])
        truth = torch.arange(chunk.shape[1], device=novel.device).repeat_interleave(chunk.shape[2] - shots)
        for embeddings, expected, hits in (
            (novel[chunk[:, :, shots:].flatten(1)], truth + len(weights), novel_hits),
            (base[queries], base_labels.to(novel.device)[queries], base_hits),
        ):
            old = torch.einsum("eqd,cd->eqc", embeddings, weights)
            new = torch.einsum("eqd,ewd->eqw", embeddings, prototypes)
            hits.append((torch.cat([old, new], dim=2).argmax(dim=2) == expected).sum(dim=1))
    return torch.cat(novel_hits), torch.cat(base_hits)
