"""Add finished runs to `results/runs/<task>.jsonl`, and generate the tables and figures of all published runs.

The files only grow: what is there is kept byte for byte. Either all given runs are added or none.
"""

import fcntl
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from shared.locks import take_lock
from shared.report.experiments import split_into_experiments
from shared.report.page import render_page
from shared.report.reading import find_record_files, read_records
from shared.report.records import BadRecordError, Record, canonical_json, parse_record
from shared.report.sections import make_sections
from shared.report.writing import figure_files, replace_file, table_files, write_folder


def publish(sources: Sequence[Path], results: Path, *, allow_dirty: bool = False) -> list[Record]:
    """Append runs to the published ones and generate `tables/` and `figures/` beside `results`.

    Args:
        sources: Run folders, folders of run folders, or `record.json` files. Empty: only generate.
        results: Folder of the `<task>.jsonl` files; it is made.
        allow_dirty: Take runs whose code no commit holds.

    Returns:
        The added records, in the order they were written.

    Raises:
        ValueError: A source holds no record, a record cannot be used, is there already, or its code is in no commit.
            Nothing is written then.
    """
    records = _load(sources)
    results.mkdir(parents=True, exist_ok=True)
    with _locked(results):
        _check(records, results, allow_dirty=allow_dirty)
        by_task: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            by_task[record.task].append(record)
        texts = {task: _appended(results / f"{task}.jsonl", added) for task, added in by_task.items()}
        for task, text in texts.items():
            replace_file(results / f"{task}.jsonl", text)
        generate(results)
    return records


def generate(results: Path) -> None:
    """Write `report.html`, `tables/` and `figures/` beside the folder of published runs, from all of them.

    Args:
        results: Folder of the `<task>.jsonl` files.
    """
    found = read_records(runs=None, results=results)
    sections = make_sections(split_into_experiments(found.records))
    replace_file(results.parent / "report.html", render_page(sections, found.left_out))
    write_folder(results.parent / "tables", table_files(sections))
    write_folder(results.parent / "figures", figure_files(sections))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep two publishers from losing each other's lines."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        take_lock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _load(sources: Sequence[Path]) -> list[Record]:
    records = []
    for source in sources:
        paths = [source] if source.is_file() else list(find_record_files(source))
        if not paths:
            raise ValueError(f"publish must be given runs; got {source}, which holds no record.json.")
        for path in paths:
            try:
                records.append(parse_record(path.read_text(encoding="utf-8")))
            except (BadRecordError, OSError, UnicodeDecodeError) as error:
                raise ValueError(f"publish must be given usable records; got {path}: {error}.") from None
    return records


def _check(records: Sequence[Record], results: Path, *, allow_dirty: bool) -> None:
    published = read_records(runs=None, results=results)
    if published.left_out:
        first = published.left_out[0]
        raise ValueError(f"published records must be usable; got {first.source}: {first.reason}. Repair it first.")
    known = {record.run for record in published.records}
    for record in records:
        if record.run in known:
            raise ValueError(f"run must not be published twice; got {record.run}, which is in {results} already.")
        known.add(record.run)
        clean = record.raw.get("dirty") is False and record.commit != "?"
        if not clean and not allow_dirty:
            raise ValueError(
                f"commit must hold the code of a published run; got {record.run} at {record.commit}. "
                "Run it again from a commit, or give --allow-dirty."
            )
        if Path(record.task).name != record.task or record.task.startswith("."):
            raise ValueError(f"task must be a plain name; got {record.task!r} in {record.run}.")


def _appended(path: Path, records: Sequence[Record]) -> str:
    before = path.read_bytes().decode("utf-8") if path.is_file() else ""
    if before and not before.endswith("\n"):
        before += "\n"
    return before + "".join(f"{canonical_json(record.raw)}\n" for record in records)
