"""Which norm of a table is ahead, and whether seeds and test items could explain its lead."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.report.aggregate import Grid, Row, mean_error, sign
from shared.report.items import ItemTable, mean_table, same_items
from shared.report.statistics import Difference, Summary, compare, summarise

Column = int | str | None


@dataclass(frozen=True)
class Standing:
    """A norm that can be ranked.

    Args:
        row: The norm.
        by_seed: Value by seed: the mean over the columns, for the seeds that finished in all of them.
        sampling_error: Standard error of the mean over the draw of the test items. None: unknown.
        items: The same values item by item. None: unknown, or not the same items in each column.
    """

    row: Row
    by_seed: Mapping[int, float]
    sampling_error: float | None
    items: ItemTable | None

    @property
    def summary(self) -> Summary:
        """Mean and spread over seeds."""
        return summarise(list(self.by_seed.values()))


@dataclass(frozen=True)
class Leader:
    """The norm with the best mean of a column.

    Args:
        row: The norm.
        decided: Whether it is ahead of the second by more than the noise.
    """

    row: Row
    decided: bool


def standings(grid: Grid, columns: Sequence[Column]) -> list[Standing]:
    """Rank the norms of a table by their mean over columns.

    Args:
        grid: The table.
        columns: The columns; a norm that misses one, or diverged in one, is not ranked.

    Returns:
        The norms, best first.
    """
    ranked = []
    for row in grid.rows:
        cells = [grid.cells[row, column] for column in columns if (row, column) in grid.cells]
        if len(cells) < len(columns) or not all(cell.ranked for cell in cells):
            continue
        common = set.intersection(*(set(cell.by_seed) for cell in cells))
        if common:
            by_seed = {seed: summarise([cell.by_seed[seed] for cell in cells]).mean for seed in sorted(common)}
            error = mean_error([cell.sampling_error for cell in cells])
            items = mean_table([cell.items for cell in cells], list(by_seed))
            ranked.append(Standing(row, by_seed, error, items))
    direction = sign(grid.metric)
    return sorted(ranked, key=lambda standing: -direction * standing.summary.mean)


def difference(first: Standing, second: Standing) -> Difference:
    """Compare two norms.

    Args:
        first: A norm.
        second: Another.

    Returns:
        First minus second, item by item where both were tested on the same items. Otherwise the error of the test
        set is taken in where both norms know theirs.
    """
    if first.items and second.items and same_items(first.items, second.items):
        return compare(first.by_seed, second.by_seed, items=(first.items.by_seed, second.items.by_seed))
    errors = [error for error in (first.sampling_error, second.sampling_error) if error is not None]
    return compare(first.by_seed, second.by_seed, sampling=math.hypot(*errors) if len(errors) == 2 else None)


def settled(lead: Difference, *, direction: float) -> bool | None:
    """Say whether a lead is decided.

    Args:
        lead: Difference of the norm ahead and another.
        direction: +1 where a larger value is better, −1 where a smaller one is.

    Returns:
        Whether the first is better by more than the noise. None: the noise is unknown.
    """
    return None if lead.decided is None else lead.decided and direction * lead.mean > 0


def leader(grid: Grid, column: Column) -> Leader | None:
    """Find the norm with the best mean of a column.

    Args:
        grid: The table.
        column: Column value.

    Returns:
        The norm. None: fewer than two can be ranked, or the first two tie.
    """
    ranked = standings(grid, [column])
    if len(ranked) < 2 or ranked[0].summary.mean == ranked[1].summary.mean:
        return None
    lead = difference(ranked[0], ranked[1])
    return Leader(ranked[0].row, decided=bool(settled(lead, direction=sign(grid.metric))))
