"""Pictures of cells and of preferences, as SVG and as PNG, without graphviz or matplotlib."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import groupby
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nas.space import NUM_CELL_INPUTS, PRIMITIVES, Cell, node_edges, num_edges

FONT_SIZE = 14
BOX, OPERATION = (80.0, 34.0), (110.0, 24.0)
ROW, COLUMN = 32.0, 290.0
MARGIN = 40
COLOURS = {
    "state": "#fdebc8",
    "none": "#ffffff",
    "pool": "#f2d0e1",
    "skip": "#d6d6d6",
    "sep": "#cbe2f6",
    "dil": "#c5e8da",
    "text": "#222222",
    "line": "#555555",
}
"""Tints of Okabe and Ito's colours, which the common colour blindnesses keep apart; each box has its name besides."""
LOW, HIGH = (255, 255, 255), (33, 102, 172)
NUM_SHADES = 32
MAX_EPOCHS = 100
"""Columns of a history; of a longer one, as many epochs are shown, evenly spaced."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A part of a picture.

    Args:
        kind: box, line (with a head at its end), frame (without) or text.
        points: Corners of a box, the points of a line, or where a text is centred.
        text: The text.
        colour: Of the filling, the line or the text.
        outline: Of a box; "" for none.
        anchor: Where a text's point is: start, middle or end.
    """

    kind: str
    points: tuple[tuple[float, float], ...]
    text: str = ""
    colour: str = COLOURS["text"]
    outline: str = "#999999"
    anchor: str = "middle"


@dataclass(kw_only=True)
class Drawing:
    """A picture.

    Args:
        width: In pixels.
        height: In pixels.
        shapes: What is in it, from the back to the front.
    """

    width: int
    height: int
    shapes: list[Shape] = field(default_factory=list)

    def box(
        self, centre: tuple[float, float], size: tuple[float, float], *, text: str, colour: str,
        text_colour: str = COLOURS["text"],
    ) -> None:  # fmt: skip
        """Add a box with a text."""
        (x, y), (width, height) = centre, size
        corners = ((x - width / 2, y - height / 2), (x + width / 2, y + height / 2))
        self.shapes.append(Shape(kind="box", points=corners, colour=colour))
        self.text(centre, text, colour=text_colour)

    def text(
        self, point: tuple[float, float], text: str, *, colour: str = COLOURS["text"], anchor: str = "middle"
    ) -> None:
        """Add a text at a point."""
        self.shapes.append(Shape(kind="text", points=(point,), text=text, colour=colour, anchor=anchor))

    def arrow(self, points: Sequence[tuple[float, float]]) -> None:
        """Add a line with a head at its end."""
        self.shapes.append(Shape(kind="line", points=tuple(points), colour=COLOURS["line"]))


def draw_cell(cell: Cell, *, title: str) -> Drawing:
    """Draw a cell from left to right: its inputs, then each node behind the operations that it adds up, its output.

    Args:
        cell: The cell.
        title: Written above it.
    """
    heights = [max(BOX[1], ROW * len(genes)) + MARGIN for genes in cell.nodes]
    drawing = Drawing(
        width=round(MARGIN * 3 + BOX[0] * 3 + COLUMN * len(cell.nodes)),
        height=round(MARGIN * 3 + BOX[1] * 2 + sum(heights)),
    )
    places = [(MARGIN + BOX[0] / 2 + (BOX[0] + 20) * i, MARGIN + BOX[1]) for i in range(NUM_CELL_INPUTS)]
    top = MARGIN + BOX[1] * 1.5
    output = (drawing.width - MARGIN - BOX[0] / 2, drawing.height - MARGIN - BOX[1] / 2)
    boxes = []
    drops = [0] * (NUM_CELL_INPUTS + len(cell.nodes))
    for i, (genes, height) in enumerate(zip(cell.nodes, heights)):
        place = (MARGIN + BOX[0] + COLUMN * (i + 1), top + height / 2)
        for j, gene in enumerate(genes):
            centre = (place[0] - BOX[0] / 2 - 34 - OPERATION[0] / 2, place[1] + ROW * (j - (len(genes) - 1) / 2))
            source = places[gene.input]
            x = source[0] + BOX[0] / 2 - 8 - 9 * drops[gene.input] % (BOX[0] - 16)
            drops[gene.input] += 1
            below = (x, source[1] + BOX[1] / 2)
            drawing.arrow([below, (x, centre[1]), (centre[0] - OPERATION[0] / 2, centre[1])])
            drawing.arrow([(centre[0] + OPERATION[0] / 2, centre[1]), (place[0] - BOX[0] / 2, place[1])])
            boxes.append((centre, gene.operation))
        x = output[0] - BOX[0] / 2 + BOX[0] * (len(cell.nodes) - i) / (len(cell.nodes) + 1)
        drawing.arrow([(place[0] + BOX[0] / 2, place[1]), (x, place[1]), (x, output[1] - BOX[1] / 2)])
        places.append(place)
        top += height
    for centre, operation in boxes:
        drawing.box(centre, OPERATION, text=operation, colour=_operation_colour(operation))
    for i, place in enumerate(places):
        drawing.box(place, BOX, text=_state_name(i), colour=COLOURS["state"])
    drawing.box(output, BOX, text="concat", colour=COLOURS["state"])
    drawing.text((drawing.width / 2, MARGIN / 2), title)
    return drawing


