"""The sections of a report: one experiment each, or several that are the columns of one table of the paper.

Office-31 is the case for the second kind: each transfer, such as Amazon to DSLR, is an experiment with its own data,
and Table 7 has one column for each and their mean.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from shared.report.aggregate import (
    Cell,
    Grid,
    PaperNumber,
    Row,
    batch_size_grid,
    compared_metrics,
    group_number_grid,
    mean_error,
    norm_labels,
    unshown,
)
from shared.report.experiments import Experiment
from shared.report.headings import distinctions
from shared.report.joint import distinguishing_key, join_metrics, outer_setting, printed_order
from shared.report.methods import is_baseline, method_grids, method_of, without_paper
from shared.report.paper import load_paper_tables, paper_entry
from shared.report.records import PaperReference, Record
from shared.report.statistics import summarise
from shared.report.wording import METHODS, PRETTY, metric_name, pretty, setting_words

MEAN = "mean"


@dataclass(frozen=True)
class Section:
    """One part of the report.

    Args:
        slug: Short unique name, fit for files and anchors.
        experiments: One, or one per column.
        grids: Main tables, the headline metric first.
        sweeps: Tables over the number of groups.
        methods: Table of the norms by the task's methods, this one's and its controls. None: there are no others.
        difference: What parts it from other sections of its task and config; empty where there are none.
    """

    slug: str
    experiments: tuple[Experiment, ...]
    grids: tuple[Grid, ...]
    sweeps: tuple[Grid, ...]
    methods: Grid | None = None
    difference: str = ""

    @property
    def records(self) -> tuple[Record, ...]:
        """All runs that count."""
        return tuple(record for experiment in self.experiments for record in experiment.records)

    @property
    def superseded(self) -> tuple[Record, ...]:
        """The runs that do not, because their seed ran again with other code."""
        return tuple(record for experiment in self.experiments for record in experiment.superseded)

    def num_own(self, published: Set[str]) -> int:
        """Number of runs that are the reader's, and not among the published ones."""
        return sum(record.run not in published for record in (*self.records, *self.superseded))

    @property
    def headline_records(self) -> tuple[Record, ...]:
        """The runs behind the first table; those of other G are in the sweeps."""
        shown = {run for cell in self.grids[0].cells.values() for run in cell.runs}
        return tuple(record for record in self.records if record.run in shown)

    @property
    def heading(self) -> str:
        """Task and config; of a control its method, too; and what parts it from other sections of these."""
        first = self.experiments[0].first
        control = f", {METHODS[str(method_of(first))]}" if self.is_control else ""
        difference = f" ({self.difference})" if self.difference else ""
        return f"{pretty(first.task)}, config {first.config}{control}{difference}"

    @property
    def is_control(self) -> bool:
        """Whether this is what the task's method is compared with, such as training on the source alone."""
        return is_baseline(self.experiments[0])

    @property
    def subject(self) -> str:
        """Data and model in words, such as "10,000 CIFAR-10 images with ResNet-20"; a lone transfer by its name."""
        first = self.experiments[0]
        words = f"{describe_data(self.experiments)} with {pretty(first.first.model)}"
        axes = _column_setting(first).keys() & first.axes.keys() if len(self.experiments) == 1 else ()
        return "".join([words, *(f", {setting_words(key, first.axes[key])}" for key in sorted(axes))])


def own_first(sections: Iterable[Section], published: Set[str]) -> list[Section]:
    """Put the sections with runs of the reader's own before those that hold published ones only."""
    return sorted(sections, key=lambda section: not section.num_own(published))


def describe_data(experiments: Sequence[Experiment]) -> str:
    """Name the data set; with its number of training images where that is not the whole set."""
    dataset = experiments[0].first.dataset
    name = pretty(str(dataset.get("name", "unknown data")))
    counts = {experiment.first.dataset.get("train") for experiment in experiments}
    whole = all(experiment.first.dataset.get("full") is True for experiment in experiments)
    only = counts.pop() if len(counts) == 1 else None
    if isinstance(only, int) and not (whole and dataset.get("name") in PRETTY):
        return f"{only:,} {name} images"
    return name if whole else f"a part of {name}"


