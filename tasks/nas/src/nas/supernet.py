"""The search network: every operation on every edge, mixed by weights (DARTS) or one of them at a time (MANAS)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nas.genotype import Genotype, reduction_places
from nas.operations import (
    NormLayer,
    Rectified,
    build_operation,
    depends_on_input_alone,
    factorized_reduce,
    relu_conv_norm,
)
from nas.space import NONE, NUM_CELL_INPUTS, PRIMITIVES, num_edges
from shared.backbones.layout import fast_layout

STEM_MULTIPLIER = 3
POOLS = tuple(column for column, name in enumerate(PRIMITIVES) if name.endswith("pool_3x3"))


class Edge(nn.Module):
    """All operations between two states of a cell.

    Args:
        channels: Channels of both states.
        stride: 2 on an edge that halves the map, else 1.
        norm_layer: Builds the norms.
    """

    def __init__(self, channels: int, *, stride: int, norm_layer: NormLayer) -> None:
        super().__init__()
        self.operations = nn.ModuleList(
            build_operation(name, channels, stride=stride, norm_layer=norm_layer, norm_after_pool=True)
            for name in PRIMITIVES
        )

    def one(self, column: int, state: Tensor, rectified: Tensor) -> Tensor | None:
        """Return the output of one operation; None for "none", whose zeros nobody needs to add.

        Args:
            column: Its place in `PRIMITIVES`.
            state: What the edge reads.
            rectified: ReLU of it.
        """
        if column == NONE:
            return None
        operation = self.operations[column]
        return operation.body(rectified) if isinstance(operation, Rectified) else operation(state)

    def mixed(
        self, weights: tuple[Tensor, ...], state: Tensor, rectified: Tensor, *, pools: dict[int, Tensor]
    ) -> Tensor:
        """Return the weighted sum over the operations; "none" takes its share of the weights and adds nothing.

        Args:
            weights: One scalar for each operation.
            state: What the edge reads.
            rectified: ReLU of it.
            pools: Outputs by column that another edge from this state has computed already; this one adds its own.
        """
        total: Tensor | None = None
        for column, weight in enumerate(weights):
            output = pools.get(column)
            if output is None:
                output = self.one(column, state, rectified)
                if column in POOLS and output is not None and depends_on_input_alone(self.operations[column]):
                    pools[column] = output
            if output is not None:
                if weight.dtype != output.dtype:  # under autocast
                    weight = weight.to(output.dtype)
                total = output * weight if total is None else torch.addcmul(total, output, weight)
        assert total is not None
        return total


class SearchCell(nn.Module):
    """A cell with an edge from every earlier state to every node; its output is the nodes side by side.

    Args:
        in_channels: Channels of the cell before the last, and of the last.
        channels: Channels of a node.
        num_nodes: Nodes.
        is_reduction: Whether the cell halves the map.
        after_reduction: Whether the last cell did, so that the input before it is twice as large.
        norm_layer: Builds the norms.
    """

    def __init__(
        self,
        in_channels: tuple[int, int],
        channels: int,
        *,
        num_nodes: int,
        is_reduction: bool,
        after_reduction: bool,
        norm_layer: NormLayer,
    ) -> None:
        super().__init__()
        before, last = in_channels
        bring = factorized_reduce if after_reduction else relu_conv_norm
        self.bring_before = bring(before, channels, norm_layer=norm_layer)
        self.bring_last = relu_conv_norm(last, channels, norm_layer=norm_layer)
        self.num_nodes, self.is_reduction = num_nodes, is_reduction
        self.edges = nn.ModuleList(
            Edge(channels, stride=2 if is_reduction and j < NUM_CELL_INPUTS else 1, norm_layer=norm_layer)
            for i in range(num_nodes)
            for j in range(NUM_CELL_INPUTS + i)
        )

    def forward(
        self,
        before: Float[Tensor, "N C0 H0 W0"],
        last: Float[Tensor, "N C1 H1 W1"],
        *,
        mixing: Float[Tensor, "edges ops"] | None = None,
        path: list[int] | None = None,
    ) -> Float[Tensor, "N C H W"]:
        """Return the cell's output.

        Args:
            before: Output of the cell before the last.
            last: Output of the last cell.
            mixing: Weights of the operations on each edge.
            path: Column of the only operation on each edge, in place of `mixing`.
        """
        states = [self.bring_before(before), self.bring_last(last)]
        rectified = [F.relu(state) for state in states]
        weights = [] if mixing is None else [row.unbind() for row in mixing.unbind()]
        pools: list[dict[int, Tensor]] = [{} for _ in range(NUM_CELL_INPUTS + self.num_nodes)]  # all edges of a state
        first = 0
        for _ in range(self.num_nodes):
            outputs = []
            for j, (state, positive) in enumerate(zip(states, rectified)):
                edge = self.edges[first + j]
                assert isinstance(edge, Edge)
                output = (
                    edge.mixed(weights[first + j], state, positive, pools=pools[j])
                    if path is None
                    else edge.one(path[first + j], state, positive)
                )
                if output is not None:
                    outputs.append(output)
            first += len(states)
            states.append(sum(outputs[1:], start=outputs[0]) if outputs else self._zeros(states[0]))
            rectified.append(F.relu(states[-1]))
        return torch.cat(states[NUM_CELL_INPUTS:], dim=1)

    def _zeros(self, state: Tensor) -> Tensor:
        stride = 2 if self.is_reduction else 1
        return torch.zeros_like(state[:, :, ::stride, ::stride])


class SearchNetwork(nn.Module):
    """Stem, cells, global average pooling, linear classifier; the weights of the operations come with the images.

    Norms in cells have no affine parameters, the stem's has. Alphas are no part of the network.

    Args:
        channels: C, channels of a node in the first cell; doubled at a third and at two thirds of the cells.
        num_cells: Cells.
        num_nodes: Nodes of a cell.
        num_classes: Classes.
        norm_layer: Builds the norms in cells, without affine parameters.
        stem_norm: Builds the norm of the stem, with them.

    Source: quark0/darts, commit f276dd3: `model_search.py`.
    """

    def __init__(
        self,
        *,
        channels: int = 16,
        num_cells: int = 8,
        num_nodes: int = 4,
        num_classes: int = 10,
        norm_layer: NormLayer,
        stem_norm: NormLayer,
    ) -> None:
        super().__init__()
        self.num_cells, self.num_nodes = num_cells, num_nodes
        stem_channels = STEM_MULTIPLIER * channels
        self.stem = nn.Sequential(nn.Conv2d(3, stem_channels, 3, padding=1, bias=False), stem_norm(stem_channels))
        self.reductions = reduction_places(num_cells)
        cells, before, last = [], stem_channels, stem_channels
        for index in range(num_cells):
            channels *= 2 if index in self.reductions else 1
            cells.append(
                SearchCell(
                    (before, last), channels, num_nodes=num_nodes, is_reduction=index in self.reductions,
                    after_reduction=index - 1 in self.reductions, norm_layer=norm_layer,
                )
            )  # fmt: skip
            before, last = last, num_nodes * channels
        self.cells = nn.ModuleList(cells)
        self.classifier = nn.Linear(last, num_classes)

    def kind(self, index: int) -> int:
        """Return 1 for the place of a reduction cell, else 0."""
        return int(index in self.reductions)

    def uniform(self) -> Float[Tensor, "2 edges ops"]:
        """Return equal weights for all operations, of normal and reduction cells."""
        shape = (2, num_edges(self.num_nodes), len(PRIMITIVES))
        return self.classifier.weight.new_full(shape, 1 / len(PRIMITIVES))

    def forward(
        self,
        images: Float[Tensor, "N 3 H W"],
        mixing: Float[Tensor, "2 edges ops"] | None = None,
        paths: Int64[Tensor, "tables edges"] | None = None,
    ) -> Float[Tensor, "N classes"]:
        """Return the logits.

        Args:
            images: Normalised images whose sides can be halved twice.
            mixing: Weights of the operations on each edge of normal and of reduction cells; None without `paths` for
                equal ones.
            paths: Column in `PRIMITIVES` of the only operation on each edge, of normal and reduction cells or of each
                place, in place of `mixing`.
        """
        if paths is None and mixing is None:
            mixing = self.uniform()
        chosen = None if paths is None else paths.tolist()
        before = last = self.stem(fast_layout(images, depthwise=True))
        for index, cell in enumerate(self.cells):
            if chosen is None:
                assert mixing is not None
                output = cell(before, last, mixing=mixing[self.kind(index)])
            else:  # not as it was compiled, for that would be done anew for every path
                path = chosen[index if len(chosen) == self.num_cells else self.kind(index)]
                output = cell.forward(before, last, path=path)
            before, last = last, output
        return self.classifier(last.mean(dim=(2, 3)))


def genotype_path(genotype: Genotype, *, num_cells: int) -> Int64[Tensor, "places edges"]:
    """Return the path of the search network that is a genotype: its operations, and "none" on all other edges.

    Args:
        genotype: The genotype.
        num_cells: Cells of the search network.
    """
    rows = []
    for index in range(num_cells):
        row = []
        for i, genes in enumerate(genotype.cell_at(index, num_cells=num_cells).nodes):
            node = [NONE] * (NUM_CELL_INPUTS + i)
            for gene in genes:
                node[gene.input] = PRIMITIVES.index(gene.operation)
            row += node
        rows.append(row)
    return torch.tensor(rows)
