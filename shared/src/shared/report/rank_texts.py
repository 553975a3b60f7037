"""The rank summary as HTML, Markdown, CSV and as a critical-difference diagram."""

from collections.abc import Sequence

from shared.report.figures import Figure, drawing, inline_svg, norm_style
from shared.report.markup import data_table, element, escape, paragraph, row_header
from shared.report.ranks import RankSummary, TaskRanks
from shared.report.tables import csv_text, markdown_line
from shared.report.wording import listed, number, plural, pretty, with_unit

HEADING = "Over all tasks"
STEM = "ranks"
FIELDS = ("num_tasks", "norm", "task", "config", "metric", "mean", "unit", "rank", "mean_rank", "critical_difference")


def verdict(summary: RankSummary) -> str:
    """Say in a sentence or two who has the best mean rank, and from whom it can be told apart."""
    first, *others = summary.rows
    best = summary.mean_ranks[first.norm]
    tasks = plural(len(summary.tasks), "task")
    lead = [row for row in others if summary.mean_ranks[row.norm] - best < 1e-9]
    names = listed([first.label, *(row.label for row in lead)])
    text = f"Over {tasks}, {names} {'share' if lead else 'has'} the best mean rank ({best:.2f})"
    apart = [row.label for row in others if summary.mean_ranks[row.norm] - best >= summary.critical_difference]
    text += f"; the critical difference is {summary.critical_difference:.2f} (Nemenyi, 95\u00a0%), so "
    if not apart:
        return text + "no norm can be told apart from it by ranks over so few tasks."
    return text + f"{listed(apart)} {'is' if len(apart) == 1 else 'are'} behind by more than chance."


def notes() -> str:
    """Say how a rank is made and what it hides."""
    return (
        "Rank 1 is the best headline number of a task, a mean over seeds and columns. Each task counts once, through "
        "its experiment that ran these norms most often. A rank hides by how much, and the noise within a task: read "
        "the tables below before you choose. Nemenyi's test as in Demšar (JMLR 2006)."
    )


def ranks_html(summaries: Sequence[RankSummary]) -> str:
    """Build the part of the page; empty without a summary."""
    if not summaries:
        return ""
    parts = [element("h2", escape(HEADING), id="ranks")]
    for place, summary in enumerate(summaries):
        parts += [paragraph(verdict(summary), class_="" if place else "lead"), _table(summary)]
        figure = rank_figure(summary)
        drawn = element("figure", inline_svg(figure, f"r{place}"), aria_label=figure.title)
        parts.append(element("div", drawn, class_="figures"))
    return "\n".join([*parts, paragraph(notes(), class_="note")])


def _names(summary: RankSummary) -> list[str]:
    """Name the tasks, with their configs."""
    firsts = (task.section.experiments[0].first for task in summary.tasks)
    return [f"{pretty(first.task)}, {first.config}" for first in firsts]


def _table(summary: RankSummary) -> str:
    rows = []
    for name, task in zip(_names(summary), summary.tasks, strict=True):
        cells = [
            element("td", escape(_rank(task.ranks[row.norm])) + element("small", escape(_mean(task, row.norm))))
            for row in summary.rows
        ]
        rows.append([row_header(name), *cells])
    means = (escape(f"{summary.mean_ranks[row.norm]:.2f}") for row in summary.rows)
    rows.append([row_header("mean rank"), *(element("td", element("strong", mean)) for mean in means)])
    header = ["task", *(row.label for row in summary.rows)]
    return data_table("Rank in each task, and the headline number", header, rows)


def _rank(rank: float) -> str:
    return f"{rank:g}"


def _mean(task: TaskRanks, norm: str) -> str:
    return with_unit(number(task.means[norm], task.unit), task.unit)


def ranks_markdown(summaries: Sequence[RankSummary]) -> str:
    """Write the summaries as Markdown; empty without one."""
    lines: list[str] = []
    for summary in summaries:
        header = ["task", *(row.label for row in summary.rows)]
        lines += [verdict(summary), "", markdown_line(header), markdown_line(["---"] * len(header))]
        for name, task in zip(_names(summary), summary.tasks, strict=True):
            cells = [f"{_rank(task.ranks[row.norm])} ({_mean(task, row.norm)})" for row in summary.rows]
            lines.append(markdown_line([name, *cells]))
        means = (f"{summary.mean_ranks[row.norm]:.2f}" for row in summary.rows)
        lines += [markdown_line(["mean rank", *means]), ""]
    return "\n".join([*lines, notes(), ""]) if summaries else ""


def ranks_csv(summaries: Sequence[RankSummary]) -> str:
    """Write the summaries as CSV, one line per norm and task."""
    return csv_text(
        FIELDS,
        [
            (len(summary.tasks), row.norm, first.task, first.config, first.headline, task.means[row.norm], task.unit,
             task.ranks[row.norm], summary.mean_ranks[row.norm], summary.critical_difference)
            for summary in summaries
            for row in summary.rows
            for task in summary.tasks
            for first in [task.section.experiments[0].first]
        ],
    )  # fmt: skip


def rank_files(summaries: Sequence[RankSummary]) -> dict[str, str]:
    """Name and content of the summary's table files; none without a summary."""
    if not summaries:
        return {}
    return {f"{STEM}.md": f"# {HEADING}\n\n{ranks_markdown(summaries)}", f"{STEM}.csv": ranks_csv(summaries)}


def rank_figure(summary: RankSummary) -> Figure:
    """Draw a critical-difference diagram: mean ranks on a line, a bar under norms that cannot be told apart."""
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
            style = norm_style(row.norm, [each.norm for each in rows])
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