def make_sections(experiments: Sequence[Experiment]) -> list[Section]:
    """Put experiments into sections.

    Args:
        experiments: In the order of the report.

    Returns:
        Sections in the same order; each experiment is in exactly one.
    """
    families: dict[str, list[Experiment]] = defaultdict(list)
    for experiment in experiments:
        families[_family(experiment)].append(experiment)
    sections = []
    for family in families.values():
        key = _paper_column(family) if len(family) > 1 else None
        if key:
            sections.append(_section_of_columns(family, key))
        else:
            sections.extend(_section_of_one(experiment) for experiment in family)
    tables = method_grids(experiments)
    differences = distinctions([each.heading for each in sections], [each.experiments for each in sections])
    sections = [replace(each, difference=text) for each, text in zip(sections, differences, strict=True)]
    return [
        _of_control(section)
        if section.is_control
        else replace(section, methods=_first(tables.get(each.slug) for each in section.experiments))
        for section in sections
    ]


def _of_control(section: Section) -> Section:
    """Take the paper's numbers, which are another method's, out of a control's tables."""
    grids, sweeps = (tuple(map(without_paper, several)) for several in (section.grids, section.sweeps))
    return replace(section, grids=grids, sweeps=sweeps)


def _first(grids: Iterable[Grid | None]) -> Grid | None:
    return next((grid for grid in grids if grid), None)


def _family(experiment: Experiment) -> str:
    first = experiment.first
    reference = _headline_reference(experiment)
    shared: list[Any] = [first.task, first.config, first.model, first.dataset.get("name"), first.headline]
    shared += [first.selection, dict(experiment.protocol), experiment.following]
    shared += [reference.table, reference.metric] if reference else [experiment.slug]
    return json.dumps(shared, sort_keys=True, default=str)


def _headline_reference(experiment: Experiment) -> PaperReference | None:
    matches = (
        entry for record in experiment.records for entry in record.paper if entry.record_metric == record.headline
    )
    return next(matches, None)


def _column_setting(experiment: Experiment) -> Mapping[str, int | str]:
    reference = _headline_reference(experiment)
    return outer_setting(reference) if reference else {}


def _paper_column(family: Sequence[Experiment]) -> str | None:
    """The one key of the paper's setting that tells these experiments apart; None where there is no such key."""
    sizes = {record.batch_size for experiment in family for record in experiment.records}
    return distinguishing_key([_column_setting(experiment) for experiment in family]) if len(sizes) == 1 else None


def _section_of_one(experiment: Experiment) -> Section:
    metrics = compared_metrics(experiment)
    sweeps = (group_number_grid(experiment, metric) for metric in metrics)
    return _with_remarks(
        Section(
            slug=experiment.slug,
            experiments=(experiment,),
            grids=join_metrics(experiment, [batch_size_grid(experiment, metric) for metric in metrics]),
            sweeps=tuple(sweep for sweep in sweeps if sweep),
        )
    )


def _section_of_columns(family: Sequence[Experiment], key: str) -> Section:
    reference = _headline_reference(family[0])
    order = printed_order(reference.table, key) if reference else []
    names = {experiment.slug: str(_column_setting(experiment)[key]) for experiment in family}
    ranks = {name: order.index(name) if name in order else len(order) for name in names.values()}
    members = sorted(family, key=lambda experiment: (ranks[names[experiment.slug]], names[experiment.slug]))
    metrics = dict.fromkeys(metric for experiment in members for metric in compared_metrics(experiment))
    columns = {names[experiment.slug]: experiment for experiment in members}
    sweeps = (_sweep_of_columns(columns, key, metric) for metric in metrics)
    return _with_remarks(
        Section(
            slug=f"{members[0].slug}-by-{key}",
            experiments=tuple(members),
            grids=tuple(_grid_of_columns(columns, key, metric) for metric in metrics),
            sweeps=tuple(sweep for sweep in sweeps if sweep),
        )
    )


