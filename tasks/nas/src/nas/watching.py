"""Numbers that tell how a search goes: how decided it is, how many skips it takes, and what it keeps."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from nas.genotype import Genotype
from nas.space import NONE


def mean_entropy(tables: Float[Tensor, "tables edges ops"]) -> float:
    r"""Return the mean entropy of the edges, in nats: ln 8 = 2.0794 for even preferences of 8 operations, 0 for one.

    .. math:: \frac1E \sum_e -\sum_k p_{e,k} \ln p_{e,k}

    Args:
        tables: Preferences, whose rows sum to 1.
    """
    shares = tables.double()
    return float(-(shares * shares.clamp(min=1e-300).log()).sum(-1).mean())


def none_share(tables: Float[Tensor, "tables edges ops"]) -> float:
    """Return the mean preference of "none", which no genotype takes however large it is.

    Args:
        tables: Preferences, whose rows sum to 1.
    """
    return float(tables[..., NONE].mean())


def num_skips(genotype: Genotype) -> int:
    """Return how many genes are skip connections; a search that collapses takes more and more of them.

    Args:
        genotype: The genotype.
    """
    return sum(gene.operation == "skip_connect" for cell in genotype.cells for gene in cell.genes)


def kept_genes(before: Genotype, after: Genotype) -> float:
    """Return the share of a genotype's genes that the one before it had, too: 1 where nothing changed.

    Args:
        before: The genotype of the epoch before.
        after: The genotype now, of the same form.
    """
    pairs = [
        (set(old), set(new))
        for first, second in zip(before.cells, after.cells)
        for old, new in zip(first.nodes, second.nodes)
    ]
    return sum(len(old & new) for old, new in pairs) / sum(len(new) for _, new in pairs)
