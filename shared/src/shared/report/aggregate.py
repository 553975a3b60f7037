"""From the runs of an experiment to the cells of its tables.

A cell holds one value per seed: re-runs of a seed with the same code are averaged first, so that they do not pose as
new evidence; of several commits, or other changes of the code, only the newest is there.
Diverged runs are counted, never averaged, and a norm with one is not ranked.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shared.report.experiments import Experiment
from shared.report.items import Items, ItemTable, item_table
from shared.report.paper import PaperEntry, paper_entry
from shared.report.records import PaperReference, Record, lost_as
from shared.report.statistics import Summary, summarise
from shared.report.wording import measure_name, plural, shortened

MAX_NAMED = 6


@dataclass(frozen=True)
class PaperNumber:
    """The paper's number of a cell.

    Args:
        entry: What is printed.
        table: Number of the paper's table.
        comparable: Whether our difference to it means anything.
        why: Reason when it does not.
    """

    entry: PaperEntry
    table: int
    comparable: bool
    why: str

    @property
    def number(self) -> float | None:
        """The number in %; None where the paper's training diverged."""
        return self.entry.value if isinstance(self.entry.value, float) else None


@dataclass(frozen=True)
class Cell:
    """Runs of one norm in one column.

    Args:
        by_seed: Value by seed, of the finished runs; the mean of a seed's re-runs.
        runs: Names of the runs, diverged ones included.
        num_diverged: How many of them came to no numbers: diverged, or degenerate.
        num_groups: G of the runs; None without groups.
        unit: Unit of the values.
        intervals: By seed, the 95 % interval over the test items, where the record has one; none for a mean.
        sampling_error: Standard error of the mean over the draw of the test items, as for one run, because all
            seeds see the same items. None: unknown.
        paper: The paper's number; None where the runs name none.
        items: Values by seed and item. None: unknown, or the runs did not see the same items.
        lost_as: How those that came to no numbers ended, as `records.lost_as` says.
        superseded: Runs that are left out, because their seed ran again with other code.
        num_reruns: By seed, of how many runs its value is the mean; only seeds with several.
    """

    by_seed: Mapping[int, float]
    runs: tuple[str, ...]
    num_diverged: int
    num_groups: int | None
    unit: str
    intervals: Mapping[int, tuple[float, float]]
    sampling_error: float | None
    paper: PaperNumber | None
    items: ItemTable | None
    lost_as: str = "diverged"
    superseded: tuple[Record, ...] = ()
    num_reruns: Mapping[int, int] = field(default_factory=dict)

    @property
    def summary(self) -> Summary | None:
        """Mean and spread over seeds; None where no run finished."""
        return summarise(list(self.by_seed.values())) if self.by_seed else None

    @property
    def ranked(self) -> bool:
        """Whether the cell may be called best: it has a value and no diverged run."""
        return bool(self.by_seed) and not self.num_diverged


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Args:
        norm: Registry name or import path.
        label: What the reader sees.
    """

    norm: str
    label: str


@dataclass(frozen=True)
class Grid:
    """One table of an experiment.

    Args:
        metric: What is measured: a name in the records; of a table of several metrics, a name of its own.
        name: The same in words.
        column_name: What the columns vary, e.g. "batch size".
        rows: Norms.
        columns: Values of the column axis; None where it is unknown.
        cells: Only where there is a run or a number of the paper.
        by_column: Where each column is a metric of its own, the one-column table of each; else empty.
        remarks: What else a reader has to know, to stand below the table.
    """

    metric: str
    name: str
    column_name: str
    rows: tuple[Row, ...]
    columns: tuple[int | str | None, ...]
    cells: Mapping[tuple[Row, int | str | None], Cell]
    by_column: Mapping[int | str | None, "Grid"] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple["Grid", ...]:
        """The tables of one metric each that this one is made of; itself where it has one metric."""
        return tuple(self.by_column.values()) or (self,)


def sign(metric: str) -> float:
    """+1 where a larger value is better, −1 for losses, errors and distances."""
    words = metric.lower().replace("/", "_").split("_")
    return -1.0 if {"loss", "error", "distance", "perplexity", "ece", "nll"} & set(words) else 1.0


def norm_labels(norms: set[str]) -> dict[str, str]:
    """Order norms as in the registry, norms from outside after them by name.

    Args:
        norms: Names found in records.

    Returns:
        What the reader sees, by name.
    """
    from norm_layers.registry import NORMS

    known = {name: spec.label for name, spec in NORMS.items() if name in norms}
    outside = sorted(norms - known.keys())
    short = [name.rpartition(":")[2] for name in outside]
    taken = {*known.values(), *(label for label in short if short.count(label) > 1), ""}
    return known | {name: name if label in taken else label for name, label in zip(outside, short, strict=True)}


def compared_metrics(experiment: Experiment) -> list[str]:
    """The headline, then every other metric that stands beside a number of the paper."""
    referenced = [reference.record_metric for record in experiment.records for reference in record.paper]
    present = {name for record in experiment.records for name in record.metrics}
    return list(dict.fromkeys([experiment.first.headline, *(name for name in referenced if name in present)]))


def batch_size_grid(experiment: Experiment, metric: str) -> Grid:
    """Norms by batch size. Where a norm has several G at a batch size, the default G stands here.

    Args:
        experiment: The runs.
        metric: Name of the metric.

    Returns:
        The table, largest batch size first.
    """
    runs: dict[tuple[str, int | None], list[Record]] = defaultdict(list)
    for record in experiment.records:
        runs[record.norm, record.batch_size].append(record)
    labels = norm_labels({norm for norm, _ in runs})
    rows = tuple(Row(norm, label) for norm, label in labels.items())
    columns = tuple(sorted({size for _, size in runs}, key=lambda size: -(size or 0)))
    references = _references_by_column(experiment, metric)
    cells: dict[tuple[Row, int | str | None], Cell] = {}
    for row in rows:
        for column in columns:
            members = _of_one_group_number(runs[row.norm, column])
            reference = reference_of(members, metric) or references.get(column)
            if members or reference:
                paper = _paper_number(row.norm, reference, members)
                cells[row, column] = _cell(members, metric, paper, experiment.superseded)
    return Grid(metric, metric_words(experiment, metric), "batch size", rows, columns, cells)


def group_number_grid(experiment: Experiment, metric: str) -> Grid | None:
    """The G sweep: one row per norm and batch size that was run with several G, one column per G.

    Args:
        experiment: The runs.
        metric: Name of the metric.

    Returns:
        The table, largest G first; None where no norm was run with several G.
    """
    runs: dict[tuple[str, int | None], dict[int, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in experiment.records:
        if record.num_groups is not None:
            runs[record.norm, record.batch_size][record.num_groups].append(record)
    swept = {key: by_groups for key, by_groups in runs.items() if len(by_groups) > 1}
    if not swept:
        return None
    cells: dict[tuple[Row, int | str | None], Cell] = {}
    labels = norm_labels({norm for norm, _ in swept})
    rows = []
    for norm, label in labels.items():
        for size in sorted({size for name, size in swept if name == norm}, key=lambda size: -(size or 0)):
            row = Row(norm, f"{label}, batch size {size}")
            rows.append(row)
            for groups, members in swept[norm, size].items():
                paper = _paper_number(norm, reference_of(members, metric), members)
                cells[row, groups] = _cell(members, metric, paper, experiment.superseded)
    columns = tuple(sorted({groups for by_groups in swept.values() for groups in by_groups}, reverse=True))
    name = metric_words(experiment, metric)
    return Grid(metric, name, "number of groups G", tuple(rows), columns, cells)


def unshown(records: Sequence[Record], grids: Sequence[Grid]) -> list[str]:
    """Name the runs that are in no cell, which is for their number of groups: a cell has runs of one.

    Args:
        records: Runs of the tables.
        grids: The tables.

    Returns:
        A sentence; none where each run is in a cell.
    """
    shown = {run for grid in grids for cell in grid.cells.values() for run in cell.runs}
    hidden = [record for record in records if record.run not in shown]
    if not hidden:
        return []
    groups: dict[str, list[str]] = defaultdict(list)
    labels = norm_labels({record.norm for record in records})
    for record in hidden:
        number = "no G recorded" if record.num_groups is None else f"G = {record.num_groups}"
        groups[f"{labels[record.norm]} with {number}"].append(record.run)
    listing = "; ".join(f"{name} ({shortened(runs, MAX_NAMED, 'run')})" for name, runs in groups.items())
    verb = "is" if len(hidden) == 1 else "are"
    return [f"{plural(len(hidden), 'run')} {verb} not shown, because a cell has runs of one G only: {listing}."]


def _of_one_group_number(members: Sequence[Record]) -> list[Record]:
    """Keep the runs of one G: the default's, else the G with most runs, else the smallest. Scores play no part."""
    by_groups: dict[int | None, list[Record]] = defaultdict(list)
    for record in members:
        by_groups[record.num_groups].append(record)
    if len(by_groups) < 2:
        return list(members)
    default = _default_groups(members[0])
    return min(by_groups.items(), key=lambda item: (item[0] != default, -len(item[1]), item[0] or 0))[1]


