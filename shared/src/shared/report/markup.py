"""HTML in small pieces: escaping, elements, and the style sheet of the report."""

import html
from collections.abc import Iterable

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --soft: #5c5c5c; --line: #d5d5d5;
  --shade: #f4f6f8; --best: #e3f1ea; --link: #0060a0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #16181b; --soft: #a8a8a8; --line: #3a3d42;
  --shade: #202428; --best: #173a2c; --link: #7cc4f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem 1.2rem 4rem; max-width: 80rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.6rem 0; }
h2 { font-size: 1.3rem; margin: 3rem 0 0.3rem; padding-top: 0.8rem; border-top: 2px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 0.4rem; }
a { color: var(--link); }
p, ul, dl { max-width: 52rem; margin: 0.5rem 0; }
.lead { font-size: 1.08rem; }
.soft, figcaption, .note { color: var(--soft); font-size: 0.9rem; }
.answers { padding: 0; list-style: none; }
.answers > li { margin: 0.7rem 0; padding: 0.7rem 0.9rem; background: var(--shade);
  border-left: 4px solid var(--link); }
.box { overflow-x: auto; max-width: 100%; margin: 0.6rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
.caption { margin: 1.1rem 0 0; font-weight: 600; font-size: 0.95rem; }
th, td { padding: 0.35rem 0.55rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  white-space: nowrap; overflow-wrap: normal; }
thead th { border-bottom: 2px solid var(--soft); }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
td.text { text-align: left; white-space: normal; min-width: 14rem; }
td small { display: block; color: var(--soft); line-height: 1.35; }
td.best { background: var(--best); font-weight: 700; }
td.best small { font-weight: 400; }
td.highest { outline: 1px dashed var(--soft); outline-offset: -3px; }
td small.paper { color: var(--ink); }
td small.grey { font-style: italic; }
td .lost { display: block; font-weight: 600; }
.figures { display: flex; flex-wrap: wrap; gap: 0.8rem 1.6rem; }
figure { margin: 0.4rem 0; flex: 0 1 27rem; min-width: 0; }
svg { width: 100%; height: auto; display: block; }
details { margin: 0.7rem 0; }
summary { cursor: pointer; font-weight: 600; }
dt { font-weight: 600; margin-top: 0.4rem; }
dd { margin: 0 0 0 1rem; }
code { font: 0.85em ui-monospace, "DejaVu Sans Mono", monospace; }
.commands li { margin: 0.15rem 0; }
@media (max-width: 40rem) { body { padding: 0.6rem 0.8rem 3rem; } dd { margin-left: 0.5rem; }
  th, td { padding: 0.3rem 0.45rem; } th:first-child { white-space: normal; max-width: 9rem; } }
@media print { body { max-width: none; font-size: 10pt; } .box { overflow: visible; }
  table { font-size: 8pt; } h2 { break-after: avoid; }
  figure, tr, .answers > li { break-inside: avoid; } th:first-child { position: static; }
  details::details-content { content-visibility: visible; height: auto; }
  details > :not(summary) { display: block; } }
"""


def escape(value: object) -> str:
    """Make any value safe inside HTML text and attributes.

    The slashes of an address become character references, so that the page itself holds no address.
    """
    return html.escape(str(value)).replace("://", ":&#47;&#47;")


def element(tag: str, content: str, **attributes: str) -> str:
    """Build an element.

    Args:
        tag: Element name.
        content: Finished HTML.
        attributes: Values as plain text; `class_` is written `class`.

    Returns:
        HTML.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"' for name, value in attributes.items() if value
    )
    return f"<{tag}{written}>{content}</{tag}>"


def paragraph(text: str, **attributes: str) -> str:
    """Build a paragraph from plain text."""
    return element("p", escape(text), **attributes)


def data_table(caption: str, header: Iterable[object], rows: Iterable[Iterable[str]]) -> str:
    """Build a table that scrolls in its own box.

    Args:
        caption: Plain text.
        header: Plain texts of the columns.
        rows: Finished cells (`<th>` or `<td>` elements) of each row.

    Returns:
        HTML.
    """
    head = "".join(element("th", escape(name), scope="col") for name in header)
    body = "\n".join(element("tr", "".join(row)) for row in rows)
    table = element("table", f"<thead>{element('tr', head)}</thead>\n<tbody>\n{body}\n</tbody>", aria_label=caption)
    title = paragraph(caption, class_="caption") if caption else ""
    return title + element("div", table, class_="box", tabindex="0")


def row_header(text: str, hint: str = "") -> str:
    """Build the first cell of a row."""
    return element("th", escape(text), scope="row", title=hint)


def folded(summary: str, content: str) -> str:
    """Build a part that opens on demand."""
    return element("details", f"{element('summary', escape(summary))}\n{content}")
