"""The DARTS space of one cell: its operations, its genes, and how weights, a path or chance give a cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shared.errors import UserError, choose

PRIMITIVES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The operations of an edge, in the order of the columns of alpha (quark0/darts, commit f276dd3)."""

NONE = PRIMITIVES.index("none")
NUM_CELL_INPUTS = 2
GENES_PER_NODE = 2


@dataclass(frozen=True)
class Gene:
    """An operation on an edge into a node.

    Args:
        operation: One of `PRIMITIVES`.
        input: The state that it reads: 0 and 1 are the outputs of the cell before the last and of the last one,
            2 + i is node i of the same cell.

    Raises:
        UserError: If the operation is unknown or the input is no state.
    """

    operation: str
    input: int

    def __post_init__(self) -> None:
        choose("operation", self.operation, PRIMITIVES)
        if isinstance(self.input, bool) or not isinstance(self.input, int) or self.input < 0:
            raise UserError(f"input must be the number of an earlier state, 0 or more; got {self.input!r}.")


@dataclass(frozen=True)
class Cell:
    """The genes of each node; the cell's output is the concatenation of all nodes.

    A cell of the discrete space has two genes a node, none of them "none". A cell that is one path of the supernet
    has a gene on every edge, and may have "none".

    Args:
        nodes: The genes of node 0, 1, ….

    Raises:
        UserError: If a node has no gene, reads a state that is not earlier or the same one twice, if nodes have
            neither two genes each nor one on every edge, or "none" stands in a cell of two genes a node.
    """

    nodes: tuple[tuple[Gene, ...], ...]

    def __post_init__(self) -> None:
        if not self.nodes:
            raise UserError("a cell must have at least one node; got none.")
        for i, genes in enumerate(self.nodes):
            inputs = [gene.input for gene in genes]
            for state in inputs:
                if state >= NUM_CELL_INPUTS + i:
                    raise UserError(
                        f"the input of a gene of node {i} must be an earlier state, 0 to {NUM_CELL_INPUTS + i - 1}; "
                        f"got {state}."
                    )
            if len(set(inputs)) < len(inputs):
                raise UserError(f"the inputs of node {i} must differ; got {', '.join(map(str, inputs))}.")
        if not self.is_path:
            self._check_pairs()

    def _check_pairs(self) -> None:
        for i, genes in enumerate(self.nodes):
            if len(genes) != GENES_PER_NODE:
                raise UserError(
                    f"node {i} must have {GENES_PER_NODE} genes (or every node one on each of its edges); "
                    f"got {len(genes)}."
                )
            if any(gene.operation == PRIMITIVES[NONE] for gene in genes):
                raise UserError(f"the operations of node {i} must not be 'none': leave it to a cell with every edge.")

    @property
    def is_path(self) -> bool:
        """Whether every edge has its gene, as on one path of the supernet."""
        return all(len(genes) == NUM_CELL_INPUTS + i for i, genes in enumerate(self.nodes))

    @property
    def genes(self) -> list[Gene]:
        """All genes, node by node."""
        return [gene for genes in self.nodes for gene in genes]


def num_edges(num_nodes: int) -> int:
    """Return the edges of a cell, from every earlier state to every node: 14 for 4 nodes."""
    return sum(NUM_CELL_INPUTS + i for i in range(num_nodes))


def node_edges(num_nodes: int) -> list[range]:
    """Return, for each node, the rows of its edges in a table of a cell's edges, by the state that each reads."""
    return [range(num_edges(i), num_edges(i + 1)) for i in range(num_nodes)]


def derive_cell(weights: Float[Tensor, "edges ops"], *, num_nodes: int = 4) -> Cell:
    r"""Return the cell of a search's weights: for each node the two strongest edges, each with its best operation.

    .. math:: s_e = \max_{k \neq \text{none}} w_{e,k}, \qquad o_e = \arg\max_{k \neq \text{none}} w_{e,k}

    Ties go to the lower index. The stronger edge comes first.

    Args:
        weights: Softmax of alpha over all operations, "none" among them, or the agents' probabilities. Raw alphas
            may give another cell, since softmax has another divisor on each edge.
        num_nodes: Nodes of the cell.

    Raises:
        ValueError: If the weights are not finite or of another size.

    Source: Liu et al. 2019, Section 2.4; `genotype()` of quark0/darts, commit f276dd3.
    """
    if weights.shape != (num_edges(num_nodes), len(PRIMITIVES)):
        expected = (num_edges(num_nodes), len(PRIMITIVES))
        raise ValueError(f"weights must be of shape {expected} for {num_nodes} nodes; got {tuple(weights.shape)}.")
    if not weights.isfinite().all():
        raise ValueError("weights must be finite; got one that is not. The search has diverged.")
    rows = weights.detach().double().tolist()
    nodes = []
    for edges in node_edges(num_nodes):
        genes = []
        for state, edge in enumerate(edges):
            best = max((k for k in range(len(PRIMITIVES)) if k != NONE), key=rows[edge].__getitem__)
            genes.append((-rows[edge][best], state, PRIMITIVES[best]))
        nodes.append(tuple(Gene(operation, state) for _, state, operation in sorted(genes)[:GENES_PER_NODE]))
    return Cell(tuple(nodes))


def path_cell(operations: Int64[Tensor, " edges"], *, num_nodes: int = 4) -> Cell:
    """Return the cell that is one path of the supernet, with an operation on every edge, "none" among them.

    Args:
        operations: Column of `PRIMITIVES` on each edge.
        num_nodes: Nodes of the cell.

    Raises:
        ValueError: If there is not one operation for each edge.

    Source: Carlucci et al. 2019: the architecture is a sample of the agents.
    """
    if len(operations) != num_edges(num_nodes):
        raise ValueError(
            f"operations must be {num_edges(num_nodes)}, one on each edge of {num_nodes} nodes; got {len(operations)}."
        )
    names = [PRIMITIVES[column] for column in operations.tolist()]
    return Cell(
        tuple(tuple(Gene(names[edge], state) for state, edge in enumerate(edges)) for edges in node_edges(num_nodes))
    )


def sample_cell(num_nodes: int = 4, *, generator: torch.Generator) -> Cell:
    """Draw a cell: for each node two earlier states, and for each an operation other than "none", uniformly.

    Args:
        num_nodes: Nodes of the cell.
        generator: Source of the draws.
    """

    def draw(choices: Sequence[int]) -> int:
        return int(torch.randint(len(choices), (), generator=generator))

    operations = [operation for k, operation in enumerate(PRIMITIVES) if k != NONE]
    nodes = []
    for i in range(num_nodes):
        pairs = list(combinations(range(NUM_CELL_INPUTS + i), GENES_PER_NODE))
        pair = pairs[draw(range(len(pairs)))]
        nodes.append(tuple(Gene(operations[draw(range(len(operations)))], j) for j in pair))
    return Cell(tuple(nodes))
