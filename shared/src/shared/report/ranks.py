"""The norms' ranks over tasks, with the critical difference of the Nemenyi test.

Each task counts once, whatever its number of runs; a rank tells the order within a task and not by how much.

Source: J. Demšar, Statistical comparisons of classifiers over multiple data sets, JMLR 7, 2006.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from statistics import NormalDist

from shared.report.aggregate import Grid, Row, sign
from shared.report.ranking import Standing, standings
from shared.report.sections import MEAN, Section

LEVEL = 0.95
MAX_SUMMARIES = 3
TIE = 1e-9


@dataclass(frozen=True)
class TaskRanks:
    """The order of the norms in one task.

    Args:
        section: Where the numbers are from.
        means: Headline number by norm: the mean over the columns of the section's table.
        ranks: 1 for the best; norms with equal numbers share the mean of their ranks.
        unit: Unit of the means.
    """

    section: Section
    means: Mapping[str, float]
    ranks: Mapping[str, float]
    unit: str


@dataclass(frozen=True)
class RankSummary:
    """Ranks of the same norms over several tasks.

    Args:
        rows: The norms, the best mean rank first.
        tasks: One entry a task.
        mean_ranks: By norm.
        critical_difference: Two mean ranks that differ by less could be the same, at 95 %.
    """

    rows: tuple[Row, ...]
    tasks: tuple[TaskRanks, ...]
    mean_ranks: Mapping[str, float]
    critical_difference: float

    @property
    def cliques(self) -> list[tuple[Row, ...]]:
        """The largest sets of neighbouring norms whose mean ranks differ by less than the critical difference."""
        found: list[tuple[Row, ...]] = []
        for start, row in enumerate(self.rows):
            first = self.mean_ranks[row.norm]
            close = [other for other in self.rows[start:] if self.mean_ranks[other.norm] - first <
                     self.critical_difference]  # fmt: skip
            if len(close) > 1 and not (found and found[-1][-1] == close[-1]):
                found.append(tuple(close))
        return found


def rank_summaries(sections: Sequence[Section]) -> list[RankSummary]:
    """Rank the norms over the tasks.

    A task is represented by its experiment that ranked all these norms and has most runs; scores play no part in the
    choice. Controls take no part.

    Args:
        sections: The report's.

    Returns:
        One summary for each number of tasks, with the largest set of norms that so many tasks have run: most tasks
        first, at most `MAX_SUMMARIES`. Empty where no two norms were run in two tasks.
    """
    candidates = [(section, ranked) for section in sections if (ranked := _standings(section))]
    sets = {frozenset(ranked) for _, ranked in candidates}
    sets |= {first & second for first, second in combinations(sorted(sets, key=sorted), 2)}
    sets |= {first & second for first, second in combinations(sorted(sets, key=sorted), 2)}
    best: dict[int, frozenset[str]] = {}
    for norms in sorted((each for each in sets if len(each) > 1), key=lambda each: (-len(each), sorted(each))):
        num_tasks = len({section.experiments[0].first.task for section, ranked in candidates if norms <= set(ranked)})
        if num_tasks > 1:
            best.setdefault(num_tasks, norms)
    chosen, largest = [], 0
    for num_tasks in sorted(best, reverse=True):
        if len(best[num_tasks]) > largest:
            largest = len(best[num_tasks])
            chosen.append(_summary(best[num_tasks], candidates))
    return chosen[:MAX_SUMMARIES]


def _standings(section: Section) -> dict[str, Standing]:
    """Return the ranked norms of a section's headline table."""
    if section.is_control:
        return {}
    grid = headline_grid(section)
    ranked = standings(grid, [column for column in grid.columns if column != MEAN])
    return {standing.row.norm: standing for standing in ranked}


def headline_grid(section: Section) -> Grid:
    """Return the table of a section's headline metric."""
    headline = section.experiments[0].first.headline
    return min(section.grids[0].parts, key=lambda part: part.metric != headline)


def _summary(norms: frozenset[str], candidates: Sequence[tuple[Section, Mapping[str, Standing]]]) -> RankSummary:
    by_task: dict[str, tuple[Section, Mapping[str, Standing]]] = {}
    for section, ranked in candidates:
        task = section.experiments[0].first.task
        if norms <= set(ranked) and (task not in by_task or len(section.records) > len(by_task[task][0].records)):
            by_task[task] = (section, ranked)
    tasks = tuple(_task_ranks(section, {norm: ranked[norm] for norm in norms}) for section, ranked in by_task.values())
    mean_ranks = {norm: math.fsum(task.ranks[norm] for task in tasks) / len(tasks) for norm in norms}
    labels = {norm: next(iter(by_task.values()))[1][norm].row for norm in norms}
    rows = tuple(labels[norm] for norm in sorted(norms, key=lambda norm: (mean_ranks[norm], norm)))
    return RankSummary(rows, tasks, mean_ranks, critical_difference(len(norms), len(tasks)))


def _task_ranks(section: Section, ranked: Mapping[str, Standing]) -> TaskRanks:
    grid = headline_grid(section)
    unit = next((cell.unit for cell in grid.cells.values() if cell.unit), "")
    means = {norm: standing.summary.mean for norm, standing in sorted(ranked.items())}
    return TaskRanks(section, means, ranks_of(means, direction=sign(grid.metric)), unit)


def ranks_of(values: Mapping[str, float], *, direction: float) -> dict[str, float]:
    """Rank values, 1 for the best; equal ones share the mean of their ranks.

    Args:
        values: By name.
        direction: +1 where a larger value is better, −1 where a smaller one is.
    """
    return {
        name: 0.5 * (1 + sum(direction * (other - value) > TIE for other in values.values())
                     + sum(direction * (other - value) >= -TIE for other in values.values()))
        for name, value in values.items()
    }  # fmt: skip


def critical_difference(num_norms: int, num_tasks: int) -> float:
    r"""Return the critical difference of two mean ranks.

    .. math:: CD = \frac{q}{\sqrt 2} \sqrt{\frac{k (k + 1)}{6 N}}

    Args:
        num_norms: k, at least 2.
        num_tasks: N, at least 1.

    Returns:
        CD, with q the 95 % quantile of the range of k standard normal variables.

    Source: Demšar 2006, section 3.2.2.
    """
    return range_quantile(num_norms) / math.sqrt(2) * math.sqrt(num_norms * (num_norms + 1) / (6 * num_tasks))


@cache
def range_quantile(k: int, *, level: float = LEVEL) -> float:
    r"""Return the quantile of the range of k independent standard normal variables, found by bisection.

    .. math:: P(R \le q) = k \int \varphi(z) [\Phi(z) - \Phi(z - q)]^{k-1} dz

    Args:
        k: Number of variables, at least 2.
        level: Probability, in (0, 1).
    """
    low, high = 0.0, 20.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (middle, high) if _range_probability(middle, k) < level else (low, middle)
    return high


def _range_probability(q: float, k: int) -> float:
    normal, step = NormalDist(), 0.02
    points = (-8 + step * index for index in range(801))
    return k * step * math.fsum(normal.pdf(z) * (normal.cdf(z) - normal.cdf(z - q)) ** (k - 1) for z in points)
