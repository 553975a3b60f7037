"""Profiles of a section: one table per profile and column, mean and spread over seeds, point by point."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shared.report.aggregate import Row
from shared.report.profiles import Profile
from shared.report.ranking import Column
from shared.report.records import Record, lost_as
from shared.report.sections import MEAN, Section
from shared.report.statistics import Summary, summarise


@dataclass(frozen=True)
class ProfileTable:
    """A profile of the norms of one column.

    Args:
        name: Its name in the records.
        title: What is shown.
        x: What is varied, with its unit.
        unit: Unit of the values; empty where they have none.
        xs: The settings at which it was measured, increasing.
        column_name: What the columns of the section vary.
        column: The column; None where it is unknown.
        several: Whether the section has other columns too.
        rows: The norms of the section, with a profile or without.
        by_seed: Values by seed, at each x; re-runs of a seed are averaged. Only norms that have any.
        runs: Number of runs behind the values, by norm.
        diverged: Number of diverged runs and of all runs of the column, by norm. Only norms that have any.
        left_out: Names of the finished runs that were measured at other points, or under another title or axis.
        lost_as: How the runs without numbers ended, by norm.
    """

    name: str
    title: str
    x: str
    unit: str
    xs: tuple[float, ...]
    column_name: str
    column: Column
    several: bool
    rows: tuple[Row, ...]
    by_seed: Mapping[Row, Mapping[int, tuple[float, ...]]]
    runs: Mapping[Row, int]
    diverged: Mapping[Row, tuple[int, int]]
    left_out: tuple[str, ...]
    lost_as: Mapping[Row, str] = field(default_factory=dict)

    @property
    def heading(self) -> str:
        """The title, with the column where there are several."""
        column = "?" if self.column is None else self.column
        return f"{self.title}, {self.column_name} {column}" if self.several else self.title

    def summaries(self, row: Row) -> list[Summary]:
        """Mean and spread over seeds of a norm at each x; empty where it has no values."""
        return [summarise(values) for values in zip(*self.by_seed.get(row, {}).values(), strict=True)]


def profile_tables(section: Section) -> list[ProfileTable]:
    """Put the profiles of a section's runs together.

    Args:
        section: The section; as in its first table, a norm with several G is shown with one of them.

    Returns:
        A table for each profile and each column in which a finished run has it.
    """
    names = dict.fromkeys(name for record in section.headline_records for name in record.profiles)
    grid = section.grids[0].parts[0]
    columns = [column for column in grid.columns if column != MEAN]
    tables = (_table(section, name, column, several=len(columns) > 1) for name in names for column in columns)
    return [table for table in tables if table]


def _table(section: Section, name: str, column: Column, *, several: bool) -> ProfileTable | None:
    grid = section.grids[0].parts[0]
    records = {record.run: record for record in section.records}
    members = {
        row: [records[run] for run in grid.cells[row, column].runs] for row in grid.rows if (row, column) in grid.cells
    }
    found = [record for several in members.values() for record in several if record.done and name in record.profiles]
    if not found:
        return None
    layout = Counter(record.profiles[name].layout for record in found).most_common(1)[0][0]
    kept = {row: _kept(several, name, layout) for row, several in members.items()}
    lost = {row: sum(not record.done for record in several) for row, several in members.items()}
    title, x, unit, xs = layout
    return ProfileTable(
        name=name,
        title=title,
        x=x,
        unit=unit,
        xs=xs,
        column_name=grid.column_name,
        column=column,
        several=several,
        rows=grid.rows,
        by_seed={row: _by_seed(several, name) for row, several in kept.items() if several},
        runs={row: len(several) for row, several in kept.items() if several},
        diverged={row: (number, len(members[row])) for row, number in lost.items() if number},
        left_out=tuple(record.run for record in found if record.profiles[name].layout != layout),
        lost_as={row: lost_as(several) for row, several in members.items()},
    )


def _kept(records: Sequence[Record], name: str, layout: tuple[object, ...]) -> list[Record]:
    return [
        record
        for record in records
        if record.done and name in record.profiles and record.profiles[name].layout == layout
    ]


def _by_seed(records: Sequence[Record], name: str) -> dict[int, tuple[float, ...]]:
    profiles: dict[int, list[Profile]] = defaultdict(list)
    for record in records:
        profiles[record.seed].append(record.profiles[name])
    return {seed: _mean(profiles[seed]) for seed in sorted(profiles)}


def _mean(profiles: Sequence[Profile]) -> tuple[float, ...]:
    values = ([value for _, value in profile.points] for profile in profiles)
    return tuple(summarise(several).mean for several in zip(*values, strict=True))
