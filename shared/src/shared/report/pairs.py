"""Which norms of a table are compared in pairs, item by item, and with what result."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.report.aggregate import Cell, Grid, Row, batch_size_grid
from shared.report.items import same_items
from shared.report.ranking import Column
from shared.report.records import lost_verb
from shared.report.sections import Section
from shared.report.statistics import compare, compare_items, summarise

UNTRAINED = "_untrained"


@dataclass(frozen=True)
class Comparison:
    """The difference of two cells on the same items.

    Args:
        mean: First minus second, in percentage points.
        margin: Half of the 95 % interval. None: every item gives the same difference.
        decided: Whether the interval leaves zero out. None: there is no interval.
        over_seeds: Whether the interval is over seeds and items. Otherwise it is over the items alone.
        num_seeds: Seeds of the first and of the second.
        paired_seeds: Whether these are the same seeds, compared one by one.
        kind: What an item is, in the plural.
        num_items: Number of items.
    """

    mean: float
    margin: float | None
    decided: bool | None
    over_seeds: bool
    num_seeds: tuple[int, int]
    paired_seeds: bool
    kind: str
    num_items: int


@dataclass(frozen=True)
class PaperDifference:
    """The difference of two numbers of the paper.

    Args:
        value: First minus second, in percentage points.
        table: Number of the paper's table.
        comparable: Whether both stand beside runs that follow the paper.
    """

    value: float
    table: int
    comparable: bool


@dataclass(frozen=True)
class Pair:
    """Two norms of a column.

    Args:
        first: A norm.
        second: The norm that is subtracted.
        comparison: The result. None: they were not compared.
        obstacle: Why not; empty where they were.
        paper: The paper's difference. None: it has not both numbers.
    """

    first: Row
    second: Row
    comparison: Comparison | None
    obstacle: str
    paper: PaperDifference | None


@dataclass(frozen=True)
class PairTable:
    """The pairs of one metric in one column.

    Args:
        grid: The table of the metric.
        column: The column.
        pairs: In the order of the reader.
    """

    grid: Grid
    column: Column
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Gain:
    """What training gained a norm, for each metric of a table.

    Args:
        row: The norm.
        column: Column of the metrics' own tables (the batch size).
        untrained: Mean of the untrained networks, in %. None: unknown.
        comparisons: Trained minus untrained. None: unknown, or not on the same items.
    """

    row: Row
    column: Column
    untrained: tuple[float | None, ...]
    comparisons: tuple[Comparison | None, ...]


def compare_cells(first: Cell, second: Cell) -> Comparison | None:
    """Compare two cells item by item.

    Args:
        first: A cell.
        second: The cell that is subtracted.

    Returns:
        The result; where a norm has one seed it is over the items alone, for the seeds that both have, if any.
        None: the cells were not tested on the same items, or it is not known.
    """
    one, other = first.items, second.items
    if one is None or other is None or not same_items(one, other):
        return None
    items = (one.by_seed, other.by_seed)
    result = compare(first.by_seed, second.by_seed, items=items)
    shared = sorted(first.by_seed.keys() & second.by_seed.keys())
    paired = bool(shared) and (result.paired or result.obstacle == "one seed")
    seeds = (shared, shared) if paired else (sorted(first.by_seed), sorted(second.by_seed))
    mean, margin = result.mean, None if result.high is None else result.high - result.mean
    if result.obstacle == "one seed":
        estimate = compare_items(items, seeds)
        mean, margin = estimate.mean, estimate.margin or None
    return Comparison(
        mean=mean,
        margin=margin,
        decided=None if margin is None else abs(mean) > margin,
        over_seeds=result.obstacle != "one seed",
        num_seeds=(len(seeds[0]), len(seeds[1])),
        paired_seeds=paired,
        kind=one.kind,
        num_items=one.num_items,
    )


def pair_tables(grid: Grid) -> list[PairTable]:
    """Compare the norms of a table in pairs: each minus BN, and BGN minus each.

    Args:
        grid: A table; of one with several metrics, each metric is compared for itself.

    Returns:
        A table of pairs for each metric and column in which two norms have items.
    """
    tables = []
    for part in grid.parts:
        for column in part.columns:
            cells = {row: part.cells[row, column] for row in part.rows if (row, column) in part.cells}
            if sum(cell.items is not None for cell in cells.values()) > 1:
                rows = [row for row, cell in cells.items() if cell.runs]
                pairs = [_pair(first, second, cells[first], cells[second]) for first, second in chosen_pairs(rows)]
                tables.append(PairTable(part, column, tuple(pairs)))
    return tables


def chosen_pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Choose the pairs that matter.

    Args:
        rows: Norms.

    Returns:
        Each norm minus BN, BGN first, then BGN minus each other norm; without both, each minus the first.
    """
    by_norm = {row.norm: row for row in rows}
    bn, bgn = by_norm.get("bn"), by_norm.get("bgn")
    pairs = []
    reference = bn or (None if bgn else rows[0])
    if reference:
        others = sorted((row for row in rows if row != reference), key=lambda row: row != bgn)
        pairs = [(row, reference) for row in others]
    if bgn:
        pairs += [(bgn, row) for row in rows if row not in (bn, bgn)]
    return pairs


def _pair(first: Row, second: Row, one: Cell, other: Cell) -> Pair:
    without = [(row.label, cell.lost_as) for row, cell in ((first, one), (second, other)) if cell.num_diverged]
    words = sorted({lost_verb(how) for _, how in without})
    lost = [label for label, _ in without]
    comparison = None if lost else compare_cells(one, other)
    obstacle = ""
    if lost:
        obstacle = f"not compared, because {' and '.join(lost)} {' or '.join(words)}"
    elif comparison is None:
        kind = next((cell.items.kind for cell in (one, other) if cell.items), "items")
        several = one.items is not None and other.items is not None
        reason = f"not the same {kind}" if several else f"{kind} not recorded, or not the same in all runs"
        obstacle = f"{reason}, so not compared in pairs"
    return Pair(first, second, comparison, obstacle, _paper_difference(one, other))


def _paper_difference(first: Cell, second: Cell) -> PaperDifference | None:
    one, other = first.paper, second.paper
    if one is None or other is None or one.number is None or other.number is None or one.table != other.table:
        return None
    return PaperDifference(one.number - other.number, one.table, one.comparable and other.comparable)


def gains(section: Section, grid: Grid) -> list[Gain]:
    """Compare each norm with its own untrained networks, where the runs have measured these on the same items.

    Args:
        section: The section, for its runs.
        grid: One of its tables.

    Returns:
        One entry per norm and batch size; none for sections of several experiments.
    """
    if len(section.experiments) > 1:
        return []
    before = [batch_size_grid(section.experiments[0], f"{part.metric}{UNTRAINED}") for part in grid.parts]
    found = []
    for row in grid.rows:
        for column in grid.parts[0].columns:
            trained = [part.cells.get((row, column)) for part in grid.parts]
            untrained = [part.cells.get((row, column)) for part in before]
            comparisons = tuple(
                compare_cells(after, first) if after and first else None
                for after, first in zip(trained, untrained, strict=True)
            )
            if any(comparisons):
                means = tuple(summarise(list(cell.by_seed.values())).mean if cell and cell.by_seed else None
                              for cell in untrained)  # fmt: skip
                found.append(Gain(row, column, means, comparisons))
    return found
