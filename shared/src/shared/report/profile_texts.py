"""Profiles as text: tables as Markdown, CSV and HTML, and the names of their files."""

from collections.abc import Sequence

from shared.report.markup import data_table, element, escape, folded, paragraph, row_header
from shared.report.profile_tables import ProfileTable, profile_tables
from shared.report.records import lost_verb
from shared.report.sections import Section
from shared.report.tables import csv_text, flat, markdown_line
from shared.report.wording import MISSING, file_part, number, plural

PROFILE_FIELDS = ("norm", "column", "x", "mean", "sd", "seeds", "runs", "diverged", "unit")


def profile_caption(table: ProfileTable) -> str:
    """Name a table, with its unit: "PGD-20 accuracy over eps, in %"."""
    return f"{table.heading}, in {table.unit}" if table.unit else table.heading


def profile_rows(table: ProfileTable) -> list[list[str]]:
    """Write a table as texts.

    Args:
        table: The table.

    Returns:
        A header, then one row per norm: "71.20 ± 0.50 (3)" at each x; "diverged" where no run came to its end.
    """
    lines = [[table.x, *(f"{x:g}" for x in table.xs)]]
    for row in table.rows:
        summaries = table.summaries(row)
        lost, total = table.diverged.get(row, (0, 0))
        texts = [table.lost_as.get(row, "diverged") if lost and lost == total else MISSING] * len(table.xs)
        for place, summary in enumerate(summaries):
            spread = "" if summary.deviation is None else f" ± {number(summary.deviation, table.unit)}"
            texts[place] = f"{number(summary.mean, table.unit)}{spread} ({summary.n})"
        lines.append([row.label, *texts])
    return lines


def profile_notes(table: ProfileTable) -> list[str]:
    """Say which runs a table leaves out: a sentence for the diverged ones of each norm, and one for the others."""
    notes = [
        f"{row.label} {lost_verb(table.lost_as.get(row, 'diverged'))} in {lost} of {plural(total, 'run')}."
        for row, (lost, total) in table.diverged.items()
    ]
    if table.left_out:
        notes.append(f"Left out, because measured at other points than the rest: {', '.join(table.left_out)}.")
    return notes


def profile_markdown(table: ProfileTable) -> str:
    """Write a table as Markdown, with its notes."""
    header, *rows = profile_rows(table)
    lines = [markdown_line(header), markdown_line(["---"] * len(header)), *(markdown_line(row) for row in rows)]
    return "\n".join([*lines, *(f"\n{flat(note)}" for note in profile_notes(table))]) + "\n"


def profile_csv(tables: Sequence[ProfileTable]) -> str:
    """Write the tables of one profile as CSV, one line per norm, column and x."""
    return csv_text(
        PROFILE_FIELDS,
        [
            (
                row.norm,
                table.column,
                x,
                summary.mean,
                summary.deviation,
                " ".join(str(seed) for seed in table.by_seed[row]),
                table.runs[row],
                table.diverged.get(row, (0, 0))[0],
                table.unit,
            )
            for table in tables
            for row in table.by_seed
            for x, summary in zip(table.xs, table.summaries(row), strict=True)
        ],
    )


def profile_html(section: Section) -> str:
    """Write the profiles of a section as HTML: the tables, which open on demand, and what they leave out."""
    parts = []
    for table in profile_tables(section):
        header, *rows = profile_rows(table)
        cells = [[row_header(label), *(element("td", escape(text)) for text in texts)] for label, *texts in rows]
        summary = f"The numbers: {profile_caption(table)}, mean ± sd over seeds (number of seeds)"
        parts.append(folded(summary, data_table("", header, cells)))
        parts += [paragraph(f"{table.heading}: {note}", class_="note") for note in profile_notes(table)]
    return "\n".join(parts)


def profile_files(section: Section) -> dict[str, str]:
    """Name and content of the files of a section's profiles: Markdown and CSV of each, whatever its columns."""
    tables, files = profile_tables(section), {}
    for name, stem in profile_stems(section, tables).items():
        members = [table for table in tables if table.name == name]
        start = f"# {section.heading}: {flat(members[0].title)}"
        note = f"{section.subject}. Mean ± sd over seeds (number of seeds)."
        texts = [f"{flat(profile_caption(table))}:\n\n{profile_markdown(table)}" for table in members]
        files[f"{stem}.md"] = "\n\n".join([start, note, "\n".join(texts)])
        files[f"{stem}.csv"] = profile_csv(members)
    return files


def profile_stems(section: Section, tables: Sequence[ProfileTable]) -> dict[str, str]:
    """Give each profile a name for its files.

    Args:
        section: The section.
        tables: Its profiles.

    Returns:
        File name without its ending, by the name of the profile; no other file of the section has it.
    """
    taken = {file_part(grid.metric) for grid in (*section.grids, *section.sweeps)}
    stems = {}
    for name in dict.fromkeys(table.name for table in tables):
        part = file_part(name)
        while part in taken or part.isdecimal():
            part += "_profile"
        taken.add(part)
        stems[name] = f"{section.slug}-{part}"
    return stems
