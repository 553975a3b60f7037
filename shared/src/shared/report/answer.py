"""The answer of a table in words: which norm came first, and whether the noise could explain the difference."""

import math
from collections.abc import Set

from shared.report.aggregate import Grid, PaperNumber, Row, sign
from shared.report.cautions import doubted_norms
from shared.report.paper import load_paper_tables
from shared.report.ranking import (
    TIE,
    Column,
    Standing,
    difference,
    lost_norms,
    settled,
    shared_columns,
    standings,
)
from shared.report.sections import MEAN, Section
from shared.report.statistics import Difference, summarise
from shared.report.wording import in_prose, listed, number, plural, pretty, seeds, setting_words, signed, with_unit

ONE_SEED = "one seed decides nothing, so run more seeds before you choose."


def answers(section: Section) -> list[str]:
    """Answer the headline question of a section.

    Args:
        section: The section.

    Returns:
        One sentence or two for the whole section; then, where it has several columns, one for each column. Where each
        column is a metric of its own there is no mean over them, and the answer is that of each metric in turn.
        The first one says whose numbers are in doubt.
    """
    first, *others = _answers(section)
    if norms := doubted_norms(section.records):
        names = listed([in_prose(norm) for norm in norms])
        first += f" Runs of {names} give reasons to doubt a number: see the lines that begin with “Mind”."
    return [first, *others]


def _answers(section: Section) -> list[str]:
    grid = section.grids[0]
    if grid.by_column:
        return [_by_metric(section, grid)]
    columns = [column for column in grid.columns if column != MEAN]
    shared = shared_columns(grid, columns)
    place = f"On {section.subject}{_span(grid, shared, columns)}"
    parts = [_answer(grid, place, shared), *_left_out(grid, shared, columns)]
    first = " ".join(parts) + _paper_first(grid, shared)
    if len(columns) == 1:
        return [first]
    return [first] + [_answer(grid, f"At {grid.column_name} {column}", [column]) for column in columns]


def _span(grid: Grid, shared: list[Column], columns: list[Column]) -> str:
    """Say over which columns an answer is."""
    names = listed([str(column) for column in shared])
    if len(shared) == 1:
        return _size(grid, shared[0]) or (f", {grid.column_name} {names}" if len(columns) > 1 else "")
    if grid.column_name == "batch size":
        span = f"{shared[0]} to {shared[-1]}" if len(shared) == len(columns) else names
        return f", averaged over batch sizes {span}"
    number = f"all {len(columns)}" if len(shared) == len(columns) else f"{len(shared)} of {len(columns)}"
    return f", averaged over {number} columns ({grid.column_name} {names})"


def _left_out(grid: Grid, shared: list[Column], columns: list[Column]) -> list[str]:
    """Name the columns that are not in an answer, with the reason."""
    others = [column for column in columns if column not in shared]
    rows = [row for row in grid.rows if any(_ran(grid, row, column) for column in others)]
    if not rows:
        return []
    names = f"{grid.column_name.capitalize()}{'s' if others[1:] else ''} {listed([str(each) for each in others])}"
    few = 2 * len(rows) <= sum(any(_ran(grid, row, column) for column in columns) for row in grid.rows)
    who = f"only {listed([in_prose(row.label) for row in rows])} ran there" if few else None
    reason = who or "too few norms ran there with the same seeds"
    return [f"{names} {'are' if others[1:] else 'is'} left out of this, because {reason}."]


def _ran(grid: Grid, row: Row, column: Column) -> bool:
    return (row, column) in grid.cells and bool(grid.cells[row, column].runs)


def _by_metric(section: Section, grid: Grid) -> str:
    """The headline's answer, then the ranking by each other metric; what the runs lack is told once."""
    headline = section.experiments[0].first.headline
    first, *others = sorted(grid.parts, key=lambda part: part.metric != headline)
    columns = list(first.columns)
    text = _answer(first, f"On {section.subject}{_size(first, columns[0])}", columns) + _paper_first(first, columns)
    for part in others:
        columns = list(part.columns)
        ranking = _ranking(part, f"By {part.name}", standings(part, columns), complete=True)
        text += f" {ranking}{_paper_first(part, columns)}"
    return text


