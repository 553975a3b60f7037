"""What is told of a search, and its pictures."""

import math
import xml.etree.ElementTree as ET

import pytest
import torch
from PIL import Image

from nas.drawing import draw_cell, draw_heatmap, save_drawing
from nas.genotype import PUBLISHED
from nas.watching import kept_genes, mean_entropy, num_skips


def test_entropy_by_hand():
    assert mean_entropy(torch.full((2, 14, 8), 1 / 8)) == pytest.approx(math.log(8))
    one_hot = torch.eye(8)[:5][None]
    assert mean_entropy(one_hot) == pytest.approx(0, abs=1e-12)
    halves = torch.tensor([[[0.5, 0.5, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]]])
    assert mean_entropy(halves) == pytest.approx(math.log(2) / 2)


def test_skips_and_kept_genes_of_the_published_genotypes():
    first, second = PUBLISHED["DARTS_V1"], PUBLISHED["DARTS_V2"]
    assert num_skips(first) == 3 + 3
    assert num_skips(second) == 2 + 3
    assert kept_genes(first, first) == 1
    expected = 0  # by hand, node by node
    for old, new in zip(first.cells, second.cells):
        for before, after in zip(old.nodes, new.nodes):
            expected += sum(gene in before for gene in after)
    assert kept_genes(first, second) == pytest.approx(expected / 16)


def test_pictures_hold_what_they_show_in_both_formats(tmp_path):
    cell = PUBLISHED["DARTS_V2"].cells[0]
    save_drawing(draw_cell(cell, title="normal <DARTS_V2>"), tmp_path / "cell")
    texts = [element.text for element in ET.parse(tmp_path / "cell.svg").iter() if element.tag.endswith("text")]
    for gene in cell.genes:
        assert texts.count(gene.operation) == sum(other.operation == gene.operation for other in cell.genes)
    assert {"node 0", "node 3", "concat", "normal <DARTS_V2>"} <= set(texts)
    table = torch.rand(14, 8).softmax(-1)
    save_drawing(draw_heatmap(table, title="preferences"), tmp_path / "heat")
    texts = [element.text for element in ET.parse(tmp_path / "heat.svg").iter() if element.tag.endswith("text")]
    assert all(f"{value:.3f}" in texts for value in table.flatten().tolist())
    for name in ("cell", "heat"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert len(image.convert("RGB").getcolors(100_000)) > 3
