"""The answer of a table in words: which norm came first, and whether seeds could explain the difference."""

from collections.abc import Mapping

from shared.report.aggregate import Cell, Grid, Row, sign
from shared.report.sections import MEAN, Section
from shared.report.statistics import Difference, compare, summarise
from shared.report.wording import listed, metric_name, number, plural, seeds, signed, with_unit

Column = int | str | None


def answers(section: Section) -> list[str]:
    """Answer the headline question of a section.

    Args:
        section: The section.

    Returns:
        One sentence or two for the whole section; then, where it has several columns, one for each column.
    """
    grid = section.grids[0]
    columns = [column for column in grid.columns if column != MEAN]
    if len(columns) == 1:
        place = f"On {section.subject}{_size(grid, columns[0])}"
        return [_answer(grid, place, _values(grid, columns), columns) + _paper_first(grid, columns)]
    span = f"{grid.column_name}s {columns[0]} to {columns[-1]}"
    if grid.column_name != "batch size":
        span = f"all {len(columns)} columns ({grid.column_name} {listed([str(column) for column in columns])})"
    place = f"On {section.subject}, averaged over {span}"
    first = _answer(grid, place, _values(grid, columns), columns) + _paper_first(grid, columns)
    return [first] + [
        _answer(grid, f"At {grid.column_name} {column}", _values(grid, [column]), [column]) for column in columns
    ]


def _size(grid: Grid, column: Column) -> str:
    return f", batch size {column}" if grid.column_name == "batch size" and column is not None else ""


def _values(grid: Grid, columns: list[Column]) -> dict[Row, dict[int, float]]:
    """Value by seed of each norm that can be ranked: the mean over the columns, for seeds that finished in all."""
    values = {}
    for row in grid.rows:
        cells = [grid.cells.get((row, column)) for column in columns]
        ranked = [cell for cell in cells if cell and cell.ranked]
        if len(ranked) < len(columns):
            continue
        common = set.intersection(*(set(cell.by_seed) for cell in ranked))
        if common:
            values[row] = {seed: summarise([cell.by_seed[seed] for cell in ranked]).mean for seed in sorted(common)}
    return values


def _answer(grid: Grid, place: str, values: Mapping[Row, Mapping[int, float]], columns: list[Column]) -> str:
    unit = next((cell.unit for cell in grid.cells.values() if cell.unit), "")
    parts = [_ranking(grid, place, values, unit, complete=len(columns) == 1)]
    parts += _diverged(grid, columns) + _incomplete(grid, columns, values)
    return " ".join(parts)


def _ranking(grid: Grid, place: str, values: Mapping[Row, Mapping[int, float]], unit: str, *, complete: bool) -> str:
    ordered = sorted(values, key=lambda row: -sign(grid.metric) * summarise(list(values[row].values())).mean)
    if not ordered:
        return f"{place}: no norm has a finished run{'' if complete else ' in every column'} yet."
    if len(ordered) == 1:
        alone = "has been run" if complete else "is complete"
        return (
            f"{place}, only {_with_value(ordered[0], values, unit)} {alone}: there is nothing to compare it with yet."
        )
    first, second, *others = ordered
    direction = sign(grid.metric)
    difference = compare(values[first], values[second])
    text = (
        f"{place}, {first.label} came first: {_value(values[first], unit, what=grid.metric)}; "
        f"then {_with_value(second, values, unit)}; {_verdict(difference, unit, direction)}"
    )
    close = [row.label for row in others if _settled(compare(values[first], values[row]), direction) is False]
    if close:
        text += f" Also inside seed noise of {first.label}: {listed(close)}."
    return text


def _with_value(row: Row, values: Mapping[Row, Mapping[int, float]], unit: str) -> str:
    return f"{row.label} {_value(values[row], unit)}"


def _value(by_seed: Mapping[int, float], unit: str, *, what: str = "") -> str:
    summary = summarise(list(by_seed.values()))
    spread = f" ± {number(summary.deviation, unit, digits=1)}" if summary.deviation is not None else ""
    name = f" {metric_name(what)}" if what else ""
    return f"{with_unit(number(summary.mean, unit, digits=1) + spread, unit)}{name} ({seeds(summary.n)})"


def _settled(difference: Difference, direction: float) -> bool | None:
    """Whether the seeds settle that the first is better. None: too few seeds to say."""
    return None if difference.decided is None else difference.decided and direction * difference.mean > 0


def _verdict(difference: Difference, unit: str, direction: float) -> str:
    if difference.low is None or difference.high is None:
        return "one seed decides nothing, so run more seeds before you choose."
    if direction * difference.mean < 0:
        return "on the seeds that both ran the order is the other way round, so this decides nothing."
    size = number(abs(difference.mean), unit)
    low, high = (signed(bound, unit) for bound in (difference.low, difference.high))
    where = "outside" if _settled(difference, direction) else "inside"
    return f"the difference of {size} is {where} seed noise (95 % interval {low} to {high})."


def _paper_first(grid: Grid, columns: list[Column]) -> str:
    """Name the norm that came first in the paper, in the same columns and among the same norms."""
    means = {}
    for row in grid.rows:
        cells = [grid.cells.get((row, column)) for column in columns]
        values = [cell.paper.number for cell in cells if cell and cell.paper]
        numbers = [value for value in values if value is not None]
        if len(numbers) == len(columns):
            means[row.label] = summarise(numbers).mean
    if len(means) < 2:
        return ""
    first = max(means, key=lambda label: means[label])
    return f" In the paper, {first} came first of these norms ({means[first]:.1f} %)."


def _diverged(grid: Grid, columns: list[Column]) -> list[str]:
    sentences = []
    for row in grid.rows:
        cells: list[Cell] = [grid.cells[row, column] for column in columns if (row, column) in grid.cells]
        lost, total = sum(cell.num_diverged for cell in cells), sum(len(cell.runs) for cell in cells)
        if lost:
            sentences.append(f"{row.label} diverged in {lost} of {plural(total, 'run')} and is not ranked.")
    return sentences


def _incomplete(grid: Grid, columns: list[Column], values: Mapping[Row, object]) -> list[str]:
    """Name the norms that miss a column, so that nobody takes their absence for a bad place."""
    absent = [
        row.label
        for row in grid.rows
        if row not in values
        and not any(grid.cells[row, column].num_diverged for column in columns if (row, column) in grid.cells)
    ]
    if not absent or len(absent) == len(grid.rows):
        return []
    return [f"Not ranked, because {'runs are' if len(absent) > 1 else 'a run is'} missing: {listed(absent)}."]
