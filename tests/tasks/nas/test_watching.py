"""What is told of a search, and its pictures."""

import math
import xml.etree.ElementTree as ET

import pytest
import torch
from PIL import Image

from nas.drawing import draw_cell, draw_heatmap, draw_history, save_drawing, to_image, to_svg
from nas.genotype import PRIMITIVES, PUBLISHED, path_genotype
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


def test_a_history_shows_each_edge_over_the_epochs():
    """Of an edge that turns from even preferences to one operation, its strip ends blue and the others white."""
    alphas = torch.zeros(30, 5, 8)
    alphas[:, 4, 3] = torch.linspace(0, 20, 30)
    image = to_image(draw_history(alphas.softmax(-1), title="over the search"))
    edge = {"left": 120 + 206 * 2, "top": 40 + 34 + 162, "width": 190, "strip": 16}

    def colour(operation, share):
        return image.getpixel((int(edge["left"] + edge["width"] * share), edge["top"] + edge["strip"] * operation + 8))

    assert colour(3, 0.99) == (33, 102, 172)
    assert all(colour(k, 0.99) == (255, 255, 255) for k in range(8) if k != 3)
    assert len({colour(k, 0.01) for k in range(8)}) == 1
    texts = [element.text for element in ET.fromstring(to_svg(draw_history(alphas.softmax(-1), title="t"))).iter()]
    assert {"cell k-2 to node 0", "node 0 to node 1", *PRIMITIVES} <= set(texts)
    assert "left to right: epoch 1 to 30; white: preference 0, blue: 1.000" in texts
    assert to_svg(draw_history(alphas.softmax(-1).repeat(20, 1, 1), title="long")).count("<rect") < 100 * 5 * 8


def test_pictures_are_the_same_each_time_and_nothing_overlaps():
    path = torch.arange(28).remainder(8).reshape(2, 14)
    for genotype in (*PUBLISHED.values(), path_genotype(path, name="path")):
        for cell in genotype.cells:
            drawing = draw_cell(cell, title="cell")
            assert to_svg(drawing) == to_svg(draw_cell(cell, title="cell"))
            assert to_image(drawing).tobytes() == to_image(draw_cell(cell, title="cell")).tobytes()
            boxes = [shape.points for shape in drawing.shapes if shape.kind == "box"]
            assert len(boxes) == len(cell.genes) + 4 + 2 + 1
            for i, ((left, top), (right, bottom)) in enumerate(boxes):
                assert 0 <= left < right <= drawing.width
                assert 0 <= top < bottom <= drawing.height
                for (x, y), (x_end, y_end) in boxes[:i]:
                    assert right < x or x_end < left or bottom < y or y_end < top