def _default_groups(record: Record) -> int | None:
    """Return the G that the run's task gives its norm: the record's, or Table 2's where an old record has none."""
    if "default_num_groups" in record.raw:
        return record.raw["default_num_groups"]
    from norm_layers.registry import NORMS, default_num_groups

    known = record.norm in NORMS and bool(record.batch_size)
    return default_num_groups(record.norm, batch_size=record.batch_size) if known else None


def _cell(members: Sequence[Record], metric: str, paper: PaperNumber | None, superseded: Sequence[Record]) -> Cell:
    values: dict[int, list[float]] = defaultdict(list)
    intervals: dict[int, tuple[float, float]] = {}
    errors: list[float | None] = []
    items: list[tuple[int, Items | None]] = []
    unit = ""
    for record in members:
        if record.done and metric in record.metrics:
            measured = record.metrics[metric]
            values[record.seed].append(measured.value)
            unit = measured.unit
            errors.append(measured.sampling_error)
            items.append((record.seed, record.items.get(metric)))
            if measured.ci95:
                intervals[record.seed] = measured.ci95
    num_reruns = {seed: len(several) for seed, several in values.items() if len(several) > 1}
    return Cell(
        by_seed={seed: summarise(values[seed]).mean for seed in sorted(values)},
        runs=tuple(record.run for record in members),
        num_diverged=sum(not record.done for record in members),
        num_groups=members[0].num_groups if members else None,
        unit=unit,
        intervals={seed: interval for seed, interval in intervals.items() if seed not in num_reruns},
        sampling_error=mean_error(errors),
        paper=paper,
        items=item_table(items),
        lost_as=lost_as(members),
        superseded=tuple(
            record
            for record in superseded
            if members
            and (record.norm, record.batch_size, record.num_groups)
            == (members[0].norm, members[0].batch_size, members[0].num_groups)
        ),
        num_reruns=num_reruns,
    )


