"""Pictures of cells and of preferences, as SVG and as PNG, without graphviz or matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nas.space import NUM_CELL_INPUTS, PRIMITIVES, Cell, node_edges

FONT_SIZE = 14
BOX, OPERATION = (80.0, 34.0), (110.0, 24.0)
ROW, COLUMN = 32.0, 290.0
MARGIN = 40
COLOURS = {
    "input": "#dbe9f6",
    "node": "#fdebc8",
    "operation": "#ffffff",
    "output": "#e3e3e3",
    "text": "#222222",
    "line": "#555555",
}
LOW, HIGH = (255, 255, 255), (33, 102, 172)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A part of a picture.

    Args:
        kind: box, line or text.
        points: Corners of a box, the points of a line, or where a text is centred.
        text: The text.
        colour: Of the filling, the line or the text.
    """

    kind: str
    points: tuple[tuple[float, float], ...]
    text: str = ""
    colour: str = COLOURS["text"]


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

    def box(self, centre: tuple[float, float], size: tuple[float, float], *, text: str, colour: str) -> None:
        """Add a box with a text."""
        (x, y), (width, height) = centre, size
        corners = ((x - width / 2, y - height / 2), (x + width / 2, y + height / 2))
        self.shapes.append(Shape(kind="box", points=corners, colour=colour))
        self.text(centre, text)

    def text(self, centre: tuple[float, float], text: str, *, colour: str = COLOURS["text"]) -> None:
        """Add a text around a point."""
        self.shapes.append(Shape(kind="text", points=(centre,), text=text, colour=colour))

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
        drawing.box(centre, OPERATION, text=operation, colour=COLOURS["operation"])
    for i, place in enumerate(places):
        is_input = i < NUM_CELL_INPUTS
        text = ("cell k-2", "cell k-1")[i] if is_input else f"node {i - NUM_CELL_INPUTS}"
        drawing.box(place, BOX, text=text, colour=COLOURS["input" if is_input else "node"])
    drawing.box(output, BOX, text="concat", colour=COLOURS["output"])
    drawing.text((drawing.width / 2, MARGIN / 2), title)
    return drawing


def draw_heatmap(table: Float[Tensor, "edges ops"], *, title: str) -> Drawing:
    """Draw how much each operation of each edge is preferred, one row an edge, white for 0 and blue for the most.

    Args:
        table: Preferences, whose rows sum to 1.
        title: Written above it.
    """
    num_nodes = next(n for n in range(1, len(table) + 1) if node_edges(n)[-1].stop == len(table))
    names = [f"{state} to node {i}" for i, edges in enumerate(node_edges(num_nodes)) for state, _ in enumerate(edges)]
    width, height, left, top = 104, 28, 110, 80
    drawing = Drawing(
        width=left + width * table.shape[1] + MARGIN // 2, height=top + height * len(table) + MARGIN // 2
    )
    most = float(table.max())
    for k, name in enumerate(PRIMITIVES):
        drawing.text((left + width * (k + 0.5), top - 16), name)
    for e, row in enumerate(table.double().tolist()):
        drawing.text((left / 2, top + height * (e + 0.5)), names[e])
        for k, value in enumerate(row):
            share = value / most if most > 0 else 0.0
            shade = tuple(round(low + share * (high - low)) for low, high in zip(LOW, HIGH))
            centre = (left + width * (k + 0.5), top + height * (e + 0.5))
            corners = (
                (centre[0] - width / 2, centre[1] - height / 2), (centre[0] + width / 2, centre[1] + height / 2)
            )  # fmt: skip
            drawing.shapes.append(Shape(kind="box", points=corners, colour="#{:02x}{:02x}{:02x}".format(*shade)))
            drawing.text(centre, f"{value:.3f}", colour="#ffffff" if share > 0.6 else COLOURS["text"])
    drawing.text((drawing.width / 2, MARGIN / 2), title)
    return drawing


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
            parts.append(
                f'<rect x="{x:g}" y="{y:g}" width="{right - x:g}" height="{bottom - y:g}" fill="{shape.colour}" '
                f'stroke="#999999"/>'
            )
        elif shape.kind == "line":
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{shape.colour}" marker-end="url(#head)"/>')
        else:
            ((x, y),) = shape.points
            parts.append(
                f'<text x="{x:.1f}" y="{y + FONT_SIZE / 3:.1f}" text-anchor="middle" fill="{shape.colour}">'
                f"{escape(shape.text)}</text>"
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


def to_image(drawing: Drawing) -> Image.Image:
    """Return a picture as pixels."""
    image = Image.new("RGB", (drawing.width, drawing.height), "#ffffff")
    canvas, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_SIZE)
    for shape in drawing.shapes:
        if shape.kind == "box":
            canvas.rectangle([*shape.points[0], *shape.points[1]], fill=shape.colour, outline="#999999")
        elif shape.kind == "line":
            canvas.line(list(shape.points), fill=shape.colour, width=1)
            (before, x), y = (shape.points[-2], shape.points[-1][0]), shape.points[-1][1]
            is_down = before[0] == x
            tail = [(x - 4, y - 8), (x + 4, y - 8)] if is_down else [(x - 8, y - 4), (x - 8, y + 4)]
            canvas.polygon([(x, y), *tail], fill=shape.colour)
        else:
            canvas.text(shape.points[0], shape.text, fill=shape.colour, font=font, anchor="mm")
    return image


def save_drawing(drawing: Drawing, path: Path) -> None:
    """Write a picture beside each other as .svg and .png.

    Args:
        drawing: The picture.
        path: Without its ending.
    """
    path.with_name(f"{path.name}.svg").write_text(to_svg(drawing))
    to_image(drawing).save(path.with_name(f"{path.name}.png"))
