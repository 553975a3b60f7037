"""The rank summary as HTML, Markdown, CSV and as a critical-difference diagram."""

import math
from collections.abc import Sequence

from shared.report.aggregate import Row
from shared.report.figures import Figure, drawing, inline_svg, norm_style
from shared.report.markup import data_table, element, escape, paragraph, row_header
from shared.report.methods import method_of
from shared.report.ranks import RankSummary, TaskRanks, headline_grid
from shared.report.sections import Section
from shared.report.tables import csv_text, flat, markdown_line
from shared.report.wording import METHODS, in_prose, listed, number, plural, pretty, seeds, with_unit

HEADING = "Over all tasks"
STEM = "ranks"
FIELDS = (
    "num_tasks", "norm", "task", "config", "experiment", "column", "metric", "mean", "seeds", "unit", "lost", "rank",
    "mean_rank", "test", "critical_difference",
)  # fmt: skip


def verdict(summary: RankSummary) -> str:
    """Say in a sentence or two who has the best mean rank, and from whom it can be told apart."""
    first, *others = summary.rows
    best = summary.mean_ranks[first.norm]
    tasks = plural(len(summary.tasks), "task")
    lead = [row for row in others if summary.mean_ranks[row.norm] - best < 1e-9]
    names = listed([in_prose(row.label) for row in (first, *lead)])
    text = f"Over {tasks}, {names} {'share' if lead else 'has'} the best mean rank ({best:.2f})"
    apart = [in_prose(row.label) for row in others if summary.apart(first, row)]
    critical = summary.critical_difference
    if math.isinf(critical):
        ties = " without ties" if len(summary.tasks) > 5 else ""
        return (
            f"{text}, which decides nothing: over fewer than 6 tasks{ties} no ranks of two norms differ by more than "
            f"chance ({_test(summary)}, 95\u00a0%)."
        )
    text += f"; the critical difference is {critical:.2f} ({_test(summary)}, 95\u00a0%), so "
    if not apart:
        return text + "no norm can be told apart from it by ranks over so few tasks."
    return text + f"{listed(apart)} {'is' if len(apart) == 1 else 'are'} behind by more than chance."


def _test(summary: RankSummary) -> str:
    return "exact sign test" if len(summary.rows) == 2 else "Nemenyi"


def absence(summary: RankSummary) -> str:
    """Name the norms of the tasks' tables that are not in the summary; empty without one."""
    if not summary.absent:
        return ""
    have = "it has" if len(summary.absent) == 1 else "they have"
    names = listed([in_prose(label) for label in summary.absent])
    return f"Not in this table, because {have} no complete runs in each of these tasks: {names}."


def notes() -> str:
    """Say how a rank is made and what it hides."""
    return (
        "Rank 1 is the best headline number of a task, a mean over seeds and columns; a norm that diverged there, or "
        "was degenerate, comes last. Each task counts once, through its experiment with most runs of these norms "
        "behind the means, your own before published ones. A rank hides by how much, and the noise within a task: "
        "read the tables below before you choose. Nemenyi's test as in Demšar (JMLR 2006); for two norms, whose ranks "
        "it would part too easily over few tasks, the exact sign test."
    )


def ranks_html(summaries: Sequence[RankSummary], *, norms: Sequence[str] = ()) -> str:
    """Build the part of the page, `norms` being all that are on it; empty without a summary."""
    if not summaries:
        return ""
    parts = [element("h2", escape(HEADING), id="ranks")]
    for place, summary in enumerate(summaries):
        parts += [paragraph(verdict(summary), class_="" if place else "lead"), _table(summary)]
        figure = rank_figure(summary, norms=norms)
        drawn = element("figure", inline_svg(figure, f"r{place}"), aria_label=figure.title)
        parts += [paragraph(missing, class_="note")] if (missing := absence(summary)) else []
        parts.append(element("div", drawn, class_="figures"))
    return "\n".join([*parts, paragraph(notes(), class_="note")])


def _name(task: TaskRanks) -> str:
    """Name a task with its config; with what tells its experiment from the task's others, and the origin."""
    section, first = task.section, task.section.experiments[0].first
    words = [pretty(first.task), first.config]
    if task.rivals:
        words += [METHODS.get(method, method)] if (method := method_of(first)) else []
    if task.rivals or task.partial:
        words.append(_columns(task))
    if section.difference and any(_stands_for(each) == _stands_for(section) for each in task.rivals):
        words.append(section.difference)
    return f"{', '.join(words)}{' (published)' if task.published else ''}"


def _columns(task: TaskRanks) -> str:
    names = ["?" if column is None else str(column) for column in task.columns]
    return f"{headline_grid(task.section).column_name} {listed(names)}"


def _stands_for(section: Section) -> tuple[object, ...]:
    """What a task's name tells of a section."""
    first = section.experiments[0].first
    return first.config, method_of(first), headline_grid(section).columns


