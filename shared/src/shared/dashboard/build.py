"""Builds the workspace and the report out of the tasks' views; talks to no server by itself."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the library's own, about its pydantic classes
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

from shared.dashboard.views import AXES, TaskView, final

NAME = "Which norm layer?"
STEP = "trainer/global_step"
STATUS = "status"
MANY_RUNS = 100
INTRODUCTION = (
    "Finished runs only. Bars and bands show mean and sd: over seeds where grouped by cell (task, config, norm, batch "
    "size); by norm they pool all runs of the run set below them, so narrow it to one config and batch size. "
    "The paper's numbers, confidence intervals and tests of significance are in the suite's own report, `make report`."
)


def finished() -> Any:
    """Return the filter on runs whose final numbers are there; W&B's own state is finished for stopped runs, too."""
    return expr.Summary(STATUS) == "done"


def bars(metric: str, *, group: Any, title: str) -> wr.BarPlot:
    """Return bars of a final metric: mean and standard deviation within each group."""
    return wr.BarPlot(
        title=title, metrics=[metric], orientation="v", groupby=group, groupby_aggfunc="mean",
        groupby_rangefunc="stddev", max_runs_to_show=MANY_RUNS, max_bars_to_show=MANY_RUNS,
    )  # fmt: skip


def curve(metric: str, *, group: Any) -> wr.LinePlot:
    """Return a metric over the optimiser steps: mean and standard deviation within each group."""
    return wr.LinePlot(
        title=metric, x=STEP, y=[metric], groupby=group, groupby_aggfunc="mean", groupby_rangefunc="stddev",
        max_runs_to_show=MANY_RUNS,
    )  # fmt: skip


def panels(view: TaskView, *, group: Any, grouped: str) -> list[Any]:
    """Return a task's panels, laid out three a row.

    Args:
        view: The task.
        group: What bars and curves are grouped by.
        grouped: The same, for titles.
    """
    made: list[Any] = [bars(name, group=group, title=f"{name} by {grouped}") for name in view.finals]
    made += [
        wr.ScatterPlot(
            title=f"{final(view.headline)} over {key}", x=wr.Config(key), y=wr.SummaryMetric(final(view.headline)),
            log_x=True,
        )
        for key in view.swept
    ]  # fmt: skip
    made += [curve(name, group=group) for name in view.curves]
    for index, panel in enumerate(made):
        panel.layout = wr.Layout(x=8 * (index % 3), y=6 * (index // 3), w=8, h=6)
        panel._id = stable_id(view.name, grouped, str(index))
    return made


def stable_id(*names: str) -> str:
    """Return an id for a part of a dashboard that is the same whenever it is built."""
    return hashlib.sha256("/".join(names).encode()).hexdigest()[:12]


def table_columns(views: Sequence[TaskView]) -> list[str]:
    """Return the columns of the run table: axes, how the run ended, and the headlines."""
    axes = list(dict.fromkeys(["task", *AXES, *(axis for view in views for axis in view.further_axes)]))
    finals = list(dict.fromkeys(final(view.headline) for view in views))
    return [
        "run:displayName",
        *(f"config:{axis}.value" for axis in axes),
        *(f"summary:{k}" for k in [STATUS, *finals]),
    ]


def build_workspace(views: Sequence[TaskView], *, entity: str, project: str) -> ws.Workspace:
    """Return the workspace: a section a task, and a run table grouped by task, norm and batch size.

    One run set feeds all sections, so that bars and curves are grouped by cell, whose name begins with the task.

    Args:
        views: The tasks.
        entity: User or team.
        project: Project.
    """
    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[
            ws.Section(
                name=view.name,
                panels=panels(view, group="Group", grouped="cell"),
                is_open=index == 0,
                layout_settings=ws.SectionLayoutSettings(columns=3, rows=2),
                panel_settings=ws.SectionPanelSettings(x_axis=STEP),
            )
            for index, view in enumerate(views)
        ],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=MANY_RUNS),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(finished()),
            groupby=[expr.Config(name) for name in ("task", "norm", "batch_size")],
            pinned_columns=table_columns(views),
        ),
    )
    workspace._internal_runset_id = stable_id("run set")
    return workspace


def build_report(views: Sequence[TaskView], *, entity: str, project: str, is_dry: bool = False) -> wr.Report:
    """Return the report: a chapter a task, with its own run set and the panels by norm and by cell.

    Args:
        views: The tasks.
        entity: User or team.
        project: Project.
        is_dry: Leave the run sets' project out, which W&B would have to be asked for.
    """
    blocks: list[Any] = [wr.P(INTRODUCTION)]
    for view in views:
        runset = wr.Runset(
            entity="" if is_dry else entity,
            project="" if is_dry else project,
            name=view.name,
            filters=expr.And(expr.Config("task") == view.name, finished()),
            groupby=["config.norm", "config.batch_size"],
            pinned_columns=table_columns([view]),
        )
        runset._id = stable_id("run set", view.name)
        headline = final(view.headline)
        by_cell = bars(headline, group="Group", title=f"{headline} by cell")
        by_norm = panels(view, group=wr.Config("norm"), grouped="norm")
        by_cell.layout = wr.Layout(x=0, y=6 * -(-len(by_norm) // 3), w=24, h=8)
        by_cell._id = stable_id(view.name, "cell")
        blocks += [wr.H2(view.name), wr.P(view.title), wr.PanelGrid(runsets=[runset], panels=[*by_norm, by_cell])]
    return wr.Report(
        entity=entity, project=project, title=NAME, description="Every task's finished runs", blocks=blocks
    )


def as_json(workspace: ws.Workspace, report: wr.Report) -> str:
    """Return what would be saved as JSON, the same whenever it is built."""
    models = {"workspace": workspace._to_model(), "report": report._to_model()}
    specs = {name: model.model_dump(mode="json", by_alias=True, exclude_none=True) for name, model in models.items()}
    return json.dumps(specs, indent=1, sort_keys=True) + "\n"
