"""The report as one HTML page that needs nothing but itself: no scripts, no addresses, no dates."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from shared.report.aggregate import Grid, Row, norm_labels
from shared.report.answer import answers
from shared.report.audit import layer_notes
from shared.report.cautions import cautions, readings_by_norm
from shared.report.details import cost_tables, experiment_details, left_out_section, paper_appendix
from shared.report.figures import (
    Figure,
    batch_size_figure,
    curve_figure,
    group_number_figure,
    inline_svg,
    paper_batch_size_figure,
    profile_figure,
    seeds_figure,
)
from shared.report.markup import STYLE, data_table, element, escape, folded, paragraph, row_header
from shared.report.pair_texts import pairs_html
from shared.report.paper import load_paper_tables
from shared.report.profile_tables import profile_tables
from shared.report.profile_texts import profile_html, profile_stems
from shared.report.rank_texts import ranks_html
from shared.report.ranking import Column, Leader, leader
from shared.report.ranks import rank_summaries, ranks_place
from shared.report.reading import LeftOut
from shared.report.records import Record
from shared.report.sections import MEAN, Section, own_first
from shared.report.tables import caption, cell_text, incomparable_reasons, mark_legend
from shared.report.wording import file_part, listed, plural

TITLE = "Which normalization layer should I train with?"
FIGURE_BUDGET = 400_000  # characters of SVG in a page, so that it stays below 1 MB
MAX_CURVE_COLUMNS = 3
PAPER_FIGURE_TABLE = 2  # what the paper's Figure 1 (bottom) shows


@dataclass(frozen=True)
class DrawnSection:
    """A section with its figures.

    Args:
        section: The section.
        main: Accuracy over batch size, or dots per seed.
        curves: Learning curves.
        profiles: Numbers over a setting of the test, by file name without its ending.
    """

    section: Section
    main: tuple[Figure, ...]
    curves: tuple[Figure, ...]
    profiles: Mapping[str, Figure]


def draw_section(section: Section, *, norms: Sequence[str] = ()) -> DrawnSection:
    """Draw the figures of a section from its headline table.

    Args:
        section: The section.
        norms: All norms of the page, as `page_norms` gives them; without, each figure knows its own only.
    """
    grid = section.grids[0]
    if _over_batch_sizes(grid):
        table = load_paper_tables()[PAPER_FIGURE_TABLE]
        labels = norm_labels({entry.norm for entry in table.entries})
        extra = (paper_batch_size_figure(table, labels),) if _beside_paper(grid) else ()
        main = (batch_size_figure(grid, norms=norms), *extra)
    else:
        main = tuple(seeds_figure(part, part.columns[-1], norms=norms) for part in grid.parts)
    main += tuple(group_number_figure(sweep) for sweep in section.sweeps)
    records = {record.run: record for record in section.records}
    curves = (
        curve_figure(records, name, grid.parts[0], column, norms=norms)
        for name in _curve_names(list(records.values()))
        for column in _spread([column for column in grid.parts[0].columns if column != MEAN])
    )
    drawn = tuple(figure for figure in curves if figure)
    return DrawnSection(section, main, drawn, _draw_profiles(section, norms))


def page_norms(sections: Sequence[Section]) -> list[str]:
    """List the norms that have a colour on the page: those of the runs, and those of the paper where it is drawn."""
    found = {record.norm for section in sections for record in section.records}
    if any(_over_batch_sizes(grid) and _beside_paper(grid) for grid in (section.grids[0] for section in sections)):
        found |= {entry.norm for entry in load_paper_tables()[PAPER_FIGURE_TABLE].entries}
    return list(norm_labels(found))


def _over_batch_sizes(grid: Grid) -> bool:
    return grid.column_name == "batch size" and len([column for column in grid.columns if column != MEAN]) > 1


def _beside_paper(grid: Grid) -> bool:
    return any(cell.paper and cell.paper.table == PAPER_FIGURE_TABLE for cell in grid.cells.values())


def _draw_profiles(section: Section, norms: Sequence[str]) -> dict[str, Figure]:
    tables = profile_tables(section)
    figures = {}
    for name, stem in profile_stems(section, tables).items():
        members = {table.column: table for table in tables if table.name == name}
        for column in _spread(list(members)):
            ending = f"-{'unknown' if column is None else file_part(str(column))}" if members[column].several else ""
            figures[f"{stem}{ending}"] = profile_figure(members[column], norms=norms)
    return figures


def _curve_names(records: Sequence[Record]) -> list[str]:
    """The headline's curve (as watched during training: val/… where the headline is test/…) and the training loss."""
    present = {name for record in records for name in record.curves}
    headlines = list(dict.fromkeys(record.headline for record in records))
    watched = [f"val/{headline.partition('/')[2]}" for headline in headlines]
    return [name for name in (*headlines, *watched, "train/loss") if name in present]


