"""Figures as SVG text: accuracy over batch size, one dot per seed, learning curves, profiles.

Drawn by matplotlib, byte-identical for equal input. Norms keep their colour (Okabe and Ito 2008, which the common
colour blindnesses keep apart) and their marker in all figures.
"""

import io
import re
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from shared.report.aggregate import Grid, Row
from shared.report.paper import PaperTable
from shared.report.profile_tables import ProfileTable
from shared.report.records import Record
from shared.report.statistics import summarise
from shared.report.wording import metric_name

PALETTE = ("#0072B2", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#999999", "#D55E00", "#010203")
MARKERS = "os^Dv<P*"  # as the colours, one for each norm of the registry
OUTSIDE_MARKERS = "Xh>pdH8"
DASHES = ("--", "-.", ":")
INK = "#010203"  # becomes the colour of the text around an inline figure
MAX_CURVE_POINTS = 50
MAX_TITLE_LETTERS = 60
GUARD = "\N{ZERO WIDTH SPACE}"
TAG = re.compile(r"<[^>]*>")
_SIZE = (4.4, 3.3)


@dataclass(frozen=True)
class Figure:
    """A finished figure.

    Args:
        svg: Its text, a whole SVG file.
        title: What it shows, also for those who cannot see it.
    """

    svg: str
    title: str


def norm_style(norm: str, norms: Sequence[str]) -> dict[str, Any]:
    """Colour, marker and dashes of a norm.

    Args:
        norm: The norm.
        norms: All norms of the page.

    Returns:
        Those of its place in the registry. A norm from outside has the colour of a place that no norm of the page
        takes, that of `none` first; after these a colour again with other dashes. Its marker is never one of the
        registry's.
    """
    from norm_layers.registry import NORMS

    places = list(NORMS)
    if norm in places:
        place = places.index(norm)
        return {"color": PALETTE[place], "marker": MARKERS[place], "linestyle": "-"}
    outside = list(dict.fromkeys(name for name in (*norms, norm) if name not in NORMS))
    free = [places.index(name) for name in ("none", *places[::-1]) if name not in norms]
    free = list(dict.fromkeys(free))
    number = outside.index(norm)
    marker = OUTSIDE_MARKERS[number % len(OUTSIDE_MARKERS)]
    if number < len(free):
        return {"color": PALETTE[free[number]], "marker": marker, "linestyle": "-"}
    turn, place = divmod(number - len(free), len(PALETTE))
    return {"color": PALETTE[place], "marker": marker, "linestyle": DASHES[turn % len(DASHES)]}


@contextmanager
def drawing(
    title: str, *, x: str, y: str, size: tuple[float, float] = _SIZE
) -> Iterator[tuple[Any, Callable[[], Figure]]]:
    """Open axes and hand out the function that finishes the figure.

    Args:
        title: What it shows.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
        size: Width and height in inches.
    """
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    settings: Any = {
        "svg.hashsalt": title, "svg.fonttype": "none", "font.size": 9, "font.family": "DejaVu Sans",
        "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#999999",
        "grid.alpha": 0.25, "grid.linewidth": 0.6, "lines.linewidth": 1.5, "lines.markersize": 4.5,
        "legend.frameon": False, "legend.fontsize": 8, "axes.titlesize": 9.5, "text.parse_math": False,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        canvas = Canvas(figsize=size, layout="constrained")
        axes = canvas.add_subplot()
        axes.set(title=textwrap.fill(title, MAX_TITLE_LETTERS), xlabel=x, ylabel=y)

        def finish() -> Figure:
            _legend_below(canvas, axes)
            stream = io.StringIO()
            canvas.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
            return Figure(_shorten(stream.getvalue()), title)

        yield axes, finish


def _legend_below(canvas: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        legend = canvas.legend(
            handles, labels, loc="outside lower center", ncols=4, handlelength=1.6, columnspacing=1.2
        )
        for text in legend.get_texts():
            text.set_text(text.get_text().removeprefix(GUARD))


def _legend_name(label: str) -> str:
    """Guard a name that begins with "_", which matplotlib would keep out of the legend."""
    return f"{GUARD}{label}" if label.startswith("_") else label


def _shorten(svg: str) -> str:
    """Cut coordinates to hundredths of a point, and drop what no reader needs: metadata, unused ids, line breaks.

    What is written in the figure stays as it is.
    """
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', svg))
    names = {name for pair in used for name in pair if name}

    def shorten(tag: str) -> str:
        tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
        tag = re.sub(r' transform="rotate\(-0 [^"]*"', "", tag)
        tag = tag.replace("font-family: 'DejaVu Sans'", "font-family: 'DejaVu Sans', sans-serif")
        return re.sub(r' id="([^"]*)"', lambda match: match.group() if match.group(1) in names else "", tag)

    return re.sub(r"\s*\n\s*", "\n", TAG.sub(lambda match: shorten(match.group()), svg))


def inline_svg(figure: Figure, prefix: str) -> str:
    """Make a figure part of an HTML page: no prologue, ids of its own, text in the page's colour.

    Args:
        figure: The figure.
        prefix: Put before each id, unique in the page.

    Returns:
        An `<svg>` element.
    """

    def adopt(tag: str) -> str:
        tag = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", tag)
        tag = re.sub(r'\bid="([^"]*)"', rf'id="{prefix}-\1"', tag)
        tag = tag.replace('href="#', f'href="#{prefix}-').replace("url(#", f"url(#{prefix}-")
        return tag.replace(INK, "currentColor")

    body = TAG.sub(lambda match: adopt(match.group()), figure.svg[figure.svg.index("<svg") :])
    body = body.replace("://", ":&#47;&#47;").replace("\n", " ").replace("> <", "><")
    return body.replace("<svg", '<svg role="img"', 1).strip()


def opaque_svg(figure: Figure) -> str:
    """Make a figure a file of its own: black on white, so that it can be read on any page."""
    white = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return re.sub(r"(<svg[^>]*>)", rf"\1{white}", figure.svg, count=1)


def batch_size_figure(grid: Grid, *, norms: Sequence[str] = ()) -> Figure:
    """Draw the mean of each norm over the batch size, with bars of one standard deviation over seeds.

    Args:
        grid: The table.
        norms: All norms of the page; without, those of the table.
    """
    columns = [column for column in grid.columns if isinstance(column, int)]
    with drawing("This suite", x="batch size per worker", y=_label(grid)) as (axes, finish):
        norms = norms or [row.norm for row in grid.rows]
        for row in grid.rows:
            points = [(column, grid.cells[row, column].summary) for column in columns if (row, column) in grid.cells]
            known = [(column, summary) for column, summary in points if summary]
            if known:
                axes.errorbar(
                    [column for column, _ in known],
                    [summary.mean for _, summary in known],
                    yerr=[summary.deviation or 0.0 for _, summary in known],
                    label=_legend_name(row.label),
                    capsize=2,
                    elinewidth=0.8,
                    **norm_style(row.norm, norms),
                )
        _power_axis(axes, columns)
        return finish()


def group_number_figure(grid: Grid) -> Figure:
    """Draw the mean of each norm over the number of groups, with bars of one standard deviation over seeds."""
    columns = [column for column in grid.columns if isinstance(column, int)]
    with drawing("Over the number of groups", x="number of groups G", y=_label(grid)) as (axes, finish):
        for place, row in enumerate(grid.rows):
            points = [(column, grid.cells[row, column].summary) for column in columns if (row, column) in grid.cells]
            known = [(column, summary) for column, summary in points if summary]
            axes.errorbar(
                [column for column, _ in known],
                [summary.mean for _, summary in known],
                yerr=[summary.deviation or 0.0 for _, summary in known],
                label=_legend_name(row.label), capsize=2, elinewidth=0.8,
                color=PALETTE[place % len(PALETTE)], marker=MARKERS[place % len(MARKERS)],
            )  # fmt: skip
        _power_axis(axes, columns)
        return finish()


def paper_batch_size_figure(table: PaperTable, labels: Mapping[str, str]) -> Figure:
    """Draw the paper's Figure 1 (bottom) from its Table 2."""
    with drawing("The paper: ImageNet, ResNet-50", x="batch size per worker", y="top-1 in %") as opened:
        axes, finish = opened
        by_norm: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for entry in table.entries:
            if isinstance(entry.value, float):
                by_norm[entry.norm].append((int(entry.setting["batch_size"]), entry.value))
        for norm, points in by_norm.items():
            axes.plot(*zip(*points, strict=True), label=_legend_name(labels.get(norm, norm)), **norm_style(norm, []))
        _power_axis(axes, sorted({size for points in by_norm.values() for size, _ in points}))
        return finish()


def _power_axis(axes: Any, sizes: Sequence[int]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xticks(list(sizes), [str(size) for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())


def seeds_figure(grid: Grid, column: int | str | None, *, norms: Sequence[str] = ()) -> Figure:
    """Draw one dot per seed for each norm of one column, and the comparable numbers of the paper as diamonds.

    Args:
        grid: The table.
        column: The column.
        norms: All norms of the page; without, those of the table.
    """
    rows = [row for row in grid.rows if (row, column) in grid.cells]
    place = "" if grid.column_name == "batch size" else f", {column} over {grid.column_name}s"
    with drawing(f"One dot per seed{place}", x=_label(grid), y="") as (axes, finish):
        norms = norms or [row.norm for row in grid.rows]
        labelled = False
        for height, row in enumerate(reversed(rows)):
            cell = grid.cells[row, column]
            style = norm_style(row.norm, norms) | {"marker": "o", "linestyle": "none"}
            axes.plot(list(cell.by_seed.values()), [height] * len(cell.by_seed), alpha=0.8, **style)
            if cell.summary:
                axes.plot([cell.summary.mean], [height], linestyle="none", color=INK, marker="|", markersize=14)
            if cell.paper and cell.paper.comparable and cell.paper.number is not None:
                label = None if labelled else "paper"
                labelled = True
                axes.plot([cell.paper.number], [height], "D", mfc="none", color="#999999", label=label)
        names = [row.label if grid.cells[row, column].by_seed else f"{row.label} (no value)" for row in reversed(rows)]
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        return finish()


def curve_figure(
    records: Mapping[str, Record], name: str, grid: Grid, column: int | str | None, *, norms: Sequence[str] = ()
) -> Figure | None:
    """Draw a learning curve of each norm in one column: mean over seeds, band of one standard deviation.

    Re-runs of a seed are averaged first.

    Args:
        records: Runs by name.
        name: Name of the curve in the records.
        grid: The table whose runs are drawn.
        column: The column.
        norms: All norms of the page; without, those of the table.

    Returns:
        The figure; None where no run has the curve.
    """
    by_row: dict[Row, dict[float, list[float]]] = {}  # x: one mean per seed
    for row in grid.rows:
        cell = grid.cells.get((row, column))
        by_seed: dict[float, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for run in cell.runs if cell else ():
            for x, y in records[run].curves.get(name, ()) if records[run].done else ():
                by_seed[x][records[run].seed].append(y)
        if by_seed:
            by_row[row] = {x: [summarise(ys).mean for ys in each.values()] for x, each in by_seed.items()}
    if not by_row:
        return None
    place = "" if column is None else f", {grid.column_name} {column}"
    with drawing(f"{metric_name(name)}{place}", x="epoch", y="") as (axes, finish):
        for row, values in by_row.items():
            _draw_curve(axes, values, row, norms or [other.norm for other in grid.rows])
        return finish()


def _draw_curve(axes: Any, by_x: Mapping[float, Sequence[float]], row: Row, norms: Sequence[str]) -> None:
    xs = _thinned(sorted(by_x))
    summaries = [summarise(by_x[x]) for x in xs]
    means = [summary.mean for summary in summaries]
    spread = [summary.deviation or 0.0 for summary in summaries]
    style = norm_style(row.norm, norms)
    axes.plot(xs, means, label=_legend_name(row.label), markevery=max(1, len(xs) // 6), **style)
    if any(spread):
        low = [mean - one for mean, one in zip(means, spread, strict=True)]
        high = [mean + one for mean, one in zip(means, spread, strict=True)]
        axes.fill_between(xs, low, high, color=style["color"], alpha=0.15, linewidth=0)


def profile_figure(table: ProfileTable, *, norms: Sequence[str] = ()) -> Figure:
    """Draw a profile of each norm: mean over seeds, band of one standard deviation.

    Args:
        table: The profile.
        norms: All norms of the page; without, those of the table.
    """
    from matplotlib.ticker import MaxNLocator

    with drawing(table.heading, x=table.x, y=table.unit) as (axes, finish):
        for row, values in table.by_seed.items():
            by_x = dict(zip(table.xs, zip(*values.values(), strict=True), strict=True))
            _draw_curve(axes, by_x, row, norms or [other.norm for other in table.rows])
        if all(x.is_integer() for x in table.xs):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return finish()


def _thinned(xs: Sequence[float]) -> list[float]:
    """Keep at most `MAX_CURVE_POINTS`, evenly spread, the last one always."""
    if len(xs) <= MAX_CURVE_POINTS:
        return list(xs)
    step = (len(xs) - 1) / (MAX_CURVE_POINTS - 1)
    return [xs[round(index * step)] for index in range(MAX_CURVE_POINTS)]


def _label(grid: Grid) -> str:
    unit = next((cell.unit for cell in grid.cells.values() if cell.unit), "")
    return f"{grid.name}{f' in {unit}' if unit else ''}"
