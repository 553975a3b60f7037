"""Paired differences as text: the lines that a reader sees, and the tables as Markdown, CSV and HTML."""

from collections.abc import Sequence

from shared.report.aggregate import Grid
from shared.report.answer import answers
from shared.report.markup import data_table, element, escape, paragraph
from shared.report.pairs import Comparison, Gain, Pair, PairTable, gains, pair_tables
from shared.report.sections import Section
from shared.report.tables import csv_text, flat, incomparable_reasons, markdown_line
from shared.report.wording import MINUS, MISSING, listed, number, plural, seeds, signed

MAX_TERMINAL_LINES = 30
PAIR_FIELDS = (
    "metric", "column", "norm", "minus", "difference", "margin95", "decided", "over_seeds", "seeds", "seeds_minus",
    "paired_seeds", "items", "item_kind", "obstacle", "paper_difference", "paper_table", "paper_comparable",
)  # fmt: skip


def pair_line(pair: Pair) -> str:
    """Write a pair: "BGN − BN = +0.20 ± 0.90, inside noise (3 seeds, 600 episodes)"."""
    name = f"{pair.first.label} {MINUS} {pair.second.label}"
    if pair.comparison is None:
        return f"{name}: {pair.obstacle}"
    return f"{name} = {_size(pair.comparison)}, {_verdict(pair.comparison)} ({basis(pair.comparison)})"


def _size(comparison: Comparison) -> str:
    margin = "" if comparison.margin is None else f" ± {number(comparison.margin, '%')}"
    return f"{signed(comparison.mean, '%')}{margin}"


def _verdict(comparison: Comparison) -> str:
    if comparison.decided is None:
        return "the same every time"
    if comparison.over_seeds:
        return "outside noise" if comparison.decided else "inside noise"
    return f"{'outside' if comparison.decided else 'inside'} the noise of the {comparison.kind}"


def basis(comparison: Comparison) -> str:
    """Say what a margin is over: "3 seeds, 600 episodes", "1 seed: ± is over the episodes only"."""
    one, other = comparison.num_seeds
    counted = seeds(one) if comparison.paired_seeds else f"{one} and {seeds(other)} of their own"
    if comparison.over_seeds or comparison.margin is None:
        return f"{counted}, {comparison.num_items:,} {comparison.kind}"
    return f"{counted}: ± is over the {comparison.kind} only"


def paper_text(pair: Pair, *, brackets: bool = False) -> str:
    """Write the paper's difference, "paper +0.20"; in brackets, if asked for, where it is not comparable."""
    if pair.paper is None:
        return ""
    text = f"paper {signed(pair.paper.value, '%')}"
    return f"[{text}]" if brackets and not pair.paper.comparable else text


def title(table: PairTable) -> str:
    """Name a table of pairs by its metric and, where there are several columns, by its column."""
    grid = table.grid
    column = f", {grid.column_name} {table.column}" if len(grid.columns) > 1 else ""
    return f"Paired differences in {grid.name}{column}, in percentage points"


def legend(tables: Sequence[PairTable]) -> str:
    """Explain ± and the verdict, for the kinds of items there are; empty where no pair was compared."""
    compared = [pair.comparison for table in tables for pair in table.pairs if pair.comparison]
    if not compared:
        return ""
    kinds = listed(sorted({comparison.kind for comparison in compared}))
    over = f"seeds and {kinds}" if any(comparison.over_seeds for comparison in compared) else kinds
    return (
        f"Both norms of a pair were tested on the same {kinds}. ± is half of the 95 % interval over {over}; "
        "outside noise: the interval leaves zero out. It is for the test images at hand, and each pair by itself."
    )


def gain_line(gain: Gain, *, several: bool) -> str:
    """Write what training gained: "BN. Untrained features: 23.90 / 28.40; training gained +15.00 ± 1.02 / …".

    Args:
        gain: Of one norm.
        several: Whether to name the batch size.
    """
    size = f", batch size {gain.column}" if several else ""
    before = " / ".join(MISSING if mean is None else number(mean, "%") for mean in gain.untrained)
    sizes = " / ".join(MISSING if comparison is None else _size(comparison) for comparison in gain.comparisons)
    bases = dict.fromkeys(basis(comparison) for comparison in gain.comparisons if comparison)
    return f"{gain.row.label}{size}. Untrained features: {before}; training gained {sizes} ({' / '.join(bases)})"


def gain_title(grid: Grid) -> str:
    """Name the lines of what training gained, with the metrics in their order."""
    order = " / ".join(str(column) for column in grid.by_column) or grid.name
    return f"Before and after training ({order})"


def _gain_lines(section: Section, grid: Grid) -> list[str]:
    found = gains(section, grid)
    several = len({gain.column for gain in found}) > 1
    return [gain_line(gain, several=several) for gain in found]