def _table(summary: RankSummary) -> str:
    rows = []
    for task in summary.tasks:
        cells = [
            element("td", escape(_rank(task.ranks[row.norm])) + element("small", escape(_mean(task, row.norm))))
            for row in summary.rows
        ]
        rows.append([row_header(_name(task)), *cells])
    means = (escape(f"{summary.mean_ranks[row.norm]:.2f}") for row in summary.rows)
    rows.append([row_header("mean rank"), *(element("td", element("strong", mean)) for mean in means)])
    header = ["task", *(row.label for row in summary.rows)]
    return data_table("Rank in each task, the headline number, and its seeds", header, rows)


def _rank(rank: float) -> str:
    return f"{rank:g}"


def _mean(task: TaskRanks, norm: str) -> str:
    """Write a norm's number in a task, or how it came to none: "60.38 %, 3 seeds", "diverged in 1 of 3 runs"."""
    if norm in task.means:
        return f"{with_unit(number(task.means[norm], task.unit), task.unit)}, {seeds(task.num_seeds[norm])}"
    lost = task.lost[norm]
    return lost.how if lost.num_lost == lost.num_runs else f"{lost.how} in {lost.num_lost} of {lost.num_runs} runs"


def ranks_markdown(summaries: Sequence[RankSummary]) -> str:
    """Write the summaries as Markdown; empty without one."""
    lines: list[str] = []
    for summary in summaries:
        header = ["task", *(row.label for row in summary.rows)]
        lines += [verdict(summary), "", markdown_line(header), markdown_line(["---"] * len(header))]
        for task in summary.tasks:
            cells = [f"{_rank(task.ranks[row.norm])} ({_mean(task, row.norm)})" for row in summary.rows]
            lines.append(markdown_line([_name(task), *cells]))
        means = (f"{summary.mean_ranks[row.norm]:.2f}" for row in summary.rows)
        lines += [markdown_line(["mean rank", *means]), ""]
        lines += [flat(missing), ""] if (missing := absence(summary)) else []
    return "\n".join([*lines, notes(), ""]) if summaries else ""


def ranks_csv(summaries: Sequence[RankSummary]) -> str:
    """Write the summaries as CSV, one line per norm and task."""
    return csv_text(
        FIELDS,
        [_csv_line(summary, row, task) for summary in summaries for row in summary.rows for task in summary.tasks],
    )


def _csv_line(summary: RankSummary, row: Row, task: TaskRanks) -> tuple[object, ...]:
    first, norm = task.section.experiments[0].first, row.norm
    lost = _mean(task, norm) if norm in task.lost else ""
    critical = summary.critical_difference if math.isfinite(summary.critical_difference) else None
    return (
        len(summary.tasks), norm, first.task, first.config, task.section.slug,
        " ".join("?" if column is None else str(column) for column in task.columns), first.headline,
        task.means.get(norm), task.num_seeds.get(norm), task.unit, lost, task.ranks[norm], summary.mean_ranks[norm],
        _test(summary), critical,
    )  # fmt: skip


def rank_files(summaries: Sequence[RankSummary]) -> dict[str, str]:
    """Name and content of the summary's table files; none without a summary."""
    if not summaries:
        return {}
    return {f"{STEM}.md": f"# {HEADING}\n\n{ranks_markdown(summaries)}", f"{STEM}.csv": ranks_csv(summaries)}


def rank_figure(summary: RankSummary, *, norms: Sequence[str] = ()) -> Figure:
    """Draw a critical-difference diagram: mean ranks on a line, a bar under norms that cannot be told apart.

    Args:
        summary: The ranks.
        norms: All norms of the page; without, those of the summary.
    """
    rows, cliques = summary.rows, summary.cliques
    height = 1.1 + 0.24 * len(rows) + 0.12 * len(cliques)
    title = f"Mean rank over {plural(len(summary.tasks), 'task')}, best on the left"
    with drawing(title, x="", y="", size=(4.4, height)) as (axes, finish):
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.spines["top"].set_visible(True)
        axes.xaxis.tick_top()
        axes.yaxis.set_visible(False)
        axes.set_xlim(0.6, len(rows) + 0.4)
        axes.set_xticks(range(1, len(rows) + 1))
        axes.set_ylim(-(len(rows) + 0.7) - 0.6 * len(cliques), 0)
        for place, row in enumerate(rows):
            rank, depth = summary.mean_ranks[row.norm], -(place + 1) - 0.6 * len(cliques)
            style = norm_style(row.norm, norms or [each.norm for each in rows])
            axes.plot([rank, rank], [0, depth], color=style["color"], linewidth=1.0)
            axes.plot([rank], [depth], linestyle="none", color=style["color"], marker=style["marker"])
            left = rank < (len(rows) + 1) / 2
            axes.annotate(
                f"{row.label} {rank:.2f}", (rank, depth), xytext=(7 if left else -7, 0), textcoords="offset points",
                ha="left" if left else "right", va="center", fontsize=8,
            )  # fmt: skip
        for place, clique in enumerate(cliques):
            ends = [summary.mean_ranks[row.norm] for row in (clique[0], clique[-1])]
            depth = -0.6 * (place + 1)
            axes.plot([ends[0] - 0.05, ends[1] + 0.05], [depth, depth], color="#999999", linewidth=4,
                      solid_capstyle="round")  # fmt: skip
        return finish()
