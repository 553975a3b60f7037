"""Tables as LaTeX, for a paper that uses the packages booktabs and graphicx."""

from collections.abc import Sequence

from shared.report.aggregate import Grid
from shared.report.ranking import leader
from shared.report.tables import CellText, caption, cell_text, incomparable_reasons, mark_legend

SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "\N{MINUS SIGN}": "$-$", "Δ": r"$\Delta$",
    "×": r"$\times$", "→": r"$\to$", "·": r"$\cdot$", "\N{EN DASH}": "--", "\u00a0": "~", "≥": r"$\ge$", "≤": r"$\le$",
    "√": r"$\sqrt{}$", "\n": " ",
}  # fmt: skip


def table_latex(grid: Grid, *, title: str, notes: Sequence[str] = ()) -> str:
    r"""Write a table as LaTeX; it needs `\usepackage{booktabs,graphicx}`, and shrinks where it is wider than a line.

    Args:
        grid: The table.
        title: The first sentence of its caption.
        notes: What else to say in the caption.

    Returns:
        A `table` environment. A paper number in square brackets is not comparable.
    """
    leaders = {column: leader(grid, column) for column in grid.columns}
    lines = []
    for row in grid.rows:
        texts = [cell_text(grid, row, column, leader=leaders[column]) for column in grid.columns]
        lines.append(" & ".join([escape(row.label), *(_cell(text) for text in texts)]) + r" \\")
        if any(text.paper for text in texts):
            lines.append(" & ".join(["", *(_paper(text) for text in texts)]) + r" \\")
    header = [grid.column_name, *("?" if column is None else str(column) for column in grid.columns)]
    told = [*mark_legend(grid, best="Bold", highest="Italic"), *notes, *grid.remarks]
    told += [f"[paper] is not comparable: {reason}." for reason in incomparable_reasons(grid)]
    text = " ".join([f"{title}: {caption(grid)}. Mean ± sd over seeds (number of seeds).", *told])
    return "\n".join(
        [
            r"\begin{table}", r"\centering", rf"\caption{{{escape(text)}}}", r"\vspace{\abovecaptionskip}",
            r"\sbox0{%", rf"\begin{{tabular}}{{l{'r' * len(grid.columns)}}}", r"\toprule",
            " & ".join(escape(name) for name in header) + r" \\", r"\midrule", *lines, r"\bottomrule",
            r"\end{tabular}}", r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
            r"\end{table}",
        ]
    ) + "\n"  # fmt: skip


def escape(text: str) -> str:
    """Make plain text safe in LaTeX."""
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def _cell(text: CellText) -> str:
    value = escape(text.value)
    value = {"best": rf"\textbf{{{value}}}", "highest": rf"\textit{{{value}}}", "": value}[text.mark]
    return " ".join(part for part in (value, escape(text.diverged)) if part)


def _paper(text: CellText) -> str:
    if not text.paper:
        return ""
    words = text.paper if text.comparable else f"[{text.paper}]"
    difference = f" ({text.difference})" if text.difference else ""
    return rf"{{\footnotesize {escape(words + difference)}}}"