def pairs_markdown(section: Section, grid: Grid) -> str:
    """Write the paired differences of a table as Markdown.

    Args:
        section: The section of the table.
        grid: The table.

    Returns:
        A table for each metric and column, and what training gained; empty where no two norms have items.
    """
    tables, lines = pair_tables(grid), _gain_lines(section, grid)
    parts = []
    for table in tables:
        texts = [(pair_line(pair), paper_text(pair, brackets=True)) for pair in table.pairs]
        width = 2 if any(paper for _, paper in texts) else 1
        header = [title(table), "the paper"][:width]
        rows = [markdown_line(header), markdown_line(["---"] * width)]
        parts.append("\n".join([*rows, *(markdown_line(text[:width]) for text in texts)]))
    if tables:
        reasons = (f"[paper …] is not comparable: {reason}." for reason in _reasons(tables))
        parts += [flat(note) for note in (legend(tables), *reasons) if note]
    if lines:
        parts += [f"{flat(gain_title(grid))}:", "\n".join(f"* {flat(line)}" for line in lines)]
    return "\n\n".join(parts) + "\n" if parts else ""


def _reasons(tables: Sequence[PairTable]) -> list[str]:
    shown = [table for table in tables if any(pair.paper and not pair.paper.comparable for pair in table.pairs)]
    return list(dict.fromkeys(reason for table in shown for reason in incomparable_reasons(table.grid)))


def pairs_html(section: Section, grid: Grid) -> str:
    """Write the paired differences of a table as HTML; empty where no two norms have items."""
    tables, lines = pair_tables(grid), _gain_lines(section, grid)
    parts = []
    for table in tables:
        papers = any(pair.paper for pair in table.pairs)
        rows = []
        for pair in table.pairs:
            row = [element("td", escape(pair_line(pair)), class_="text")]
            grey = "paper" if pair.paper and pair.paper.comparable else "grey"
            paper = element("small", escape(paper_text(pair)), class_=grey) if pair.paper else ""
            rows.append([*row, element("td", paper)] if papers else row)
        parts.append(data_table(title(table), ["difference", "the paper"] if papers else ["difference"], rows))
    parts += [paragraph(text, class_="note")] if (text := legend(tables)) else []
    if lines:
        items = element("ul", "\n".join(element("li", escape(line)) for line in lines))
        parts += [paragraph(gain_title(grid), class_="caption"), items]
    return "\n".join(parts)


def pairs_csv(grid: Grid) -> str:
    """Write the paired differences of a table as CSV, one line per pair."""
    return csv_text(
        PAIR_FIELDS,
        [
            (table.grid.metric, table.column, pair.first.norm, pair.second.norm, *_numbers(pair))
            for table in pair_tables(grid)
            for pair in table.pairs
        ],
    )


def _numbers(pair: Pair) -> tuple[object, ...]:
    found, paper = pair.comparison, pair.paper
    result: tuple[object, ...] = (None,) * 9
    if found:
        result = (
            round(found.mean, 6),
            None if found.margin is None else round(found.margin, 6),
            found.decided if found.over_seeds else None,
            found.over_seeds,
            *found.num_seeds,
            found.paired_seeds,
            found.num_items,
            found.kind,
        )
    printed = (round(paper.value, 6), paper.table, paper.comparable) if paper else (None, None, None)
    return (*result, pair.obstacle, *printed)


def pair_files(section: Section, grid: Grid, stem: str) -> dict[str, str]:
    """Name and content of the files of a table's paired differences, to stand beside the table's own.

    Args:
        section: The section of the table.
        grid: The table.
        stem: File name of the table without its ending.

    Returns:
        A Markdown and a CSV file; nothing where no two norms have items.
    """
    if not pair_tables(grid):
        return {}
    heading = f"# {section.heading}: paired differences in {grid.name}"
    return {
        f"{stem}-paired.md": f"{heading}\n\n{section.subject}.\n\n{pairs_markdown(section, grid)}",
        f"{stem}-paired.csv": pairs_csv(grid),
    }


def terminal_lines(sections: Sequence[Section], *, answered: bool = False) -> list[str]:
    """Write the paired differences for a terminal, and how many more there are in the report.

    Args:
        sections: The sections to write about.
        answered: Whether each begins with its answer.
    """
    lines = []
    for section in sections:
        if answered:
            lines.append(f"{section.heading}: {answers(section)[0]}".replace("\u00a0", " "))
        for grid in section.grids:
            for table in pair_tables(grid):
                lines.append(f"  {title(table)}:" if answered else f"{section.heading}. {title(table)}:")
                for pair in table.pairs:
                    paper = paper_text(pair, brackets=True)
                    lines.append(f"  {pair_line(pair)}{f'; {paper}' if paper else ''}")
            lines += [f"  {line}" for line in _gain_lines(section, grid)]
    rest = len(lines) - MAX_TERMINAL_LINES
    return lines if rest <= 0 else [*lines[:MAX_TERMINAL_LINES], f"… and {plural(rest, 'more line')} in the report"]