def _size(grid: Grid, column: Column) -> str:
    return f", batch size {column}" if grid.column_name == "batch size" and column is not None else ""


def _answer(grid: Grid, place: str, columns: list[Column]) -> str:
    ranked = standings(grid, columns)
    parts = [_ranking(grid, place, ranked, complete=len(columns) == 1)]
    parts += _diverged(grid, columns) + _incomplete(grid, columns, {standing.row for standing in ranked})
    return " ".join(parts)


def _ranking(grid: Grid, place: str, ranked: list[Standing], *, complete: bool) -> str:
    unit = next((cell.unit for cell in grid.cells.values() if cell.unit), "")
    if not ranked:
        return f"{place}: no norm has a finished run{'' if complete else ' in every column'} yet."
    if len(ranked) == 1:
        alone = "has been run" if complete else "is complete"
        return f"{place}, only {_with_value(ranked[0], unit)} {alone}: there is nothing to compare it with yet."
    first, *others = ranked
    best = first.summary.mean
    level = [first, *(each for each in others if abs(each.summary.mean - best) < TIE)]
    others = others[len(level) - 1 :]
    what = "" if grid.name in place else f" {grid.name}"
    if len(level) > 1:
        names = listed([in_prose(each.row.label) for each in level])
        value = with_unit(number(best, unit), unit)
        text = f"{place}, {names} share the first place: {value}{what} ({_seeds_each(level)})"
    else:
        text = f"{place}, {in_prose(first.row.label)} came first: {_value(first, unit, what=what)}"
    if others:
        text += (
            f"; then {_with_value(others[0], unit)}; {_verdict(difference(first, others[0]), unit, sign(grid.metric))}"
        )
    else:
        text += f"; {ONE_SEED}" if any(each.summary.n == 1 for each in level) else "."
    return text + _others(first, others, sign(grid.metric))


def _others(first: Standing, others: list[Standing], direction: float) -> str:
    """Say of the norms after the second which are inside the noise of the first, and which not, or not known."""
    decided = {in_prose(each.row.label): settled(difference(first, each), direction=direction) for each in others}
    second, *rest = decided or [""]
    text = ""
    if close := [label for label in rest if decided[label] is False]:
        text += f" Also inside the noise of {in_prose(first.row.label)}: {listed(close)}."
    if behind := [label for label in rest if decided[label]]:
        text += f" Behind {in_prose(first.row.label)} by more than the noise: {listed(behind)}."
    if unknown := [label for label in rest if decided[label] is None]:
        start = "Not decided either" if decided[second] is None else "Not decided, for want of seeds"
        text += f" {start}: {in_prose(first.row.label)} against {listed(unknown)}."
    return text


def _seeds_each(level: list[Standing]) -> str:
    """Write the numbers of seeds of norms that share a place: "3 seeds each", "3 and 2 seeds"."""
    numbers = [each.summary.n for each in level]
    if len(set(numbers)) == 1:
        return f"{seeds(numbers[0])} each"
    return f"{listed([str(n) for n in numbers])} seeds"


def _with_value(standing: Standing, unit: str) -> str:
    return f"{in_prose(standing.row.label)} {_value(standing, unit)}"


def _value(standing: Standing, unit: str, *, what: str = "") -> str:
    summary = standing.summary
    spread = f" ± {number(summary.deviation, unit)}" if summary.deviation is not None else ""
    return f"{with_unit(number(summary.mean, unit) + spread, unit)}{what} ({seeds(summary.n)})"