def mean_error(errors: Sequence[float | None]) -> float | None:
    """Mean of standard errors that go together, which bounds the error of the mean; None where one is unknown."""
    known = [error for error in errors if error is not None]
    return summarise(known).mean if known and len(known) == len(errors) else None


def metric_words(experiment: Experiment, metric: str) -> str:
    """Write a metric's name, with what the paper's setting beside it adds, such as the number of ways.

    Args:
        experiment: The runs.
        metric: Name of the metric; variants such as `test/robust_top1_last` have the setting of their metric.

    Returns:
        The words.
    """
    reference = reference_of(experiment.records, metric)
    reference = reference or reference_of(experiment.records, re.sub(r"_(last|best)$", "", metric))
    return measure_name(metric, reference.setting if reference else {})


def reference_of(members: Sequence[Record], metric: str) -> PaperReference | None:
    """The first number of the paper that runs name for a metric; None where they name none."""
    matches = (entry for record in members for entry in record.paper if entry.record_metric == metric)
    return next(matches, None)


def _references_by_column(experiment: Experiment, metric: str) -> dict[int | None, PaperReference]:
    """What the runs of each column are compared with, so that a norm that was not run can show the paper's number."""
    references: dict[int | None, PaperReference] = {}
    for record in experiment.records:
        for entry in record.paper:
            if entry.record_metric == metric and "num_groups" not in entry.setting:
                references.setdefault(record.batch_size, entry)
    return references


def reference_problems(records: Sequence[Record]) -> list[str]:
    """Say which references to the paper name no table, metric or cell; each distinct one once."""
    references = {(entry.table, entry.metric, tuple(sorted(entry.setting.items())))
                  for record in records for entry in record.paper}  # fmt: skip
    problems = []
    for table, metric, setting in sorted(references, key=str):
        try:
            paper_entry(table=table, norm="bgn", setting=dict(setting), metric=metric)
        except ValueError as error:
            problems.append(f"a run names a number of the paper that cannot be looked up: {error}")
    return problems


def _paper_number(norm: str, reference: PaperReference | None, members: Sequence[Record]) -> PaperNumber | None:
    if reference is None:
        return None
    try:
        entry = paper_entry(table=reference.table, norm=norm, setting=reference.setting, metric=reference.metric)
    except ValueError:
        return None
    comparable = reference.comparable and bool(members)
    return PaperNumber(entry, reference.table, comparable, reference.why) if entry else None
