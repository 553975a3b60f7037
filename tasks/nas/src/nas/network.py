"""The evaluation network: the cells of a genotype, with drop path and an auxiliary head while training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nas.genotype import Genotype, reduction_places
from nas.operations import NormLayer, build_operation, factorized_reduce, gene_stride, relu_conv_norm
from nas.space import NUM_CELL_INPUTS, Cell
from nas.supernet import STEM_MULTIPLIER
from shared.backbones.layout import fast_layout

AUXILIARY_SIDE = 8
"""Least height and width of the map that the auxiliary head reads: its pool and its 2x2 convolution need them."""
AUXILIARY_CHANNELS = (128, 768)


def drop_path(x: Float[Tensor, "N C H W"], *, probability: float) -> Float[Tensor, "N C H W"]:
    r"""Drop whole samples of an operation's output: :math:`y_n = x_n m_n / (1 - p)` with :math:`m_n` Bernoulli(1 - p).

    Args:
        x: The output.
        probability: p, in [0, 1).

    Source: Larsson, Maire, Shakhnarovich 2017; as in quark0/darts, commit f276dd3, without writing in place.
    """
    keep = 1 - probability
    mask = torch.empty(len(x), 1, 1, 1, device=x.device, dtype=x.dtype).bernoulli_(keep)
    return x * mask / keep


class EvaluationCell(nn.Module):
    """A cell of a genotype.

    Args:
        cell: Its genes.
        in_channels: Channels of the cell before the last, and of the last.
        channels: Channels of a node.
        is_reduction: Whether the cell halves the map.
        after_reduction: Whether the last cell did.
        norm_layer: Builds the norms.
    """

    def __init__(
        self,
        cell: Cell,
        in_channels: tuple[int, int],
        channels: int,
        *,
        is_reduction: bool,
        after_reduction: bool,
        norm_layer: NormLayer,
    ) -> None:
        super().__init__()
        before, last = in_channels
        bring = factorized_reduce if after_reduction else relu_conv_norm
        self.bring_before = bring(before, channels, norm_layer=norm_layer)
        self.bring_last = relu_conv_norm(last, channels, norm_layer=norm_layer)
        self.nodes = cell.nodes
        self.operations = nn.ModuleList(
            build_operation(
                gene.operation, channels, stride=gene_stride(gene, is_reduction=is_reduction), norm_layer=norm_layer
            )
            for gene in cell.genes
        )

    def forward(
        self, before: Float[Tensor, "N C0 H0 W0"], last: Float[Tensor, "N C1 H1 W1"], *, drop: float
    ) -> Float[Tensor, "N C H W"]:
        """Return the nodes side by side.

        Args:
            before: Output of the cell before the last.
            last: Output of the last cell.
            drop: Probability to drop an operation's output for a sample; identities are never dropped.
        """
        states = [self.bring_before(before), self.bring_last(last)]
        operations = iter(self.operations)
        for genes in self.nodes:
            outputs = []
            for gene in genes:
                operation = next(operations)
                output = operation(states[gene.input])
                if drop > 0 and not isinstance(operation, nn.Identity):
                    output = drop_path(output, probability=drop)
                outputs.append(output)
            states.append(sum(outputs[1:], start=outputs[0]))
        return torch.cat(states[NUM_CELL_INPUTS:], dim=1)


class AuxiliaryHead(nn.Module):
    """Classifier on the output of the second reduction cell, which gives the middle of the network its own gradient.

    Args:
        channels: Channels of the map that it reads.
        resolution: Height and width of that map, each at least 8.
        num_classes: Classes.
        norm_layer: Builds the norms.
    """

    def __init__(self, channels: int, *, resolution: tuple[int, int], num_classes: int, norm_layer: NormLayer) -> None:
        super().__init__()
        middle, wide = AUXILIARY_CHANNELS
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride=3, padding=0, count_include_pad=False),
            nn.Conv2d(channels, middle, 1, bias=False),
            norm_layer(middle),
            nn.ReLU(),
            nn.Conv2d(middle, wide, 2, bias=False),
            norm_layer(wide),
            nn.ReLU(),
        )
        height, width = ((side - 5) // 3 for side in resolution)
        self.classifier = nn.Linear(wide * height * width, num_classes)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N classes"]:
        """Return the logits."""
        return self.classifier(self.features(x).flatten(1))


class EvaluationNetwork(nn.Module):
    """Stem, the cells of a genotype, global average pooling, linear classifier.

    In training it returns the logits and the auxiliary head's (None without one) and drops paths with the
    probability `drop_path_probability`, which a schedule sets; in evaluation the logits alone, nothing dropped.

    Args:
        genotype: The cells.
        channels: C, channels of a node in the first cell; doubled at a third and at two thirds of the cells.
        num_cells: Cells.
        num_classes: Classes.
        resolution: Height and width of the images.
        auxiliary: Whether there is an auxiliary head, where the map is at least 8 pixels high and wide.
        norm_layer: Builds the norms.

    Source: quark0/darts, commit f276dd3: `model.py`, NetworkCIFAR.
    """

    def __init__(
        self,
        genotype: Genotype,
        *,
        channels: int = 36,
        num_cells: int = 20,
        num_classes: int = 10,
        resolution: tuple[int, int] = (32, 32),
        auxiliary: bool = True,
        norm_layer: NormLayer,
    ) -> None:
        super().__init__()
        self.drop_path_probability = 0.0
        stem_channels = STEM_MULTIPLIER * channels
        self.stem = nn.Sequential(nn.Conv2d(3, stem_channels, 3, padding=1, bias=False), norm_layer(stem_channels))
        reductions = reduction_places(num_cells)
        self.auxiliary_place = reductions[-1]
        cells, before, last = [], stem_channels, stem_channels
        auxiliary_map = auxiliary_resolution(resolution, num_cells=num_cells) if auxiliary else None
        head: AuxiliaryHead | None = None
        for index in range(num_cells):
            is_reduction = index in reductions
            channels *= 2 if is_reduction else 1
            cell = genotype.cell_at(index, num_cells=num_cells)
            cells.append(
                EvaluationCell(
                    cell, (before, last), channels, is_reduction=is_reduction,
                    after_reduction=index - 1 in reductions, norm_layer=norm_layer,
                )
            )  # fmt: skip
            before, last = last, len(cell.nodes) * channels
            if auxiliary_map is not None and index == self.auxiliary_place:
                head = AuxiliaryHead(last, resolution=auxiliary_map, num_classes=num_classes, norm_layer=norm_layer)
        self.cells = nn.ModuleList(cells)
        self.auxiliary = head
        self.classifier = nn.Linear(last, num_classes)

    def forward(
        self, images: Float[Tensor, "N 3 H W"]
    ) -> Float[Tensor, "N classes"] | tuple[Float[Tensor, "N classes"], Float[Tensor, "N classes"] | None]:
        """Return the logits; in training also those of the auxiliary head."""
        drop = self.drop_path_probability if self.training else 0.0
        auxiliary = None
        before = last = self.stem(fast_layout(images, depthwise=True))
        for index, cell in enumerate(self.cells):
            before, last = last, cell(before, last, drop=drop)
            if self.training and self.auxiliary is not None and index == self.auxiliary_place:
                auxiliary = self.auxiliary(last)
        logits = self.classifier(last.mean(dim=(2, 3)))
        return (logits, auxiliary) if self.training else logits


def auxiliary_resolution(resolution: tuple[int, int], *, num_cells: int) -> tuple[int, int] | None:
    """Return height and width of the map that the auxiliary head reads, after the last reduction cell.

    Args:
        resolution: Height and width of the images.
        num_cells: Cells of the network.

    Returns:
        The map's; None where it is too small for the head.
    """
    scale = 2 ** len(reduction_places(num_cells))
    found = (resolution[0] // scale, resolution[1] // scale)
    return found if min(found) >= AUXILIARY_SIDE else None


def auxiliary_loss(
    logits: Float[Tensor, "N classes"], auxiliary: Float[Tensor, "N classes"] | None, labels: Tensor, *, weight: float
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy, plus `weight` times that of the auxiliary head where there is one.

    Args:
        logits: Of the network.
        auxiliary: Of the auxiliary head, or None.
        labels: Class numbers.
        weight: Of the auxiliary head's loss.
    """
    loss = F.cross_entropy(logits, labels)
    return loss if auxiliary is None else loss + weight * F.cross_entropy(auxiliary, labels)