def _spread(columns: Sequence[Column]) -> list[Column]:
    """The first, the middle and the last column, where there are more than three."""
    if len(columns) <= MAX_CURVE_COLUMNS:
        return list(columns)
    return [columns[0], columns[len(columns) // 2], columns[-1]]


def render_page(sections: Sequence[Section], left_out: Sequence[LeftOut], *, published: Set[str] = frozenset()) -> str:
    """Write the whole page, experiments with the reader's own runs first.

    Args:
        sections: In the order of the page.
        left_out: What was found and not used.
        published: Names of the runs that came with the suite and are not the reader's.

    Returns:
        A complete HTML document, the same bytes for the same records.
    """
    sections = own_first(sections, published)
    num_own = sum(section.num_own(published) for section in sections)
    num_runs = sum(section.num_own(frozenset()) for section in sections)
    summaries = rank_summaries(sections, published=published)
    norms = page_norms(sections)
    parts = [element("h1", escape(TITLE))]
    if sections:
        parts += [
            _introduction(num_runs, num_own, len(sections), left_out),
            _overview(sections),
            _how_to_read(sections),
        ]
        spent, before = 0, len(parts) + ranks_place(summaries, sections, published)
        for number, section in enumerate(sections, start=1):
            drawn = draw_section(section, norms=norms) if spent < FIGURE_BUDGET else None
            figures = _figures(f"e{number}", drawn) if drawn else _not_drawn(section)
            spent += len(figures)
            parts.append(_section(f"e{number}", section, figures, alone=len(sections) == 1))
        parts.insert(before, ranks_html(summaries, norms=norms))
    else:
        parts.append(_nothing_yet())
    if left_out:
        parts.append(left_out_section(left_out))
    parts.append(paper_appendix(load_paper_tables()))
    body = "\n".join(parts)
    head = (
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(TITLE)}</title>\n<style>{STYLE}</style>"
    )
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def _introduction(num_runs: int, num_own: int, num_sections: int, left_out: Sequence[LeftOut]) -> str:
    origin = f" ({num_own} of yours, {num_runs - num_own} published with the suite)" if 0 < num_own < num_runs else ""
    text = (
        f"{plural(num_runs, 'training run')}{origin} in {plural(num_sections, 'experiment')}. "
        "In a column of a table only the normalization layer changes, as far as the records tell; "
        "a line that begins with “Mind” says where they tell of more. "
        "Beside ours stand the numbers of the paper “Batch Group Normalization” (Zhou et al. 2020), where BGN is from."
    )
    note = f"{plural(len(left_out), 'record')} could not be used; see “Left out” below." if left_out else ""
    return paragraph(text, class_="lead") + (paragraph(note, class_="note") if note else "")


def _overview(sections: Sequence[Section]) -> str:
    items = []
    hosts = {section.experiments[0].first.task for section in sections if section.methods}
    for number, section in enumerate(sections, start=1):
        if section.is_control and section.experiments[0].first.task in hosts:
            continue  # it is in a table beside the method that it is a control of
        link = element("a", escape(section.heading), href=f"#e{number}")
        items.append(element("li", f"{element('strong', link)}<br>{escape(answers(section)[0])}"))
    return element("ul", "\n".join(items), class_="answers")


def _how_to_read(sections: Sequence[Section]) -> str:
    from norm_layers.registry import NORMS

    grids = [grid for section in sections for grid in section.grids]
    used = {row.norm for grid in grids for row in grid.rows}
    names = ", ".join(f"{NORMS[norm].label} {NORMS[norm].title}" for norm in NORMS if norm in used)
    kinds = sorted({cell.items.kind for grid in grids for cell in grid.cells.values() if cell.items})
    use = "That the norms saw the same test images is not made use of, so the interval is rather too wide."
    if kinds:
        use = (
            f"Where the runs have recorded their test {listed(kinds)} one by one, norms are compared on each of them, "
            f"and the interval is over seeds and {listed(kinds)} together. Elsewhere that the norms saw the same test "
            "images is not made use of, so the interval is rather too wide."
        )
    lines = [
        "61.20 ± 0.50 (3): mean over 3 seeds, and their standard deviation. A seed is one training from another "
        "random start. Hold the pointer on a cell to see each seed.",
        "Shaded and bold: the best mean of a column, where its lead over the second is outside the noise. Dashed "
        "frame: the highest mean (of a loss, the lowest), where that is not decided.",
        "Inside the noise: training again with other seeds, or testing on other images, could turn the order round, "
        "so do not choose by that difference. The test is a 95 % interval of the difference: a t interval over "
        f"seeds, paired where both norms ran the same seeds, and the sampling error of the test images. {use} It is "
        "not corrected for comparing many norms.",
        "X: not run, or not measured. Diverged (1 of 3): one of three trainings broke down; the mean is over the "
        "others, and the norm is not ranked.",
        "paper 77.1: the paper's number. Upright, with our difference to it, where our run follows the paper's "
        "protocol on its data; grey and slanted where it does not. A grey number shows the paper's order of the "
        "norms, not a target.",
        "Runs that differ in data, network, protocol or the rule that selects the number never share a table. Runs of "
        "different commits of the code do, also as the seeds of one mean, and a line that begins with “Mind” names "
        "the commits; but a seed of a norm that was run again under another commit counts once, by its newest commit, "
        "and the older runs are left out and named. Another version of a norm's own file, or other changes that no "
        "commit holds, count as another commit.",
        "G: number of groups of GN, GBGN and BGN. Batch size: images per worker, which is what a norm sees.",
    ]
    lines += [f"Norms: {names}."] if names else []
    return folded("How to read this page", element("ul", "".join(element("li", escape(line)) for line in lines)))


def _nothing_yet() -> str:
    return paragraph(
        "There are no finished runs yet, so there is nothing to compare. A first run takes a few minutes on a CPU:",
        class_="lead",
    ) + element(
        "ul",
        "".join(
            element("li", element("code", escape(command)))
            for command in (
                "make task=classification norm=bn",
                "make task=classification norm=bgn",
                "make report",
            )
        ),
    )


def _section(anchor: str, section: Section, figures: str, *, alone: bool) -> str:
    """Build one section; its answer stands at the top of the page already where it is alone."""
    first, *by_column = answers(section)
    parts = [element("h2", escape(section.heading), id=anchor), "" if alone else paragraph(first, class_="lead")]
    if by_column:
        listing = element("ul", "\n".join(element("li", escape(sentence)) for sentence in by_column))
        parts.append(folded("Column by column", listing))
    parts += [_warnings(section)]
    for grid in section.grids:
        parts += [_grid(grid, layer_notes(section.headline_records) if grid is section.grids[0] else ())]
        parts += [pairs_html(section, grid)]
    parts += [_grid(grid) for grid in section.sweeps]
    if section.methods:
        parts += [element("h3", "Methods side by side"), _grid(section.methods)]
    if readings := readings_by_norm(section.records):
        parts.append(paragraph(f"Readings of the paper in force: {'; '.join(readings)}.", class_="note"))
    parts += [figures, profile_html(section)]
    parts += [element("h3", "Cost"), cost_tables(section.records)]
    text = "As it was on the machine at the time, other work included: these are no comparison of the norms' speed."
    parts += [paragraph(text, class_="note"), element("h3", "Details")]
    for experiment in section.experiments:
        details = experiment_details(experiment)
        several = len(section.experiments) > 1
        axes = ", ".join(f"{name} {value}" for name, value in experiment.axes.items())
        parts.append(folded(f"Details of {axes or experiment.slug}", details) if several else details)
    return "\n".join(part for part in parts if part)


def _not_drawn(section: Section) -> str:
    task = section.experiments[0].first.task
    return paragraph(f"For the figures, make a report of this task alone: make report task={task}.", class_="note")


def _warnings(section: Section) -> str:
    warnings = cautions(section.records, superseded=section.superseded)
    return "".join(paragraph(f"Mind: {warning}", class_="note") for warning in warnings)


def _grid(grid: Grid, notes: Sequence[str] = ()) -> str:
    leaders = {column: leader(grid, column) for column in grid.columns}
    rows = [[row_header(row.label, row.norm), *(_cell(grid, row, column, leaders[column]) for column in grid.columns)]
            for row in grid.rows]  # fmt: skip
    header = [grid.column_name, *("?" if column is None else column for column in grid.columns)]
    below = [*mark_legend(grid, best="Shaded and bold", highest="Dashed frame"), *notes, *grid.remarks]
    if reasons := incomparable_reasons(grid):
        below.append(f"Grey paper numbers are not comparable: {'; '.join(reasons)}.")
    return data_table(caption(grid), header, rows) + "".join(paragraph(note, class_="note") for note in below)


def _cell(grid: Grid, row: Row, column: Column, leader: Leader | None) -> str:
    text = cell_text(grid, row, column, leader=leader)
    parts = [escape(text.value)]
    if text.diverged:
        parts.append(element("span", escape(text.diverged), class_="lost"))
    if text.groups:
        parts.append(element("small", escape(text.groups)))
    if text.paper:
        difference = f" ({text.difference})" if text.difference else ""
        parts.append(element("small", escape(text.paper + difference), class_="paper" if text.comparable else "grey"))
    return element("td", "".join(parts), title=text.hint, class_=text.mark)


def _figures(anchor: str, drawn: DrawnSection) -> str:
    parts = [_figure_row(drawn.main, f"{anchor}m")]
    if drawn.curves:
        text = "Learning curves: mean over seeds; the band is one standard deviation."
        parts += [
            element("h3", "Learning curves"),
            paragraph(text, class_="note"),
            _figure_row(drawn.curves, f"{anchor}c"),
        ]
    if drawn.profiles:
        parts += [
            element("h3", "Over a setting of the test"),
            paragraph("Mean over seeds; the band is one standard deviation.", class_="note"),
            _figure_row(list(drawn.profiles.values()), f"{anchor}p"),
        ]
    return "\n".join(parts)


def _figure_row(figures: Sequence[Figure], prefix: str) -> str:
    items = [element("figure", inline_svg(figure, f"{prefix}{number}"), aria_label=figure.title)
             for number, figure in enumerate(figures)]  # fmt: skip
    return element("div", "\n".join(items), class_="figures")
