"""The maths of MANAS-LS: how much each operation of each agent adds to the loss, and sampling by rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

SMALLEST_PIVOT = 1e-8
"""Share of the largest squared pivot below which a Cholesky factor is taken for one of a singular matrix."""


@dataclass(frozen=True, eq=False)
class Effects:
    """A fit of the losses by the sampled operations.

    Args:
        effects: What each operation adds to the loss, the solution of least norm, float64 (agents, ops). Only
            differences between operations of one agent have a meaning.
        rank: Rank of the design.
        full_rank: The rank at which all those differences are determined.
    """

    effects: Tensor
    rank: int
    full_rank: int


def num_determined(num_agents: int, num_operations: int) -> int:
    """Return N (K - 1) + 1: the largest rank of the design, and so the fewest samples that can determine all effects.

    Each agent's one-hot columns sum to 1, so of K N columns N - 1 follow from the others.
    """
    return num_agents * (num_operations - 1) + 1


def fit_effects(
    paths: Int64[Tensor, "samples agents"], losses: Float[Tensor, " samples"], *, num_operations: int
) -> Effects:
    r"""Fit the losses by a sum of one effect for each agent.

    .. math:: \min_\beta \sum_s \Big(L_s - \sum_i \beta_{i, a_s^i}\Big)^2, \qquad \beta = (Z^\top Z)^+ Z^\top L

    with :math:`Z \in \{0, 1\}^{S \times NK}` the one-hot paths. The Gram matrix holds whole numbers, so it is exact.
    The solution of least norm is taken: by a Cholesky factor where the samples determine all effects, otherwise by
    eigenvalues, which tell the rank and take four times as long (280 agents: 3 s on a CPU core).

    Args:
        paths: Operation of each agent, one row a sample.
        losses: The loss of each.
        num_operations: K.

    Source: Carlucci et al. 2019, MANAS-LS.
    """
    num_samples, num_agents = paths.shape
    # float32 counts samples exactly, and a matrix product in it takes half the time
    design = F.one_hot(paths, num_operations).reshape(num_samples, -1).float()
    gram, moments = (design.T @ design).double(), design.double().T @ losses.double()
    full_rank = num_determined(num_agents, num_operations)
    # full rank but for the directions that change no sum: filled up, those leave the solution of least norm as it is
    block = torch.full((num_operations, num_operations), 1 / num_operations, dtype=torch.float64)
    free = torch.block_diag(*[block] * num_agents) - 1 / len(gram)
    factor, failed = torch.linalg.cholesky_ex(gram + num_samples / num_operations * free)
    pivots = factor.diagonal().square()
    if not failed and pivots.min() > SMALLEST_PIVOT * pivots.max():
        effects, rank = torch.cholesky_solve(moments[:, None], factor)[:, 0], full_rank
    else:
        eigenvalues, vectors = torch.linalg.eigh(gram)
        kept = eigenvalues > eigenvalues[-1] * len(eigenvalues) * torch.finfo(torch.float64).eps
        vectors, eigenvalues = vectors[:, kept], eigenvalues[kept]
        effects, rank = vectors @ ((vectors.T @ moments) / eigenvalues), int(kept.sum())
    return Effects(effects=effects.reshape(num_agents, num_operations), rank=rank, full_rank=full_rank)


def zipf_probabilities(effects: Float[Tensor, "*agents ops"]) -> Float64[Tensor, "*agents ops"]:
    r"""Return probabilities by rank, the operation of least loss first.

    .. math:: \pi_k = \frac{1}{r_k H_K}, \qquad H_K = \sum_{r=1}^K \frac1r

    For K = 8: .368 .184 .123 .092 .074 .061 .053 .046. Ties go to the lower index.

    Args:
        effects: What each operation adds to the loss.

    Source: Carlucci et al. 2019, MANAS-LS, Zipf's law.
    """
    ranks = effects.argsort(dim=-1, stable=True).argsort(dim=-1) + 1
    reciprocals = ranks.double().reciprocal()
    return reciprocals / torch.arange(1, effects.shape[-1] + 1).double().reciprocal().sum()