def _with_remarks(section: Section) -> Section:
    """Name below the first table the runs that are in none."""
    first, *others = section.grids
    remarks = tuple(unshown(section.records, (*section.grids, *section.sweeps)))
    return replace(section, grids=(replace(first, remarks=remarks), *others))


def _sweep_of_columns(columns: Mapping[str, Experiment], key: str, metric: str) -> Grid | None:
    """Put the tables over the number of groups of several columns below each other, a row for each norm and column."""
    found = {name: group_number_grid(experiment, metric) for name, experiment in columns.items()}
    grids = {name: grid for name, grid in found.items() if grid}
    if not grids:
        return None
    cells: dict[tuple[Row, int | str | None], Cell] = {}
    rows = []
    for name, grid in grids.items():
        for row in grid.rows:
            rows.append(Row(row.norm, f"{row.label}, {key} {name}"))
            cells |= {(rows[-1], groups): cell for (other, groups), cell in grid.cells.items() if other == row}
    numbers = {groups for grid in grids.values() for groups in grid.columns if isinstance(groups, int)}
    first = next(iter(grids.values()))
    return replace(first, rows=tuple(rows), columns=tuple(sorted(numbers, reverse=True)), cells=cells)


def _grid_of_columns(columns: Mapping[str, Experiment], key: str, metric: str) -> Grid:
    grids = {name: batch_size_grid(experiment, metric) for name, experiment in columns.items()}
    labels = norm_labels({row.norm for grid in grids.values() for row in grid.rows})
    rows = tuple(Row(norm, label) for norm, label in labels.items())
    cells: dict[tuple[Row, int | str | None], Cell] = {}
    for row in rows:
        for name, grid in grids.items():
            cell = grid.cells.get((row, grid.columns[0]))
            if cell:
                cells[row, name] = cell
        present = [cells[row, name] for name in grids if (row, name) in cells]
        if len(present) == len(grids):
            cells[row, MEAN] = _mean_cell(row, present, columns, key, metric)
    shown = (*grids, MEAN) if any((row, MEAN) in cells for row in rows) else tuple(grids)
    return Grid(metric, metric_name(metric), key, rows, shown, cells)


def _mean_cell(row: Row, cells: Sequence[Cell], columns: Mapping[str, Experiment], key: str, metric: str) -> Cell:
    """Mean over the columns, seed by seed, for the seeds that finished in each column."""
    seeds = set.intersection(*(set(cell.by_seed) for cell in cells))
    return Cell(
        by_seed={seed: summarise([cell.by_seed[seed] for cell in cells]).mean for seed in sorted(seeds)},
        runs=tuple(run for cell in cells for run in cell.runs),
        num_diverged=sum(cell.num_diverged for cell in cells),
        num_groups=None,
        unit=next((cell.unit for cell in cells if cell.unit), ""),
        intervals={},
        sampling_error=mean_error([cell.sampling_error for cell in cells]),
        paper=_paper_mean(row, columns, key, metric),
        items=None,
        lost_as=next((cell.lost_as for cell in cells if cell.num_diverged), "diverged"),
    )


def _paper_mean(row: Row, columns: Mapping[str, Experiment], key: str, metric: str) -> PaperNumber | None:
    """The paper's own mean, where its table has one and we have all of its columns."""
    references = [
        next((entry for record in experiment.records for entry in record.paper if entry.record_metric == metric), None)
        for experiment in columns.values()
    ]
    first = references[0]
    if first is None or None in references or first.table not in load_paper_tables():
        return None
    entries = load_paper_tables()[first.table].entries
    wanted = {str(entry.setting.get(key)) for entry in entries if entry.metric == first.metric} - {MEAN}
    if wanted != set(columns):
        return None
    try:
        entry = paper_entry(table=first.table, norm=row.norm, setting={key: MEAN}, metric=first.metric)
    except ValueError:
        return None
    comparable = all(reference.comparable for reference in references if reference)
    return PaperNumber(entry, first.table, comparable, first.why) if entry else None
