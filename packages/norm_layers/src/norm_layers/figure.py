"""A drawing of which elements of a feature map share one mean and variance, for every norm."""

from collections.abc import Hashable, Iterator
from typing import NamedTuple

from norm_layers.registry import NORMS

SAMPLES, CHANNELS, POSITIONS = 4, 6, 6  # the cube that is drawn: N, C and H·W

_CELL, _DEPTH_X, _DEPTH_Y = 18.0, 9.0, 7.0
_PANEL_WIDTH, _PANEL_HEIGHT, _COLUMNS = 218.0, 238.0, 4
_BLUE, _BLUE_TOP, _BLUE_SIDE = "#0072b2", "#3f97cc", "#005a8e"
_PALE, _PALE_TOP, _PALE_SIDE = "#f4f6f8", "#ffffff", "#e3e8ed"
_LINE, _INK, _GREY = "#8b98a5", "#1c2733", "#56636f"


class Panel(NamedTuple):
    """One cube of the drawing.

    Args:
        norm: Key of `NORMS`.
        num_groups: G, for a norm with groups. None: no groups.
        note: Second line below the name.
    """

    norm: str
    num_groups: int | None
    note: str


PANELS = (
    Panel("bn", None, "one mean per channel"),
    Panel("in", None, "per sample and channel"),
    Panel("ln", None, "per sample"),
    Panel("gn", 3, "per sample and group; G = 3"),
    Panel("pn", None, "per sample and position"),
    Panel("gbgn", 3, "per group of channels; G = 3"),
    Panel("bgn", 4, "per group of (C, H, W); G = 4"),
    Panel("bgn", 12, "per group of (C, H, W); G = 12"),
)


def draw_norms() -> str:
    """Draw, for each norm, an N × C × (H·W) cube with the elements of one statistic in blue.

    The group numbers are chosen for a cube of 6 channels. BGN has two panels: groups of one and a half channels,
    and of half a channel.

    Returns:
        An SVG document.

    Source:
        BGN paper, Figure 1 (top), after Wu and He 2018.
    """
    rows = -(-len(PANELS) // _COLUMNS)
    width, height = _COLUMNS * _PANEL_WIDTH + 12, rows * _PANEL_HEIGHT + 6
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" font-family="Helvetica, Arial, sans-serif">',
        "<title>Elements that share one mean and variance, in blue, for each norm layer</title>",
        f'<rect width="{width:g}" height="{height:g}" rx="8" fill="#ffffff"/>',
    ]
    for index, panel in enumerate(PANELS):
        x, y = (index % _COLUMNS) * _PANEL_WIDTH, (index // _COLUMNS) * _PANEL_HEIGHT
        lines.append(f'<g transform="translate({x:g} {y:g})">')
        lines.extend(_draw_panel(panel))
        lines.append("</g>")
    return "\n".join([*lines, "</svg>", ""])


def highlighted_elements(panel: Panel) -> set[tuple[int, int, int]]:
    """Give the elements that share the statistic of the cube's near, upper, right corner.

    Args:
        panel: Norm and group number.

    Returns:
        Indices (n, c, p), with p the position in H·W.
    """
    corner = _statistic_of(panel, 0, CHANNELS - 1, 0)
    return {
        (n, c, p)
        for n in range(SAMPLES)
        for c in range(CHANNELS)
        for p in range(POSITIONS)
        if _statistic_of(panel, n, c, p) == corner
    }


def _statistic_of(panel: Panel, n: int, c: int, p: int) -> Hashable:
    """Name the statistic that an element belongs to."""
    num_groups = panel.num_groups or 1
    channel_group = c * num_groups // CHANNELS
    merged_group = (c * POSITIONS + p) * num_groups // (CHANNELS * POSITIONS)
    keys: dict[str, Hashable] = {
        "bn": c,
        "in": (n, c),
        "ln": n,
        "gn": (n, channel_group),
        "pn": (n, p),
        "gbgn": channel_group,
        "bgn": merged_group,
    }
    return keys[panel.norm]


def _draw_panel(panel: Panel) -> Iterator[str]:
    """Draw one cube with its axes and its caption, around the panel's own origin."""
    blue = highlighted_elements(panel)
    left = (_PANEL_WIDTH - CHANNELS * _CELL - SAMPLES * _DEPTH_X) / 2 + 8
    top = 24 + SAMPLES * _DEPTH_Y
    right, bottom = left + CHANNELS * _CELL, top + POSITIONS * _CELL

    faces: dict[str, list[str]] = {}
    for c in range(CHANNELS):
        for p in range(POSITIONS):
            front = _cell((left + c * _CELL, top + p * _CELL), (_CELL, 0.0), (0.0, _CELL))
            faces.setdefault(_BLUE if (0, c, p) in blue else _PALE, []).append(front)
    for n in range(SAMPLES):
        for c in range(CHANNELS):
            upper = _cell((left + c * _CELL + n * _DEPTH_X, top - n * _DEPTH_Y), (_CELL, 0.0), (_DEPTH_X, -_DEPTH_Y))
            faces.setdefault(_BLUE_TOP if (n, c, 0) in blue else _PALE_TOP, []).append(upper)
        for p in range(POSITIONS):
            side = _cell((right + n * _DEPTH_X, top + p * _CELL - n * _DEPTH_Y), (0.0, _CELL), (_DEPTH_X, -_DEPTH_Y))
            faces.setdefault(_BLUE_SIDE if (n, CHANNELS - 1, p) in blue else _PALE_SIDE, []).append(side)
    for fill, cells in faces.items():
        yield f'<path fill="{fill}" stroke="{_LINE}" stroke-width="0.8" stroke-linejoin="round" d="{"".join(cells)}"/>'

    middle = _PANEL_WIDTH / 2 + 8
    yield _text(left - 8, (top + bottom) / 2 + 4, "H·W", size=12, anchor="end", colour=_GREY)
    yield _text((left + right) / 2, bottom + 15, "C", size=12, colour=_GREY)
    depth = (right + SAMPLES * _DEPTH_X / 2 + 8, bottom - SAMPLES * _DEPTH_Y / 2 + 10)
    yield _text(*depth, "N", size=12, anchor="start", colour=_GREY)
    yield _text(middle, bottom + 38, NORMS[panel.norm].label, size=17, weight="bold")
    yield _text(middle, bottom + 56, panel.note, size=12, colour=_GREY)


def _cell(corner: tuple[float, float], along: tuple[float, float], across: tuple[float, float]) -> str:
    """Give the path of a parallelogram from a corner and two edges."""
    (x, y), (ax, ay), (bx, by) = corner, along, across
    return f"M{x:g},{y:g}l{ax:g},{ay:g}l{bx:g},{by:g}l{-ax:g},{-ay:g}z"


def _text(
    x: float, y: float, text: str, *, size: int, anchor: str = "middle", weight: str = "normal", colour: str = _INK
) -> str:
    """Write one line of text."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{colour}">{text}</text>'
    )
