"""Which norm of a table is ahead, and whether seeds and test items could explain its lead."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from shared.report.aggregate import Grid, Row, mean_error, sign
from shared.report.items import ItemTable, mean_table, same_items
from shared.report.records import STATUSES, lost_verb
from shared.report.statistics import Difference, Summary, compare, summarise

Column = int | str | None
TIE = 1e-9  # numbers that differ by less are one number, calculated in another order


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


@dataclass(frozen=True)
class Lost:
    """A norm that cannot be ranked, because some of its runs came to no number.

    Args:
        row: The norm.
        how: How those ended: "diverged", "degenerate", or both.
        num_lost: Number of these runs.
        num_runs: Number of all its runs.
    """

    row: Row
    how: str
    num_lost: int
    num_runs: int

    @property
    def verb(self) -> str:
        """What the norm did, as a verb: "diverged", or "was degenerate"."""
        return lost_verb(self.how)


def shared_columns(grid: Grid, columns: Sequence[Column]) -> list[Column]:
    """Choose the columns over which the norms of a table can be compared. Scores play no part.

    A norm covers a set of columns where one of its seeds finished in all of them, or a run of it was lost in one.

    Args:
        grid: The table.
        columns: The columns to choose from.

    Returns:
        Of the sets that more than half of the norms cover, the one with most runs that are compared; otherwise the
        one that most norms cover, if two do, or the only one there is. In the order given. All columns where no two
        norms share one.
    """
    covered = {row: sets for row in grid.rows if (sets := _coverage(grid, row, columns))}
    candidates = {each for sets in covered.values() for each in sets} | {frozenset([column]) for column in columns}
    for _ in range(2):
        candidates |= {first & second for first in candidates for second in candidates}
    best: tuple[tuple[int, ...], list[Column]] | None = None
    for chosen in candidates - {frozenset()}:
        rows = [row for row, sets in covered.items() if any(chosen <= each for each in sets)]
        if not rows or len(rows) < min(2, len(covered)):
            continue
        num_runs = sum(_num_compared(grid, row, chosen) for row in rows)
        share = 0 if 2 * len(rows) > len(covered) else len(rows) - len(covered)
        ordered = [column for column in columns if column in chosen]
        key = (share, num_runs, len(rows), *(-columns.index(column) for column in ordered))
        if best is None or key > best[0]:
            best = (key, ordered)
    return best[1] if best else list(columns)


def _coverage(grid: Grid, row: Row, columns: Iterable[Column]) -> list[frozenset[Column]]:
    """The largest sets of columns that a norm covers, one a seed; one where runs were lost is in each of them."""
    cells = {column: grid.cells[row, column] for column in columns if (row, column) in grid.cells}
    lost = frozenset(column for column, cell in cells.items() if cell.num_diverged)
    seeds = {seed for cell in cells.values() for seed in cell.by_seed}
    found = [lost.union(column for column, cell in cells.items() if seed in cell.by_seed) for seed in sorted(seeds)]
    return found or ([lost] if lost else [])


def _num_compared(grid: Grid, row: Row, columns: Iterable[Column]) -> int:
    """Number of a norm's runs that a comparison over these columns uses; a lost one tells something, too."""
    cells = [grid.cells[row, column] for column in columns]
    if any(cell.num_diverged for cell in cells):
        return sum(len(cell.runs) for cell in cells)
    return len(cells) * len(set.intersection(*(set(cell.by_seed) for cell in cells)))


def lost_norms(grid: Grid, columns: Sequence[Column]) -> list[Lost]:
    """List the norms of which a run in these columns came to no number.

    Args:
        grid: The table.
        columns: The columns.

    Returns:
        In the order of the table.
    """
    found = []
    for row in grid.rows:
        cells = [grid.cells[row, column] for column in columns if (row, column) in grid.cells]
        num_lost = sum(cell.num_diverged for cell in cells)
        if num_lost:
            ends = {cell.lost_as for cell in cells if cell.num_diverged}
            how = " or ".join(status for status in STATUSES if any(status in end for end in ends))
            found.append(Lost(row, how, num_lost, sum(len(cell.runs) for cell in cells)))
    return found


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
    if len(ranked) < 2 or abs(ranked[0].summary.mean - ranked[1].summary.mean) < TIE:
        return None
    lead = difference(ranked[0], ranked[1])
    return Leader(ranked[0].row, decided=bool(settled(lead, direction=sign(grid.metric))))