def _verdict(lead: Difference, unit: str, direction: float) -> str:
    size = number(abs(lead.mean), unit)
    if lead.obstacle == "no spread":
        return (
            f"the difference of {size} is the same on every seed, which tells nothing of its noise, so this decides "
            "nothing yet: run more seeds."
        )
    if lead.low is None or lead.high is None:
        return ONE_SEED
    if direction * lead.mean < 0:
        return "on the seeds that both ran the order is the other way round, so this decides nothing."
    low, high = (signed(bound, unit) for bound in (lead.low, lead.high))
    where = "outside" if settled(lead, direction=direction) else "inside"
    return f"the difference of {size} is {where} the noise (95\u00a0% interval {low} to {high})."


def _paper_first(grid: Grid, columns: list[Column]) -> str:
    """Name what came first in the paper's experiment, in the same columns and among the same norms."""
    found = {row: [(cell, cell.paper) for cell in (grid.cells.get((row, column)) for column in columns)
                   if cell and cell.paper] for row in grid.rows}  # fmt: skip
    means = {}
    lost = []
    for row, entries in found.items():
        numbers = [paper.number for _, paper in entries if paper.number is not None]
        if len(numbers) == len(columns):
            means[in_prose(row.label)] = summarise(numbers).mean
        elif len(numbers) < len(entries):
            lost.append(in_prose(row.label))
    if not means or len(means) + len(lost) < 2:
        return ""
    top = max(means.values())
    first = [label for label, mean in means.items() if math.isclose(mean, top, abs_tol=1e-9)]
    papers = [paper for entries in found.values() for _, paper in entries]
    together = " together" if len(first) > 1 else ""
    text = f" In {_paper_place(grid, papers, columns)}, {listed(first)} came first of these norms{together}, with"
    text += f" {with_unit(_printed(top, papers, columns), '%')}"
    if not all(paper.comparable for entries in found.values() for cell, paper in entries if cell.runs):
        text += "; that is another experiment, not comparable with this one"
    return f"{text}; {listed(lost)} diverged there." if lost else f"{text}."


def _printed(top: float, papers: list[PaperNumber], columns: list[Column]) -> str:
    """Write the paper's best number as it prints it, and a mean of several as our tables would."""
    if len(columns) > 1:
        return number(top, "%")
    return next(paper.entry.printed for paper in papers if paper.number and math.isclose(paper.number, top))


def _paper_place(grid: Grid, papers: list[PaperNumber], columns: list[Column]) -> str:
    """Say which of the paper's experiments numbers are from: "the paper's Table 2 (ImageNet, ResNet-50, …)"."""
    tables = sorted({paper.table for paper in papers})
    chosen = load_paper_tables()[tables[0]]
    words = [pretty(chosen.dataset), pretty(chosen.model)]
    for key in chosen.setting_keys():
        values = {str(paper.entry.setting.get(key)) for paper in papers}
        if len(values) == 1 and key not in ("num_groups", "search"):
            words.append(setting_words(key, values.pop()))
    if len(columns) > 1:
        same = "batch sizes" if grid.column_name == "batch size" else f"{len(columns)} columns"
        words.append(f"averaged over the same {same}")
    name = f"Table{'s' if tables[1:] else ''} {listed([str(table) for table in tables])}"
    return f"the paper's {name} ({', '.join(words)})"


def _diverged(grid: Grid, columns: list[Column]) -> list[str]:
    return [
        f"{in_prose(lost.row.label)} {lost.verb} in {lost.num_lost} of {plural(lost.num_runs, 'run')} "
        "and is not ranked."
        for lost in lost_norms(grid, columns)
    ]


def _incomplete(grid: Grid, columns: list[Column], ranked: Set[Row]) -> list[str]:
    """Name the norms that miss a column, so that nobody takes their absence for a bad place."""
    absent = [
        in_prose(row.label)
        for row in grid.rows
        if row not in ranked
        and not any(grid.cells[row, column].num_diverged for column in columns if (row, column) in grid.cells)
    ]
    if not absent or len(absent) == len(grid.rows):
        return []
    return [f"Not ranked, because {'runs are' if len(absent) > 1 else 'a run is'} missing: {listed(absent)}."]
