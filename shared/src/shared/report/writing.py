"""Write the files of a report: whole files at once, and no leftovers of an earlier report."""

import os
import tempfile
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from shared.report.answer import answers
from shared.report.audit import layer_notes
from shared.report.cautions import cautions
from shared.report.experiments import split_into_experiments
from shared.report.figures import opaque_svg
from shared.report.latex import table_latex
from shared.report.page import TITLE, draw_section, page_norms, render_page
from shared.report.pair_texts import pair_files, pairs_markdown
from shared.report.profile_tables import profile_tables
from shared.report.profile_texts import profile_caption, profile_files, profile_markdown
from shared.report.rank_texts import HEADING, STEM, rank_figure, rank_files, ranks_markdown
from shared.report.ranks import RankSummary, rank_summaries, ranks_place
from shared.report.reading import RecordSet
from shared.report.sections import Section, make_sections, own_first
from shared.report.tables import caption, flat, runs_csv, table_csv, table_markdown
from shared.report.wording import file_part

GENERATED = "generated.txt"


def write_report(found: RecordSet, out: Path) -> list[Section]:
    """Write `report.html`, `results.csv`, `results.md` and `tables/` into a folder.

    Args:
        found: The records.
        out: The folder; it is made.

    Returns:
        The sections of the report, those with runs of the reader's own first.
    """
    sections = own_first(make_sections(split_into_experiments(found.records)), found.published)
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / "report.html", render_page(sections, found.left_out, published=found.published))
    replace_file(
        out / "results.csv", runs_csv(sorted(found.records, key=lambda record: record.run in found.published))
    )
    replace_file(out / "results.md", results_markdown(sections, found))
    write_folder(out / "tables", table_files(sections, published=found.published))
    return sections


def table_files(sections: Sequence[Section], *, published: Set[str] = frozenset()) -> dict[str, str]:
    """Name and content of every table file; `published` names the runs that are not the reader's."""
    files = {name: text for section in sections for name, text in section_files(section).items()}
    return files | rank_files(rank_summaries(sections, published=published))


def section_files(section: Section) -> dict[str, str]:
    """Name and content of a section's files: tables as Markdown, CSV and LaTeX, paired differences, profiles."""
    files = {}
    notes = layer_notes(section.headline_records)
    methods = (section.methods,) if section.methods else ()
    for kind, grids in (("", section.grids), ("-groups", section.sweeps), ("-methods", methods)):
        for grid in grids:
            stem = f"{section.slug}-{file_part(grid.metric)}{kind}"
            title = f"# {section.heading}: {caption(grid)}"
            note = f"{section.subject}. Mean ± sd over seeds (number of seeds)."
            files[f"{stem}.md"] = f"{title}\n\n{note}\n\n{table_markdown(grid, notes=() if kind else notes)}"
            files[f"{stem}.csv"] = table_csv(grid)
            files[f"{stem}.tex"] = table_latex(
                grid, title=f"{section.heading}, {section.subject}", notes=() if kind else notes
            )
            if not kind:
                files |= pair_files(section, grid, stem)
    return files | profile_files(section)


def figure_files(sections: Sequence[Section]) -> dict[str, str]:
    """Name and content of the main figures and the profiles of each section, as files of their own."""
    files: dict[str, str] = {}
    norms = page_norms(sections)
    for section in sections:
        drawn = draw_section(section, norms=norms)
        main = {f"{section.slug}-{number}": figure for number, figure in enumerate(drawn.main, start=1)}
        files |= {f"{stem}.svg": opaque_svg(figure) for stem, figure in (main | dict(drawn.profiles)).items()}
    for summary in rank_summaries(sections):
        files[f"{STEM}-{len(summary.tasks)}-tasks.svg"] = opaque_svg(rank_figure(summary, norms=norms))
    return files


def results_markdown(sections: Sequence[Section], found: RecordSet) -> str:
    """Write the answers and the tables as Markdown, short enough for a job summary."""
    lines = [f"# {TITLE}", ""]
    if not sections:
        lines += ["There are no finished runs yet. Make one: `make task=classification norm=bgn`.", ""]
    summaries = rank_summaries(sections, published=found.published)
    place = ranks_place(summaries, sections, found.published)
    for number, section in enumerate(sections):
        lines += _ranks_part(summaries) if number == place else []
        lines += [f"## {section.heading}", "", answers(section)[0], ""]
        if warnings := cautions(section.records, superseded=section.superseded):
            lines += [*(f"* Mind: {warning}" for warning in warnings), ""]
        notes = layer_notes(section.headline_records)
        for index, grid in enumerate((*section.grids, *section.sweeps)):
            lines += [f"Mean ± sd over seeds (number of seeds): {caption(grid)}", ""]
            lines += [table_markdown(grid, notes=() if index else notes)]
            if index < len(section.grids) and (pairs := pairs_markdown(section, grid)):
                lines += [pairs]
        if section.methods:
            lines += [f"Methods side by side: {caption(section.methods)}", "", table_markdown(section.methods)]
        for table in profile_tables(section):
            lines += [f"Mean ± sd over seeds (number of seeds): {flat(profile_caption(table))}", ""]
            lines += [profile_markdown(table)]
    lines += _ranks_part(summaries) if place == len(sections) else []
    if found.left_out:
        lines += ["## Left out", "", *(f"* `{entry.source}`: {entry.reason}" for entry in found.left_out), ""]
    return "\n".join(lines)


def _ranks_part(summaries: Sequence[RankSummary]) -> list[str]:
    return [f"## {HEADING}", "", ranks_markdown(summaries)] if summaries else []


def write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Write a folder of generated files and remove those that an earlier call wrote and this one does not.

    Args:
        folder: The folder; `generated.txt` in it lists what was written, so that nothing else is ever removed.
        files: Content by file name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listing = folder / GENERATED
    earlier = set(listing.read_text(encoding="utf-8").split("\n")) if listing.is_file() else set()
    for name in sorted(earlier - files.keys()):
        if name and Path(name).name == name:
            (folder / name).unlink(missing_ok=True)
    for name, text in files.items():
        replace_file(folder / name, text)
    replace_file(listing, "".join(f"{name}\n" for name in sorted(files)))


def replace_file(path: Path, text: str) -> None:
    """Put a whole file in place at once: a reader sees the old one or the new one, never a part.

    What UTF-8 cannot hold, such as bytes of a file's name that are no text, becomes a question mark.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)  # mkstemp makes files that only their owner can read
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
