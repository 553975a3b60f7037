"""The drawing shows what the layers compute, and the stored file is the drawing."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

from norm_layers import NORMS, draw_norms, make_norm
from norm_layers.figure import CHANNELS, PANELS, POSITIONS, SAMPLES, highlighted_elements

STORED = Path(__file__).parents[2] / "packages" / "norm_layers" / "norms.svg"


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: f"{panel.norm}-{panel.num_groups}")
def test_blue_elements_are_those_that_a_change_of_the_corner_moves(panel):
    norm = make_norm(panel.norm, CHANNELS, num_groups=panel.num_groups).double()
    x = torch.randn(SAMPLES, CHANNELS, POSITIONS, dtype=torch.float64)
    changed = x.clone()
    changed[0, CHANNELS - 1, 0] += 1.0
    moved = {tuple(index.tolist()) for index in ((norm(changed) - norm(x)).abs() > 1e-9).nonzero()}
    assert highlighted_elements(panel) == moved


def test_every_norm_is_drawn():
    assert {panel.norm for panel in PANELS} == set(NORMS) - {"none"}


def test_the_drawing_is_well_formed_and_stored():
    drawing = draw_norms()
    root = ElementTree.fromstring(drawing)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for panel in PANELS:
        assert NORMS[panel.norm].label in texts
        assert panel.note in texts
    assert STORED.read_text(encoding="utf-8") == drawing, "write draw_norms() to packages/norm_layers/norms.svg"