def draw_heatmap(table: Float[Tensor, "edges ops"], *, title: str) -> Drawing:
    """Draw how much each operation of each edge is preferred, one row an edge, white for 0 and blue for the most.

    Args:
        table: Preferences, whose rows sum to 1.
        title: Written above it.
    """
    width, height, left, top = 104, 28, 150, 80
    drawing = Drawing(
        width=left + width * table.shape[1] + MARGIN // 2, height=top + height * len(table) + MARGIN // 2
    )
    most = float(table.max())
    for k, name in enumerate(PRIMITIVES):
        drawing.text((left + width * (k + 0.5), top - 16), name)
    for i, edges in enumerate(node_edges(_num_nodes(len(table)))):
        for state, e in enumerate(edges):
            y = top + height * (e + 0.5)
            drawing.text((left - 10, y), f"{_state_name(state)} to node {i}", anchor="end")
            for k, value in enumerate(table[e].tolist()):
                share = value / most if most > 0 else 0.0
                drawing.box(
                    (left + width * (k + 0.5), y), (width, height), text=f"{value:.3f}", colour=_shade(share),
                    text_colour="#ffffff" if share > 0.8 else COLOURS["text"],
                )  # fmt: skip
    drawing.text((drawing.width / 2, MARGIN / 2), title)
    return drawing


def draw_history(tables: Float[Tensor, "epochs edges ops"], *, title: str) -> Drawing:
    """Draw how the preferences moved: a strip an operation over the epochs, for each edge.

    White is 0, blue the largest preference of the whole search.

    A row of the picture is a node, a column the state that the edge reads.

    Args:
        tables: Preferences at the end of each epoch, whose rows sum to 1.
        title: Written above it.
    """
    num_epochs = len(tables)
    shown = torch.linspace(0, num_epochs - 1, min(num_epochs, MAX_EPOCHS)).round().long()
    num_nodes = _num_nodes(tables.shape[1])
    width, strip, left, gap = 190.0, 16.0, 120, 34
    block = strip * len(PRIMITIVES)
    drawing = Drawing(
        width=round(left + (width + 16) * (NUM_CELL_INPUTS + num_nodes - 1) + MARGIN / 2),
        height=round(MARGIN + (block + gap) * num_nodes + MARGIN),
    )
    most = float(tables.max())
    levels = (tables[shown].double() / most * NUM_SHADES).round().long()
    for i, edges in enumerate(node_edges(num_nodes)):
        top = MARGIN + gap + (block + gap) * i
        for k, name in enumerate(PRIMITIVES):
            drawing.text((left - 8, top + strip * (k + 0.5)), name, anchor="end")
        for state, e in enumerate(edges):
            x = left + (width + 16) * state
            drawing.text((x + width / 2, top - 12), f"{_state_name(state)} to node {i}")
            for k in range(len(PRIMITIVES)):
                column = width / len(shown)
                for first, last, level in _runs(levels[:, e, k].tolist()):
                    corners = ((x + column * first, top + strip * k), (x + column * last, top + strip * (k + 1)))
                    colour = _shade(level / NUM_SHADES)
                    drawing.shapes.append(Shape(kind="box", points=corners, colour=colour, outline=""))
            frame = ((x, top), (x + width, top), (x + width, top + block), (x, top + block), (x, top))
            drawing.shapes.append(Shape(kind="frame", points=frame, colour="#999999"))
    drawing.text((drawing.width / 2, MARGIN / 2), title)
    epochs = f"left to right: epoch 1 to {num_epochs}; white: preference 0, blue: {most:.3f}"
    drawing.text((drawing.width / 2, drawing.height - MARGIN / 2), epochs)
    return drawing


