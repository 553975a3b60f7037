"""One table from several metrics that are neighbours in the paper, as 1-shot and 5-shot accuracy in Table 6."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from shared.report.aggregate import Cell, Grid, Row, reference_of
from shared.report.experiments import Experiment
from shared.report.paper import load_paper_tables
from shared.report.records import PaperReference
from shared.report.wording import measure_name, setting_words

Setting = Mapping[str, int | str]
Column = int | str | None


def outer_setting(reference: PaperReference) -> Setting:
    """The parts of a setting that are no axes of every table: neither batch size nor number of groups."""
    return {key: value for key, value in reference.setting.items() if key not in ("batch_size", "num_groups")}


def distinguishing_key(settings: Sequence[Setting]) -> str | None:
    """The one key that tells settings apart; None where there is no such key."""
    varying = {key for setting in settings for key in setting if len({str(other.get(key)) for other in settings}) > 1}
    if len(varying) != 1:
        return None
    key = varying.pop()
    return key if len({str(setting.get(key)) for setting in settings}) == len(settings) else None


def printed_order(table: int, key: str) -> list[str]:
    """Values that a key of the setting has in a table of the paper, in reading order."""
    return list(dict.fromkeys(str(entry.setting.get(key)) for entry in load_paper_tables()[table].entries))


def join_metrics(experiment: Experiment, grids: Sequence[Grid]) -> tuple[Grid, ...]:
    """Put metrics side by side that the paper prints as one metric of one table, for several values of one setting.

    Args:
        experiment: The runs.
        grids: One table per metric, over the batch size.

    Returns:
        The tables; where several are joined, the joint one stands in the place of the first. Over several batch sizes
        nothing is joined.
    """
    families: dict[tuple[int | str, str], list[tuple[Grid, PaperReference | None]]] = defaultdict(list)
    for grid in grids:
        reference = reference_of(experiment.records, grid.metric)
        joinable = reference is not None and reference.table in load_paper_tables() and len(grid.columns) == 1
        place = (reference.table, reference.metric) if reference and joinable else ("", grid.metric)
        families[place].append((grid, reference))
    joined: list[Grid] = []
    for family in families.values():
        referenced = [(grid, reference) for grid, reference in family if reference]
        key = distinguishing_key([outer_setting(reference) for _, reference in referenced])
        joined += [_join(referenced, key)] if key else [grid for grid, _ in family]
    return tuple(joined)


def _join(family: Sequence[tuple[Grid, PaperReference]], key: str) -> Grid:
    first, reference = family[0]
    order = printed_order(reference.table, key)
    values = {grid.metric: str(other.setting.get(key)) for grid, other in family}
    members = sorted((grid for grid, _ in family), key=lambda grid: _rank(values[grid.metric], order))
    parts: dict[Column, Grid] = {setting_words(key, values[grid.metric]): grid for grid in members}
    cells: dict[tuple[Row, Column], Cell] = {}
    for column, grid in parts.items():
        for row in grid.rows:
            if cell := grid.cells.get((row, grid.columns[0])):
                cells[row, column] = cell
    split = first.metric.rpartition("/")[0]
    together = f"{split}/{reference.metric}" if split else reference.metric
    shared = {name: value for name, value in reference.setting.items() if name != key}
    return Grid(
        metric=f"{together}_by_{key}",
        name=measure_name(together, shared),
        column_name=key,
        rows=first.rows,
        columns=tuple(parts),
        cells=cells,
        by_column=parts,
    )


def _rank(value: str, order: Sequence[str]) -> tuple[int, str]:
    return (order.index(value) if value in order else len(order), value)
