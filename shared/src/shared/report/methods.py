"""Methods of one task side by side: one table of norms by methods, such as domain adaptation and its two controls.

Each method is an experiment of its own, because its protocol is another; what one wants to see is often the gain of
one over the other, on the same data, for each norm.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from shared.report.aggregate import Cell, Grid, Row, batch_size_grid, metric_words, norm_labels
from shared.report.experiments import Experiment
from shared.report.records import Record
from shared.report.wording import METHODS

METHOD = "method"
BASELINES = ("source_only", "norm_branch", "random")
"""Values of the axis `method` that a method is compared with and the paper has no number of."""


def method_of(record: Record) -> str | None:
    """Return a run's method; None where its task has one only."""
    method = record.axes.get(METHOD)
    return method if isinstance(method, str) else None


def is_baseline(experiment: Experiment) -> bool:
    """Whether an experiment is a control that others are compared with."""
    return method_of(experiment.first) in BASELINES


def without_paper(grid: Grid) -> Grid:
    """Return a control's table without the paper's numbers, which are another method's."""
    cells = {place: replace(cell, paper=None) for place, cell in grid.cells.items() if cell.runs}
    by_column = {name: without_paper(part) for name, part in grid.by_column.items()}
    return replace(grid, cells=cells, by_column=by_column)


def method_grids(experiments: Sequence[Experiment]) -> dict[str, Grid]:
    """Build a table for every set of experiments that differ in their method.

    Args:
        experiments: In the order of the report.

    Returns:
        The table by the slug of the first experiment in it that is no control, or of the first.
    """
    families: dict[str, list[Experiment]] = defaultdict(list)
    for experiment in experiments:
        if method_of(experiment.first) and len({record.batch_size for record in experiment.records}) == 1:
            families[_family(experiment)].append(experiment)
    grids = {}
    for members in families.values():
        if len({method_of(member.first) for member in members}) > 1:
            host = next((member for member in members if not is_baseline(member)), members[0])
            grids[host.slug] = _grid(sorted(members, key=_order))
    return grids


def _family(experiment: Experiment) -> str:
    first = experiment.first
    dataset = first.dataset.get("name"), first.dataset.get("resolution")
    return json.dumps([first.task, first.config, dataset, first.headline, first.batch_size], default=str)


def _order(experiment: Experiment) -> tuple[str, int, str]:
    """By the other axes, then controls in their order, then methods by name."""
    method = method_of(experiment.first) or ""
    rank = BASELINES.index(method) if method in BASELINES else len(BASELINES)
    return _others(experiment), rank, method


def _others(experiment: Experiment) -> str:
    """Return the axes besides the method, in words."""
    return ", ".join(str(value) for name, value in experiment.axes.items() if name != METHOD)


def _grid(members: Sequence[Experiment]) -> Grid:
    headline = members[0].first.headline
    names: dict[str, Experiment] = {}
    several = len({_others(member) for member in members}) > 1
    for member in members:
        method = method_of(member.first) or ""
        name = " ".join(filter(None, (_others(member) if several else "", METHODS.get(method, method))))
        number = sum(known == name or known.startswith(f"{name} (") for known in names)
        names[f"{name} ({number + 1})" if number else name] = member  # the same method under another protocol
    labels = norm_labels({record.norm for member in members for record in member.records})
    rows = tuple(Row(norm, label) for norm, label in labels.items())
    cells: dict[tuple[Row, int | str | None], Cell] = {}
    for name, member in names.items():
        cells |= _column(name, member, rows, headline)
    return Grid(headline, metric_words(members[0], headline), METHOD, rows, tuple(names), cells)


def _column(
    name: str, member: Experiment, rows: Sequence[Row], headline: str
) -> Mapping[tuple[Row, int | str | None], Cell]:
    grid = batch_size_grid(member, headline)
    cells = (without_paper(grid) if is_baseline(member) else grid).cells
    return {(row, name): cells[row, grid.columns[0]] for row in rows if (row, grid.columns[0]) in cells}