def _runs(values: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Give the runs of equal values: first place, place after the last, value."""
    first = 0
    for value, run in groupby(values):
        last = first + len(list(run))
        yield first, last, value
        first = last


def _state_name(state: int) -> str:
    return f"cell k-{NUM_CELL_INPUTS - state}" if state < NUM_CELL_INPUTS else f"node {state - NUM_CELL_INPUTS}"


def _operation_colour(operation: str) -> str:
    return next(colour for word, colour in COLOURS.items() if word in operation)


def _num_nodes(edges: int) -> int:
    return next(n for n in range(1, edges + 1) if num_edges(n) == edges)


def _shade(share: float) -> str:
    return "#{:02x}{:02x}{:02x}".format(*(round(low + share * (high - low)) for low, high in zip(LOW, HIGH)))


def to_svg(drawing: Drawing) -> str:
    """Return a picture as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{drawing.width}" height="{drawing.height}" '
        f'viewBox="0 0 {drawing.width} {drawing.height}" font-family="sans-serif" font-size="{FONT_SIZE}">',
        '<defs><marker id="head" viewBox="0 0 10 10" refX="10" refY="5" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0,0 L10,5 L0,10 z" fill="{COLOURS["line"]}"/></marker></defs>',
        f'<rect width="{drawing.width}" height="{drawing.height}" fill="#ffffff"/>',
    ]
    for shape in drawing.shapes:
        if shape.kind == "box":
            (x, y), (right, bottom) = shape.points
            stroke = f' stroke="{shape.outline}"' if shape.outline else ""
            size = f'width="{right - x:g}" height="{bottom - y:g}"'
            parts.append(f'<rect x="{x:g}" y="{y:g}" {size} fill="{shape.colour}"{stroke}/>')
        elif shape.kind in ("line", "frame"):
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
            head = ' marker-end="url(#head)"' if shape.kind == "line" else ""
            parts.append(f'<polyline points="{points}" fill="none" stroke="{shape.colour}"{head}/>')
        else:
            ((x, y),) = shape.points
            parts.append(
                f'<text x="{x:.1f}" y="{y + FONT_SIZE / 3:.1f}" text-anchor="{shape.anchor}" fill="{shape.colour}">'
                f"{escape(shape.text)}</text>"
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


def to_image(drawing: Drawing) -> Image.Image:
    """Return a picture as pixels."""
    image = Image.new("RGB", (drawing.width, drawing.height), "#ffffff")
    canvas, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_SIZE)
    for shape in drawing.shapes:
        if shape.kind == "box":
            canvas.rectangle([*shape.points[0], *shape.points[1]], fill=shape.colour, outline=shape.outline or None)
        elif shape.kind == "frame":
            canvas.line(list(shape.points), fill=shape.colour, width=1)
        elif shape.kind == "line":
            canvas.line(list(shape.points), fill=shape.colour, width=1)
            (before, x), y = (shape.points[-2], shape.points[-1][0]), shape.points[-1][1]
            is_down = before[0] == x
            tail = [(x - 4, y - 8), (x + 4, y - 8)] if is_down else [(x - 8, y - 4), (x - 8, y + 4)]
            canvas.polygon([(x, y), *tail], fill=shape.colour)
        else:
            canvas.text(
                shape.points[0],
                shape.text,
                fill=shape.colour,
                font=font,
                anchor=f"{shape.anchor[0].replace('e', 'r').replace('s', 'l')}m",
            )
    return image


def save_drawing(drawing: Drawing, path: Path) -> None:
    """Write a picture beside each other as .svg and .png.

    Args:
        drawing: The picture.
        path: Without its ending.
    """
    path.with_name(f"{path.name}.svg").write_text(to_svg(drawing))
    to_image(drawing).save(path.with_name(f"{path.name}.png"))
