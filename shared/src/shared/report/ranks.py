"""The norms' ranks over tasks, with the critical difference of the Nemenyi test; of two norms, of the sign test.

Each task counts once, whatever its number of runs; a rank tells the order within a task and not by how much. A norm
that diverged in a task, or was degenerate, comes last there.

Source: J. Demšar, Statistical comparisons of classifiers over multiple data sets, JMLR 7, 2006.
"""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from statistics import NormalDist

from shared.report.aggregate import Grid, Row, norm_labels, sign
from shared.report.ranking import TIE, Column, Lost, Standing, lost_norms, shared_columns, standings
from shared.report.sections import MEAN, Section

LEVEL = 0.95
MAX_SUMMARIES = 3


@dataclass(frozen=True)
class Candidate:
    """A section that may stand for its task.

    Args:
        section: The section.
        columns: The columns of its headline table that are compared.
        ranked: The norms with a number, by name.
        lost: The norms that came to none, by name.
    """

    section: Section
    columns: tuple[Column, ...]
    ranked: Mapping[str, Standing]
    lost: Mapping[str, Lost]

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.section.experiments[0].first.task

    @property
    def norms(self) -> frozenset[str]:
        """The norms that have a place."""
        return frozenset(self.ranked) | frozenset(self.lost)

    def tells_of(self, norms: Set[str]) -> bool:
        """Whether these norms all have a place, and one of them has a number."""
        return norms <= self.norms and not norms.isdisjoint(self.ranked)

    def weight(self, norms: Set[str], published: Set[str]) -> tuple[int, int]:
        """Count the runs behind these norms' places: the reader's own, and all. Re-runs of a seed are one."""
        grid, records = headline_grid(self.section), {record.run: record for record in self.section.records}
        own, every = set(), set()
        for (row, column), cell in grid.cells.items():
            if row.norm not in norms or column not in self.columns:
                continue
            seeds = self.ranked[row.norm].by_seed if row.norm in self.ranked else None
            for record in (records[run] for run in cell.runs):
                if seeds is None or record.seed in seeds:
                    every.add((row, column, record.seed))
                    own |= {(row, column, record.seed)} if record.run not in published else set()
        return len(own), len(every)


@dataclass(frozen=True)
class TaskRanks:
    """The order of the norms in one task.

    Args:
        section: Where the numbers are from.
        means: Headline number by norm: the mean over the columns; of those that have one.
        num_seeds: Number of seeds behind each mean.
        lost: The others.
        ranks: 1 for the best; norms with equal numbers share the mean of their ranks, and so do lost ones.
        unit: Unit of the means.
        columns: The columns of the means.
        partial: Whether the section's table has others, too.
        rivals: The task's other sections, one of which a reader could take this one for.
        published: Whether no run behind the ranks is the reader's own, while others in the report are.
    """

    section: Section
    means: Mapping[str, float]
    num_seeds: Mapping[str, int]
    lost: Mapping[str, Lost]
    ranks: Mapping[str, float]
    unit: str
    columns: tuple[Column, ...]
    partial: bool
    rivals: tuple[Section, ...]
    published: bool = False


@dataclass(frozen=True)
class RankSummary:
    """Ranks of the same norms over several tasks.

    Args:
        rows: The norms, the best mean rank first.
        tasks: One entry a task.
        mean_ranks: By norm.
        critical_difference: Two mean ranks that differ by less could be the same, at 95 %. Infinite: any could.
        absent: Norms of these tasks' tables that have no place in each of them, as the reader sees them.
        own: Whether runs of the reader's own take part.
    """

    rows: tuple[Row, ...]
    tasks: tuple[TaskRanks, ...]
    mean_ranks: Mapping[str, float]
    critical_difference: float
    absent: tuple[str, ...] = ()
    own: bool = True

    def apart(self, first: Row, second: Row) -> bool:
        """Whether two norms' mean ranks differ by more than chance."""
        gap = abs(self.mean_ranks[first.norm] - self.mean_ranks[second.norm])
        return gap >= self.critical_difference - TIE

    @property
    def cliques(self) -> list[tuple[Row, ...]]:
        """The largest sets of neighbouring norms whose mean ranks differ by less than the critical difference."""
        found: list[tuple[Row, ...]] = []
        for start, row in enumerate(self.rows):
            close = [other for other in self.rows[start:] if not self.apart(row, other)]
            if len(close) > 1 and not (found and found[-1][-1] == close[-1]):
                found.append(tuple(close))
        return found


