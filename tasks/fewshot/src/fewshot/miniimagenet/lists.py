"""The three layouts whose lists name the image files: "csv-flat", "csv-class-dirs" and "json"."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewshot.miniimagenet.images import ImageFiles
from fewshot.miniimagenet.source import FileSource
from shared.errors import UserError

CSV_FLAT = "csv-flat"
CSV_CLASS_DIRS = "csv-class-dirs"
JSON = "json"
COLUMNS: Mapping[str, tuple[str, str]] = {
    CSV_FLAT: ("label", "filename"),
    CSV_CLASS_DIRS: ("class_name", "image_name"),
}
"""Columns with the class and the file of an image."""

Entries = list[tuple[str, Path]]


def open_csv(root: Path, paths: Mapping[str, Path]) -> FileSource:
    """Read three CSV files, whose header says which of the two layouts they are of.

    Args:
        root: Folder that holds the lists.
        paths: List of each split.

    Raises:
        UserError: A list is damaged, or names a file that is absent or that another entry names.
    """
    header = _header(_rows(paths["base"]))
    layout = next((layout for layout, columns in COLUMNS.items() if set(columns) <= set(header)), None)
    if layout is None:
        choices = " or ".join(",".join(reversed(columns)) for columns in COLUMNS.values())
        raise UserError(
            f"{paths['base']} must have the header {choices}; got {','.join(header)!r}. Use the published lists."
        )
    return _open_entries(layout, root, paths, {split: _read_csv(path, layout) for split, path in paths.items()})


def open_json(root: Path, paths: Mapping[str, Path]) -> FileSource:
    """Read three JSON files, whose image names are absolute or relative to their folder.

    Args:
        root: Folder that holds the lists.
        paths: List of each split.

    Raises:
        UserError: A list is damaged, or names a file that is absent or that another entry names.
    """
    return _open_entries(JSON, root, paths, {split: _read_json(path) for split, path in paths.items()})


def _open_entries(layout: str, root: Path, paths: Mapping[str, Path], entries: Mapping[str, Entries]) -> FileSource:
    _check_files(entries, paths)
    images = {
        split: ImageFiles.sorted([name for name, _ in named], [path for _, path in named])
        for split, named in entries.items()
    }
    return FileSource(layout, root, images, tuple(paths.values()))


def _read_csv(path: Path, layout: str) -> Entries:
    rows = _rows(path)
    class_column, file_column = COLUMNS[layout]
    header = _header(rows)
    if not {class_column, file_column} <= set(header):
        raise UserError(
            f"{path} must have the columns {class_column} and {file_column}, as the other lists; got "
            f"{', '.join(header) or 'no header'}. Use the lists of one source."
        )
    folder = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
    entries: Entries = []
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        values = dict(zip(header, (value.strip() for value in row)))
        name, file = values.get(class_column), values.get(file_column)
        if not name or not file:
            raise UserError(
                f"line {number} of {path} must have {class_column} and {file_column}; got {','.join(row)!r}. Copy the "
                "list again."
            )
        entries.append((name, folder / name / file if layout == CSV_CLASS_DIRS else folder / file))
    return entries


def _header(rows: list[list[str]]) -> list[str]:
    return [column.strip() for column in rows[0]] if rows else []


def _rows(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} must be a CSV file; got: {error}. Copy the list again.") from error


def _read_json(path: Path) -> Entries:
    names, files, labels = _json_columns(path)
    if len(files) != len(labels):
        raise UserError(
            f"image_labels in {path} must be one per image ({len(files)}); got {len(labels)}. Write the list again."
        )
    wrong = next((label for label in labels if not 0 <= label < len(names)), None)
    if wrong is not None:
        raise UserError(
            f"image_labels in {path} must be in [0, {len(names)}), the number of label_names; got {wrong}. Write the "
            "list again."
        )
    return [(names[label], path.parent / file) for label, file in zip(labels, files)]


def _json_columns(path: Path) -> tuple[list[str], list[str], list[int]]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} must be a JSON file; got: {error}. Write the list again.") from error
    for key, kind in (("label_names", str), ("image_names", str), ("image_labels", int)):
        column = content.get(key) if isinstance(content, dict) else None
        if not isinstance(column, list) or any(type(item) is not kind for item in column):
            what = "text" if kind is str else "whole numbers"
            raise UserError(f"{path} must hold a list {key} of {what}; got none. Write the list again.")
    return content["label_names"], content["image_names"], content["image_labels"]


def _check_files(entries: Mapping[str, Entries], paths: Mapping[str, Path]) -> None:
    listed_in: dict[Path, str] = {}
    for split, named in entries.items():
        for _, file in named:
            if file in listed_in:
                raise UserError(
                    f"{paths[split]} must list images that are listed once; got {file.name}, which is in "
                    f"{paths[listed_in[file]].name} before. Remove one of the two."
                )
            listed_in[file] = split
            if not file.is_file():
                raise UserError(
                    f"{paths[split]} must list files that exist; got {file}, which does not. Copy the images, or the "
                    "lists that belong to them."
                )
