"""Tables as text: what stands in each cell, and the tables as Markdown and CSV."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from shared.report.aggregate import Cell, Grid, Row, sign
from shared.report.joint import METRIC
from shared.report.ranking import Column, Leader, leader
from shared.report.records import Record, with_commit
from shared.report.wording import COLUMN_NAMES, MISSING, humane, number, plural, shortened, signed

Mark = Literal["best", "highest", ""]
MAX_HINT_SEEDS = 10
TABLE_FIELDS = (
    "norm", "column", "mean", "sd", "seeds", "runs", "diverged", "num_groups", "unit",
    "paper", "paper_table", "paper_comparable", "difference",
)  # fmt: skip
RUN_FIELDS = (
    "task", "config", "model", "dataset", "norm", "num_groups", "batch_size", "seed", "axes", "status", "metric",
    "value", "ci95_low", "ci95_high", "n", "unit", "headline", "selection", "run", "commit", "device",
    "wall_time_seconds", "images_per_second", "peak_memory_bytes", "command",
)  # fmt: skip


@dataclass(frozen=True)
class CellText:
    """What a reader sees in one cell.

    Args:
        value: "61.23 ± 0.51 (3)", or X, or empty where only a divergence is to be told.
        groups: "G = 256"; empty without groups.
        diverged: "diverged (1 of 3)" or "degenerate (1 of 3)"; empty where none did.
        paper: "paper 77.104"; empty where the paper has no number.
        comparable: Whether the paper's number may be compared.
        difference: "ours − paper" with its sign; empty unless comparable.
        mark: "best" where its mean leads the column by more than the noise, "highest" where the lead is not decided.
        hint: Seeds and runs behind the value.
    """

    value: str
    groups: str
    diverged: str
    paper: str
    comparable: bool
    difference: str
    mark: Mark
    hint: str


def cell_text(grid: Grid, row: Row, column: Column, *, leader: Leader | None) -> CellText:
    """Write one cell of a table.

    Args:
        grid: The table.
        row: Norm.
        column: Column value.
        leader: What `ranking.leader(grid, column)` gave, looked up once per column.

    Returns:
        The parts of the cell.
    """
    cell = grid.cells.get((row, column))
    if cell is None:
        return CellText(MISSING, "", "", "", comparable=False, difference="", mark="", hint="no run")
    comparable = bool(cell.paper and cell.paper.comparable)
    return CellText(
        value=_value(cell),
        groups=f"G = {cell.num_groups}" if cell.num_groups is not None and grid.column_name[:6] != "number" else "",
        diverged=f"{cell.lost_as} ({cell.num_diverged} of {len(cell.runs)})" if cell.num_diverged else "",
        paper=_paper(cell),
        comparable=comparable,
        difference=_difference(cell) if comparable else "",
        mark="" if leader is None or leader.row != row else "best" if leader.decided else "highest",
        hint=_hint(cell),
    )


def _value(cell: Cell) -> str:
    summary = cell.summary
    if summary is None:
        return "" if cell.num_diverged else MISSING
    spread = f" ± {number(summary.deviation, cell.unit)}" if summary.deviation is not None else ""
    return f"{number(summary.mean, cell.unit)}{spread} ({summary.n})"


def _paper(cell: Cell) -> str:
    if cell.paper is None:
        return ""
    return "paper diverged" if cell.paper.number is None else f"paper {cell.paper.entry.printed}"


def _difference(cell: Cell) -> str:
    """Ours minus the paper's, where both are numbers in %."""
    summary = cell.summary
    if summary is None or cell.unit != "%" or cell.paper is None or cell.paper.number is None:
        return ""
    return signed(summary.mean - cell.paper.number, cell.unit)


def _hint(cell: Cell) -> str:
    parts = []
    for seed, value in list(cell.by_seed.items())[:MAX_HINT_SEEDS]:
        interval = cell.intervals.get(seed)
        bounds = f" [{number(interval[0], cell.unit)}, {number(interval[1], cell.unit)}]" if interval else ""
        several = f" (mean of {cell.num_reruns[seed]} runs)" if seed in cell.num_reruns else ""
        parts.append(f"seed {seed}: {number(value, cell.unit)}{several}{bounds}")
    if (rest := len(cell.by_seed) - MAX_HINT_SEEDS) > 0:
        parts.append(f"and {plural(rest, 'more seed')}")
    for how in dict.fromkeys(record.replaced for record in cell.superseded):
        older = [with_commit(record) for record in cell.superseded if record.replaced == how]
        parts.append(f"left out, because its seed ran again {how}: {shortened(older, MAX_HINT_SEEDS, 'run')}")
    return "; ".join(parts) if parts else plural(len(cell.runs), "run")


def incomparable_reasons(grid: Grid) -> list[str]:
    """Why the paper's numbers of this table are grey, each reason once."""
    reasons = [
        humane(cell.paper.why) or "the records give no reason"
        for cell in grid.cells.values()
        if cell.runs and cell.paper and not cell.paper.comparable
    ]
    return list(dict.fromkeys(reasons))