def rank_summaries(sections: Sequence[Section], *, published: Set[str] = frozenset()) -> list[RankSummary]:
    """Rank the norms over the tasks.

    A task is represented by its experiment in which all these norms have a place: one with the reader's own runs of
    them before a published one, then the one with most runs of them that enter its means; scores play no part in the
    choice. Controls take no part.

    Args:
        sections: The report's.
        published: Names of the runs that came with the suite and are not the reader's.

    Returns:
        One summary for each number of tasks, with the largest set of norms that so many tasks have run: most tasks
        first, at most `MAX_SUMMARIES`. Empty where no two norms were run in two tasks.
    """
    candidates = [each for section in sections if (each := _candidate(section)).ranked]
    sets = {each.norms for each in candidates}
    sets |= {first & second for first, second in combinations(sorted(sets, key=sorted), 2)}
    sets |= {first & second for first, second in combinations(sorted(sets, key=sorted), 2)}
    best: dict[int, frozenset[str]] = {}
    for norms in sorted((each for each in sets if len(each) > 1), key=lambda each: (-len(each), sorted(each))):
        num_tasks = len({each.task for each in candidates if each.tells_of(norms)})
        if num_tasks > 1:
            best.setdefault(num_tasks, norms)
    chosen, largest = [], 0
    for num_tasks in sorted(best, reverse=True):
        if len(best[num_tasks]) > largest:
            largest = len(best[num_tasks])
            chosen.append(_summary(best[num_tasks], candidates, sections, published))
    return chosen[:MAX_SUMMARIES]


def ranks_place(summaries: Sequence[RankSummary], sections: Sequence[Section], published: Set[str]) -> int:
    """Return before which section the ranks stand: the first, or the first published one where they tell of no other.

    Args:
        summaries: The ranks.
        sections: Those with runs of the reader's own first.
        published: Names of the runs that are not the reader's.
    """
    own = any(summary.own for summary in summaries)
    return 0 if own else sum(bool(section.num_own(published)) for section in sections)


def _candidate(section: Section) -> Candidate:
    """Rank the norms of a section's headline table; none of a control."""
    if section.is_control:
        return Candidate(section, (), {}, {})
    grid = headline_grid(section)
    columns = shared_columns(grid, [column for column in grid.columns if column != MEAN])
    ranked = {standing.row.norm: standing for standing in standings(grid, columns)}
    return Candidate(section, tuple(columns), ranked, {lost.row.norm: lost for lost in lost_norms(grid, columns)})


def headline_grid(section: Section) -> Grid:
    """Return the table of a section's headline metric."""
    headline = section.experiments[0].first.headline
    return min(section.grids[0].parts, key=lambda part: part.metric != headline)


