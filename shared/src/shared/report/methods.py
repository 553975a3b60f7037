"""Methods of one task side by side: one table of norms by methods, such as domain adaptation and its two controls.

Each method is an experiment of its own, because its protocol is another; what one wants to see is often the gain of
one over the other, on the same data, for each norm. So methods share a table where they have the data, the network and
the settings in common that all of them have; in what else they differ is said below it.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from shared.report.aggregate import Cell, Grid, Row, batch_size_grid, metric_words, norm_labels, unshown
from shared.report.experiments import CELL_AXES, Experiment
from shared.report.headings import distinctions
from shared.report.records import Record
from shared.report.wording import METHODS, plain

METHOD = "method"
FLAG = "trainer."
"""How the protocol's entries begin that were given to the trainer, whatever the method."""
PARTS = ("train", "test", "full")
"""Of a data set's identity, what other axes than the method may change, such as the transfer."""
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
    for members in (table for family in families.values() for table in _tables(family)):
        if len({method_of(member.first) for member in members}) > 1:
            host = next((member for member in members if not is_baseline(member)), members[0])
            grids[host.slug] = _grid(sorted(members, key=_order))
    return grids


def _family(experiment: Experiment) -> str:
    first = experiment.first
    dataset = [first.dataset.get(name) for name in ("name", "resolution", "num_classes")]
    shared = [first.task, first.config, dataset, _network(first), first.headline, first.batch_size]
    return json.dumps(shared, sort_keys=True, default=str)


def _network(record: Record) -> str:
    """Return a run's model without the name of the method that stands before it: `can-resnet20` is `resnet20`."""
    method = method_of(record) or ""
    names = "|".join(re.escape(name) for name in (method, method.replace("_", "-"), METHODS.get(method, method)))
    return re.sub(rf"^(?:{names})[- ]", "", record.model, flags=re.IGNORECASE)


def _tables(family: Sequence[Experiment]) -> Iterator[list[Experiment]]:
    """Sort experiments of a family into tables: equal in what all their methods have, and on the same images."""
    names = _common_settings(family)
    groups: dict[str, dict[str, list[Experiment]]] = defaultdict(lambda: defaultdict(list))
    for member in family:
        settings = {name: member.first.protocol.get(name) for name in names}
        groups[json.dumps(settings, sort_keys=True, default=str)][_others(member)].append(member)
    for by_others in groups.values():
        parts = [_by_data(members) for members in by_others.values()]
        for place in range(max(map(len, parts))):
            yield [member for part in parts for member in (part[place] if place < len(part) else ())]


def _common_settings(family: Sequence[Experiment]) -> list[str]:
    """Name the settings that all methods have, and the trainer's flags; a method's own ones are no reason to part."""
    by_method: dict[str | None, set[str]] = defaultdict(set)
    for member in family:
        by_method[method_of(member.first)].update(member.first.protocol)
    every = set.union(*by_method.values())
    common = set.intersection(*by_method.values()) | {name for name in every if name.startswith(FLAG)}
    return sorted(common - {METHOD, *CELL_AXES})


def _by_data(members: Sequence[Experiment]) -> list[list[Experiment]]:
    """Part experiments by their images, those with most runs first.

    By the checksum only where two methods have one in common: elsewhere each method has images of its own.
    """
    sizes: dict[str, list[Experiment]] = defaultdict(list)
    for member in members:
        sizes[json.dumps([member.first.dataset.get(name) for name in PARTS], default=str)].append(member)
    parts = []
    for several in sizes.values():
        sums: dict[str, list[Experiment]] = defaultdict(list)
        for member in several:
            sums[str(member.first.dataset.get("checksum"))].append(member)
        shared = any(len({method_of(member.first) for member in same}) > 1 for same in sums.values())
        parts += list(sums.values()) if shared else [several]
    return sorted(parts, key=lambda part: -sum(len(member.records) for member in part))


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
    names = _names(members)
    labels = norm_labels({record.norm for member in members for record in member.records})
    rows = tuple(Row(norm, label) for norm, label in labels.items())
    cells: dict[tuple[Row, int | str | None], Cell] = {}
    for name, member in zip(names, members, strict=True):
        cells |= _column(name, member, rows, headline)
    grid = Grid(headline, metric_words(members[0], headline), METHOD, rows, tuple(names), cells)
    hidden = unshown([record for member in members for record in member.records], [grid])
    return replace(grid, remarks=(*_differences(names, members), *hidden))


def _names(members: Sequence[Experiment]) -> list[str]:
    """Name the columns; one method under two protocols, or on other data, by what differs."""
    several = len({_others(member) for member in members}) > 1
    names = []
    for member in members:
        method = method_of(member.first) or ""
        names.append(" ".join(filter(None, (_others(member) if several else "", METHODS.get(method, method)))))
    apart = distinctions(names, [[member] for member in members])
    return [f"{name} ({words})" if words else name for name, words in zip(names, apart, strict=True)]


def _differences(names: Sequence[str], members: Sequence[Experiment]) -> list[str]:
    """Say in which settings that two methods have, or in which images, columns differ besides their method."""
    settings: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    images: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    methods: dict[str, set[str | None]] = defaultdict(set)
    for name, member in zip(names, members, strict=True):
        checksum = str(member.first.dataset.get("checksum") or "unknown").rpartition(":")[2][:8]
        images[_others(member)][checksum].append(name)
        for setting, value in _settings(member).items():
            settings[setting][plain(value)].append(name)
            methods[setting].add(method_of(member.first))
    found = [(setting, values) for setting, values in sorted(settings.items()) if len(methods[setting]) > 1]
    found += [("data", values) for values in images.values()]
    parts = [f"{setting} {_places(values)}" for setting, values in found if len(values) > 1]
    return [f"Mind: the columns differ in more than their method: {'; '.join(parts)}."] if parts else []


def _places(values: Mapping[str, Sequence[str]]) -> str:
    """Write where each value is: "0.1 (DARTS), 0.2 (MANAS, random search)"."""
    return ", ".join(f"{value} ({', '.join(where)})" for value, where in values.items())


def _settings(member: Experiment) -> dict[str, Any]:
    protocol = {name: value for name, value in member.first.protocol.items() if name not in (METHOD, *CELL_AXES)}
    return {**protocol, "number reported:": member.first.selection}


def _column(
    name: str, member: Experiment, rows: Sequence[Row], headline: str
) -> Mapping[tuple[Row, int | str | None], Cell]:
    grid = batch_size_grid(member, headline)
    cells = (without_paper(grid) if is_baseline(member) else grid).cells
    return {(row, name): cells[row, grid.columns[0]] for row in rows if (row, grid.columns[0]) in cells}
