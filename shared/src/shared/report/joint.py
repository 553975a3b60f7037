"""One table from several metrics that are neighbours in the paper.

They are one metric of the paper for several values of a setting, as 1-shot and 5-shot accuracy in Table 6, or several
metrics of it, as robust and clean accuracy in Table 5.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from shared.report.aggregate import Cell, Grid, Row, reference_of
from shared.report.experiments import Experiment
from shared.report.paper import load_paper_tables
from shared.report.records import PaperReference
from shared.report.wording import listed, measure_name, setting_words

METRIC = "metric"
Setting = Mapping[str, int | str]
Column = int | str | None
Member = tuple[Grid, PaperReference]


def outer_setting(reference: PaperReference) -> Setting:
    """The parts of a setting that are no axes of every table: neither batch size nor number of groups."""
    return {key: value for key, value in reference.setting.items() if key not in ("batch_size", "num_groups")}


def distinguishing_key(settings: Sequence[Setting]) -> str | None:
    """The one key that tells settings apart; None where there is no such key."""
    varying = {key for setting in settings for key in setting if len({str(other.get(key)) for other in settings}) > 1}
    if len(varying) != 1:
        return None
    key = varying.pop()
    told = all(key in setting for setting in settings)
    return key if told and len({str(setting[key]) for setting in settings}) == len(settings) else None


def printed_order(table: int, key: str) -> list[str]:
    """Values that a key of the setting has in a table of the paper, in reading order; none if there is no table."""
    entries = load_paper_tables()[table].entries if table in load_paper_tables() else ()
    return list(dict.fromkeys(str(entry.setting.get(key)) for entry in entries))


def join_metrics(experiment: Experiment, grids: Sequence[Grid]) -> tuple[Grid, ...]:
    """Put metrics side by side that the paper prints in one table.

    Several values of one setting of one metric are joined, and so are several metrics. Two numbers of one metric that
    differ in more than one setting, or in none, stay apart.

    Args:
        experiment: The runs.
        grids: One table per metric, over the batch size.

    Returns:
        The tables; where several are joined, the joint one stands in the place of the first. Over several batch sizes
        nothing is joined.
    """
    families: dict[int | str, list[Grid]] = defaultdict(list)
    references: dict[str, PaperReference] = {}
    for grid in grids:
        reference = reference_of(experiment.records, grid.metric)
        if reference and reference.table in load_paper_tables() and len(grid.columns) == 1:
            references[grid.metric] = reference
            families[reference.table].append(grid)
        else:
            families[grid.metric].append(grid)
    joined: list[Grid] = []
    for family in families.values():
        members = [(grid, references[grid.metric]) for grid in family if grid.metric in references]
        joined += _joined_family(members) if len(members) > 1 else family
    return tuple(joined)


def _joined_family(members: Sequence[Member]) -> list[Grid]:
    """Join the metrics of one table of the paper."""
    by_metric: dict[str, list[Member]] = defaultdict(list)
    for grid, reference in members:
        by_metric[reference.metric].append((grid, reference))
    if len(by_metric) == len({grid.name for grid, _ in members}) == len(members):
        return [_join_by_metric(members)]
    joined: list[Grid] = []
    for several in by_metric.values():
        key = distinguishing_key([outer_setting(reference) for _, reference in several])
        joined += [_join_by_setting(several, key)] if key else [grid for grid, _ in several]
    return joined


def _join_by_metric(members: Sequence[Member]) -> Grid:
    """Join metrics of the paper; each column is named by its metric."""
    order = load_paper_tables()[members[0][1].table].metrics()
    ranked = sorted(members, key=lambda member: _rank(member[1].metric, order))
    names = [reference.metric for _, reference in ranked]
    return _grid(
        members[0][0],
        {grid.name: grid for grid, _ in ranked},
        metric="_and_".join(names),
        name=listed([grid.name for grid, _ in ranked]),
        column_name=METRIC,
    )


def _join_by_setting(members: Sequence[Member], key: str) -> Grid:
    """Join the values of a setting of one metric of the paper; each column is named by its value."""
    first, reference = members[0]
    order = printed_order(reference.table, key)
    values = {grid.metric: str(other.setting.get(key)) for grid, other in members}
    ranked = sorted((grid for grid, _ in members), key=lambda grid: _rank(values[grid.metric], order))
    shared = {name: value for name, value in reference.setting.items() if name != key}
    return _grid(
        first,
        {setting_words(key, values[grid.metric]): grid for grid in ranked},
        metric=f"{reference.metric}_by_{key}",
        name=measure_name(f"{_split(first)}{reference.metric}", shared),
        column_name=key,
    )


def _grid(first: Grid, parts: Mapping[Column, Grid], *, metric: str, name: str, column_name: str) -> Grid:
    """Put tables of one column each side by side; the first one gives the rows."""
    cells: dict[tuple[Row, Column], Cell] = {}
    for column, grid in parts.items():
        for row in grid.rows:
            if cell := grid.cells.get((row, grid.columns[0])):
                cells[row, column] = cell
    return Grid(
        metric=f"{_split(first)}{metric}",
        name=name,
        column_name=column_name,
        rows=first.rows,
        columns=tuple(parts),
        cells=cells,
        by_column=parts,
    )


def _split(grid: Grid) -> str:
    """The part of a metric's name before its last slash, with it."""
    before, slash, _ = grid.metric.rpartition("/")
    return f"{before}{slash}"


def _rank(value: str, order: Sequence[str]) -> tuple[int, str]:
    return (order.index(value) if value in order else len(order), value)