def _summary(
    norms: frozenset[str], candidates: Sequence[Candidate], sections: Sequence[Section], published: Set[str]
) -> RankSummary:
    by_task: dict[str, tuple[tuple[int, int], Candidate]] = {}
    for candidate in candidates:
        if candidate.tells_of(norms):
            weight = candidate.weight(norms, published)
            known = by_task.get(candidate.task)
            if known is None or weight > known[0]:
                by_task[candidate.task] = (weight, candidate)
    mixed = any(candidate.section.num_own(published) for candidate in candidates)
    own_runs = any(own for (own, _), _ in by_task.values())
    chosen = [each for _, each in by_task.values()]
    tasks = tuple(
        _task_ranks(each, norms, sections, published=mixed and not own) for (own, _), each in by_task.values()
    )
    mean_ranks = {norm: math.fsum(task.ranks[norm] for task in tasks) / len(tasks) for norm in norms}
    labels = {row.norm: row for row in headline_grid(chosen[0].section).rows}
    rows = tuple(labels[norm] for norm in sorted(norms, key=lambda norm: (mean_ranks[norm], norm)))
    num_ties = sum(len(set(task.ranks.values())) == 1 for task in tasks)
    present = {record.norm for each in chosen for record in each.section.records}
    absent = tuple(label for norm, label in norm_labels(present).items() if norm not in norms)
    critical = critical_difference(len(norms), len(tasks), num_ties=num_ties)
    return RankSummary(rows, tasks, mean_ranks, critical, absent, own_runs)


def _task_ranks(
    candidate: Candidate, norms: frozenset[str], sections: Sequence[Section], *, published: bool
) -> TaskRanks:
    grid = headline_grid(candidate.section)
    ranked = {norm: candidate.ranked[norm].summary for norm in sorted(norms & candidate.ranked.keys())}
    means = {norm: summary.mean for norm, summary in ranked.items()}
    lost = {norm: candidate.lost[norm] for norm in sorted(norms & candidate.lost.keys())}
    last = 0.5 * (len(means) + 1 + len(norms))
    others = (each for each in sections if each is not candidate.section)
    return TaskRanks(
        section=candidate.section,
        means=means,
        num_seeds={norm: summary.n for norm, summary in ranked.items()},
        lost=lost,
        ranks=ranks_of(means, direction=sign(grid.metric)) | dict.fromkeys(lost, last),
        unit=next((cell.unit for cell in grid.cells.values() if cell.unit), ""),
        columns=candidate.columns,
        partial={column for column in grid.columns if column != MEAN} != set(candidate.columns),
        rivals=tuple(each for each in others if each.experiments[0].first.task == candidate.task),
        published=published,
    )


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


def critical_difference(num_norms: int, num_tasks: int, *, num_ties: int = 0) -> float:
    r"""Return the critical difference of two mean ranks.

    .. math:: CD = \frac{q}{\sqrt 2} \sqrt{\frac{k (k + 1)}{6 N}}

    Of two norms the distribution is known exactly, and over few tasks the formula would find differences too often:
    for k = 2 it is the least difference that the two-sided sign test takes for more than chance.

    Args:
        num_norms: k, at least 2.
        num_tasks: N, at least 1.
        num_ties: Number of tasks in which two norms have the same rank; these tell the sign test nothing. Not used
            for k > 2.

    Returns:
        CD, with q the 95 % quantile of the range of k standard normal variables. Infinite where no difference can be
        told from chance: of two norms, over fewer than 6 tasks without ties.

    Source: Demšar 2006, sections 3.1.4 and 3.2.2.
    """
    if num_norms == 2:
        return sign_test_difference(num_tasks - num_ties) / num_tasks
    return range_quantile(num_norms) / math.sqrt(2) * math.sqrt(num_norms * (num_norms + 1) / (6 * num_tasks))


def sign_test_difference(num_tasks: int) -> float:
    r"""Return the least number of wins minus losses that the exact two-sided sign test takes for more than chance.

    .. math:: P(|W - L| \ge d) = 2 \sum_{i \le (n - d) / 2} \binom{n}{i} 2^{-n} \le 0.05

    Args:
        num_tasks: n, tasks without ties.

    Returns:
        d; infinite where even n wins are not enough.
    """
    least, tail = math.inf, 0
    for losses in range((num_tasks + 1) // 2):
        tail += math.comb(num_tasks, losses)
        if 2 * tail > (1 - LEVEL) * 2**num_tasks:
            break
        least = num_tasks - 2 * losses
    return least


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
