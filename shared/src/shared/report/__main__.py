"""`python -m shared.report`: write the report, or publish runs."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

DEFAULT_RUNS = Path("runs")


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m shared.report",
        description="Compare finished runs: one HTML page, tables as Markdown and CSV, ours beside the paper's.",
    )
    parser.add_argument(
        "--runs", type=Path, default=DEFAULT_RUNS, metavar="DIR", help="folder of runs (default: runs)"
    )
    parser.add_argument("--task", metavar="T", help="only this task (default: all tasks)")
    parser.add_argument(
        "--out", type=Path, default=None, metavar="DIR", help="folder to write to (default: report below runs)"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results/runs"),
        metavar="DIR",
        help="folder of published runs, one <task>.jsonl each (default: results/runs)",
    )
    parser.add_argument(
        "--publish",
        type=Path,
        nargs="*",
        metavar="RUN",
        help="append these runs to the published ones, and generate tables and figures beside them from all; "
        "without a RUN, only generate",
    )
    parser.add_argument("--allow-dirty", action="store_true", help="publish runs even if no commit holds their code")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command line. None: that of the process.

    Returns:
        Exit code: 0, or 2 after one line on standard error that says what was wrong.
    """
    options = build_parser().parse_args(arguments)
    try:
        print(_report(options) if options.publish is None else _publish(options), flush=True)
    except BrokenPipeError:  # `make report | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _publish(options: argparse.Namespace) -> str:
    if options.task:
        raise ValueError(f"task must not be given with --publish; got {options.task!r}. Name the runs instead.")
    from shared.report.publish import publish
    from shared.report.wording import plural

    records = publish(options.publish, options.results, allow_dirty=options.allow_dirty)
    beside = options.results.parent
    return f"{plural(len(records), 'run')} added to {options.results}; {beside}/tables and {beside}/figures are new."


def _report(options: argparse.Namespace) -> str:
    if options.allow_dirty:
        raise ValueError("allow-dirty must be given with --publish only; a report shows every run.")
    from shared.report.pair_texts import terminal_lines
    from shared.report.reading import read_records
    from shared.report.wording import plural
    from shared.report.writing import write_report

    _check_folders(options)
    found = read_records(runs=options.runs, results=options.results).of_task(options.task)
    page = (options.out or options.runs / "report") / "report.html"
    sections = write_report(found, page.parent)
    if not sections:
        return f"{page}: no usable records in {options.runs} or {options.results} yet"
    left_out = f", {len(found.left_out)} left out" if found.left_out else ""
    own = [section for section in sections if section.num_own(found.published)]
    shown = own or sections
    num_runs = sum(section.num_own(found.published if own else frozenset()) for section in shown)
    first = f"{page}: {plural(num_runs, 'run')} in {plural(len(shown), 'experiment')}{left_out}"
    if not own:
        first += f". These are the published runs, because {options.runs} holds no others yet."
    lines = [first, *terminal_lines(shown, answered=bool(own))]
    if rest := len(sections) - len(shown):
        lines.append(f"and {plural(rest, 'published experiment')} in the report")
    return "\n".join(lines)


def _check_folders(options: argparse.Namespace) -> None:
    """Refuse a folder of runs that was asked for and is not there; only the default one may be missing."""
    for name, folder in (("runs", options.runs), ("out", options.out)):
        if folder and folder.exists() and not folder.is_dir():
            raise ValueError(f"{name} must be a folder; got {folder}, which is a file.")
    check_exists(options.runs)


def check_exists(runs: Path) -> None:
    """Raise ValueError for a folder of runs that is not there; only the default one may be missing."""
    if runs != DEFAULT_RUNS and not runs.exists():
        raise ValueError(
            f"runs must be a folder that exists; got {runs}. Without runs= it is the folder {DEFAULT_RUNS}."
        )


if __name__ == "__main__":
    sys.exit(main())