def caption(grid: Grid) -> str:
    """Say what the numbers of a table are."""
    unit = next((cell.unit for cell in grid.cells.values() if cell.unit), "")
    columns = COLUMN_NAMES.get(grid.column_name, grid.column_name)
    size = next((part.columns[0] for part in grid.parts), None) if grid.by_column else None
    by = "" if grid.column_name == METRIC else f", by {columns}"
    return f"{grid.name}{f' in {unit}' if unit else ''}{by}{f', batch size {size}' if size else ''}"


def mark_legend(grid: Grid, *, best: str, highest: str) -> list[str]:
    """Explain the marks that a table has.

    Args:
        grid: The table.
        best: How a decided lead looks.
        highest: How a lead looks that is not decided.

    Returns:
        A sentence for each.
    """
    leaders = [found for column in grid.columns if (found := leader(grid, column))]
    end = "highest" if sign(grid.metric) > 0 else "lowest"
    told = {
        f"{best}: best mean, ahead of the second by more than the noise.": any(each.decided for each in leaders),
        f"{highest}: {end} mean, not decided: the noise could turn the order round.": not all(
            each.decided for each in leaders
        ),
    }
    return [text for text, applies in told.items() if applies]


def table_markdown(grid: Grid, *, notes: Sequence[str] = ()) -> str:
    """Write a table as Markdown. A paper number in square brackets is not comparable.

    Args:
        grid: The table.
        notes: What else to write below it, such as `layer_notes`.

    Returns:
        The table, then a line for each note.
    """
    header = [grid.column_name, *("?" if column is None else str(column) for column in grid.columns)]
    lines = [markdown_line(header), markdown_line(["---"] * len(header))]
    leaders = {column: leader(grid, column) for column in grid.columns}
    for row in grid.rows:
        texts = [cell_text(grid, row, column, leader=leaders[column]) for column in grid.columns]
        lines.append(markdown_line([row.label, *(_markdown_cell(text) for text in texts)]))
    below = [*mark_legend(grid, best="**Bold**", highest="*Slanted*"), *notes, *grid.remarks]
    below += [f"[paper …] is not comparable: {reason}." for reason in incomparable_reasons(grid)]
    return "\n".join([*lines, *(f"\n{flat(note)}" for note in below)]) + "\n"


def markdown_line(cells: Iterable[str]) -> str:
    """Write one row of a Markdown table."""
    return f"| {' | '.join(flat(cell) for cell in cells)} |"


def flat(text: str) -> str:
    """Make any text safe inside one line of Markdown."""
    for letter, replacement in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("\n", " "), ("\r", " ")):
        text = text.replace(letter, replacement)
    return text


def _markdown_cell(text: CellText) -> str:
    stars = {"best": "**", "highest": "*", "": ""}[text.mark]
    value = f"{stars}{text.value}{stars}"
    paper = text.paper if text.comparable or not text.paper else f"[{text.paper}]"
    difference = f"Δ {text.difference}" if text.difference else ""
    return " · ".join(part for part in (value, text.groups, text.diverged, paper, difference) if part)


def table_csv(grid: Grid) -> str:
    """Write a table as CSV, one line per cell."""
    lines = []
    for row in grid.rows:
        for column in grid.columns:
            cell = grid.cells.get((row, column))
            if cell:
                lines.append((row.norm, column, *_csv_cell(cell)))
    return csv_text(TABLE_FIELDS, lines)


def _csv_cell(cell: Cell) -> tuple[object, ...]:
    summary = cell.summary
    paper = cell.paper
    difference = ""
    if summary and paper and paper.comparable and cell.unit == "%" and paper.number is not None:
        difference = repr(round(summary.mean - paper.number, 6))
    return (
        summary.mean if summary else None,
        summary.deviation if summary else None,
        " ".join(str(seed) for seed in cell.by_seed),
        len(cell.runs),
        cell.num_diverged,
        cell.num_groups,
        cell.unit,
        paper.entry.value if paper else None,
        paper.table if paper else None,
        paper.comparable if paper else None,
        difference,
    )


def runs_csv(records: Iterable[Record]) -> str:
    """Write every metric of every run as CSV, one line each; a diverged run has one line without a value."""
    return csv_text(RUN_FIELDS, [line for record in records for line in _run_lines(record)])


def _run_lines(record: Record) -> list[tuple[object, ...]]:
    axes = " ".join(f"{name}={value}" for name, value in sorted(record.axes.items()))
    start = (
        record.task, record.config, record.model, record.dataset.get("name"), record.norm, record.num_groups,
        record.batch_size, record.seed, axes, record.status,
    )  # fmt: skip
    cost = tuple(record.number(name) for name in ("wall_time_seconds", "images_per_second", "peak_memory_bytes"))
    tail = (record.selection, record.run, record.commit, record.device, *cost, record.raw.get("command"))
    if not record.metrics:
        return [(*start, record.headline, None, None, None, None, None, True, *tail)]
    return [
        (
            *start,
            name,
            metric.value,
            *(metric.ci95 or (None, None)),
            metric.n,
            metric.unit,
            name == record.headline,
            *tail,
        )
        for name, metric in record.metrics.items()
    ]


def csv_text(fields: Iterable[str], lines: Iterable[tuple[object, ...]]) -> str:
    """Write a table as CSV with one line of names."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(fields)
    writer.writerows(lines)
    return stream.getvalue()
