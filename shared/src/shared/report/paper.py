"""The seven tables of "Batch Group Normalization" as printed, and one lookup into them.

The numbers live in `results/paper/table<n>.csv` of the repository, one row per printed number.
"""

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Setting = Mapping[str, int | str]
PaperValue = float | Literal["diverged"] | None

TITLES = {
    1: "Top-1 of BGN on ImageNet with ResNet-50, by number of groups G",
    2: "Top-1 on ImageNet with ResNet-50, by batch size per worker",
    3: "Accuracy on CIFAR-10 of DARTS, norm replaced in search and training",
    4: "Accuracy on CIFAR-10 of the MANAS architecture, norm replaced in training only",
    5: "Accuracy on CIFAR-10 of adversarially trained WideResNet-10-2",
    6: "Accuracy on miniImageNet of imprinted weights with ResNet-12, 5-way",
    7: "Accuracy on Office-31 of CAN with ResNet-50 (a Amazon, d DSLR, w Webcam)",
}
_FIXED_COLUMNS = ("table", "task", "dataset", "model", "norm", "metric", "printed")


@dataclass(frozen=True)
class PaperEntry:
    """One printed number.

    Args:
        norm: Registry name of the norm.
        setting: What the number belongs to, e.g. `{"batch_size": 64, "num_groups": 256}`.
        metric: Name of what is measured, in %.
        printed: The characters in the paper; `-` where the training diverged.
    """

    norm: str
    setting: Setting
    metric: str
    printed: str

    @property
    def value(self) -> float | Literal["diverged"]:
        """The number in %, or "diverged"."""
        return "diverged" if self.printed == "-" else float(self.printed)


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper.

    Args:
        number: 1 to 7.
        task: The experiment of this suite that reproduces it.
        dataset: Data set name.
        model: Model name.
        entries: The printed numbers, in reading order.
    """

    number: int
    task: str
    dataset: str
    model: str
    entries: tuple[PaperEntry, ...]

    @property
    def title(self) -> str:
        """What the table shows, in a few words."""
        return TITLES[self.number]

    def setting_keys(self) -> list[str]:
        """Names that a setting of this table may have."""
        return list(dict.fromkeys(key for entry in self.entries for key in entry.setting))

    def metrics(self) -> list[str]:
        """Names of the metrics in this table."""
        return list(dict.fromkeys(entry.metric for entry in self.entries))


def paper_directory() -> Path:
    """Return the folder of the paper's tables in the repository this package is installed from.

    Returns:
        `<repository>/results/paper`.

    Raises:
        FileNotFoundError: The package is not an editable install of the repository.
    """
    directory = Path(__file__).resolve().parents[4] / "results" / "paper"
    if not directory.is_dir():
        raise FileNotFoundError(
            f"results/paper must be in the repository; got no folder {directory}. "
            "Install `shared` in editable mode from a clone (make setup)."
        )
    return directory


@functools.cache
def load_paper_tables(directory: Path | None = None) -> dict[int, PaperTable]:
    """Read the paper's seven tables.

    Args:
        directory: Folder with `table1.csv` to `table7.csv`. None: `results/paper` of the repository.

    Returns:
        The tables by number.

    Raises:
        FileNotFoundError: A table is not there.
    """
    folder = paper_directory() if directory is None else directory
    return {number: _read_table(folder / f"table{number}.csv") for number in TITLES}


def _read_table(path: Path) -> PaperTable:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    entries = tuple(
        PaperEntry(norm=row["norm"], setting=_setting(row), metric=row["metric"], printed=row["printed"])
        for row in rows
    )
    first = rows[0]
    return PaperTable(int(first["table"]), first["task"], first["dataset"], first["model"], entries)


def _setting(row: Mapping[str, str]) -> dict[str, int | str]:
    return {
        key: int(text) if text.isdecimal() else text
        for key, text in row.items()
        if key not in _FIXED_COLUMNS and text != ""
    }


def paper_value(*, table: int, norm: str, setting: Setting, metric: str) -> PaperValue:
    """Look one number up.

    Keys that the table has and `setting` leaves out are ignored as long as one cell remains: `{"batch_size": 64}`
    is enough for BGN in Table 2, where each batch size has one G.

    Args:
        table: Number of the table, 1 to 7.
        norm: Registry name; a norm that is not in the paper has no number.
        setting: The cell, e.g. `{"batch_size": 64}`.
        metric: `top1`, `robust_top1`, `clean_top1` or `accuracy`.

    Returns:
        The number in %, "diverged", or None where the paper has no such cell.

    Raises:
        ValueError: The table, metric or a key of the setting does not exist, or several cells match.
    """
    entry = paper_entry(table=table, norm=norm, setting=setting, metric=metric)
    return entry.value if entry else None


def paper_entry(*, table: int, norm: str, setting: Setting, metric: str) -> PaperEntry | None:
    """Look one number up, with the characters that are printed. Arguments and errors as in `paper_value`."""
    tables = load_paper_tables()
    if table not in tables:
        raise ValueError(f"table must be one of {_names(tables)}; got {table}.")
    chosen = tables[table]
    if metric not in chosen.metrics():
        raise ValueError(f"metric must be one of {_names(chosen.metrics())} in table {table}; got {metric!r}.")
    keys = chosen.setting_keys()
    if foreign := sorted(set(setting) - set(keys)):
        raise ValueError(f"setting must use the keys {_names(keys)} of table {table}; got {foreign[0]!r}.")
    matches = [
        entry
        for entry in chosen.entries
        if entry.norm == norm
        and entry.metric == metric
        and all(str(entry.setting.get(key)) == str(wanted) for key, wanted in setting.items())
    ]
    if len(matches) > 1:
        raise ValueError(
            f"setting must single out one cell of table {table}; got {dict(setting)}, which matches "
            f"{len(matches)}. Give more of {_names(keys)}."
        )
    return matches[0] if matches else None


def _names(names: Mapping[int, PaperTable] | list[str]) -> str:
    return ", ".join(str(name) for name in names)
