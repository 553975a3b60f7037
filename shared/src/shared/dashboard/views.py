"""What the dashboards show of each task, as its module and the paper's tables say."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from shared.catalog import Task
from shared.report.paper import PaperEntry, load_paper_tables
from shared.task import TaskModule

AXES = ("norm", "num_groups", "batch_size", "seed")
"""Config keys of every run, beside its task."""
SWEPT = ("batch_size", "num_groups")
"""Axes that are numbers, over which a table of the paper may go."""


@dataclass(frozen=True, kw_only=True)
class TaskView:
    """The keys of one task's section.

    Args:
        name: The task's name.
        title: One phrase.
        headline: Metric of the record to lead with.
        compared: Further metrics of the record.
        curves: Metrics logged by epoch.
        swept: Config keys over which the headline is drawn.
        further_axes: Config keys that only this task has.
    """

    name: str
    title: str
    headline: str
    compared: tuple[str, ...]
    curves: tuple[str, ...]
    swept: tuple[str, ...]
    further_axes: tuple[str, ...]

    @property
    def finals(self) -> list[str]:
        """Return the summary keys of the headline and the metrics beside it."""
        return [final(name) for name in (self.headline, *self.compared)]


def final(metric: str) -> str:
    """Return the summary key under which a finished run has a metric of its record."""
    return f"final/{metric}"


def _num_values(entries: list[PaperEntry], key: str) -> int:
    """Return at how many values of a setting, all others being the same, the paper measured one norm, at most."""
    values: dict[object, set[object]] = {}
    for entry in entries:
        others = tuple(item for item in entry.setting.items() if item[0] != key)
        if key in entry.setting:
            values.setdefault((entry.norm, entry.metric, others), set()).add(entry.setting[key])
    return max(map(len, values.values()), default=0)


def task_views(tasks: dict[str, Task]) -> list[TaskView]:
    """Return the view of every task.

    Args:
        tasks: The tasks by name.
    """
    tables = load_paper_tables()
    views = []
    for task in tasks.values():
        module: type[TaskModule] = importlib.import_module(f"{task.name}.__main__").MODULE
        entries = [entry for number in task.tables for entry in tables[number].entries]
        views.append(
            TaskView(
                name=task.name,
                title=task.title,
                headline=module.headline,
                compared=tuple(module.compared),
                curves=tuple(module.curves),
                swept=tuple(key for key in SWEPT if _num_values(entries, key) > 2),
                further_axes=tuple(module.further_axes),
            )
        )
    return views
