"""The dashboards name nothing that runs do not log, and are made once."""

import json
from typing import Any

import pytest
from wandb_runs import TASKS, end, record, start

from shared.dashboard.__main__ import main
from shared.make import target_commands

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_wandb")]
COMMON = {"task", "norm", "num_groups", "batch_size", "seed"}


@pytest.fixture(scope="module")
def dry() -> dict[str, Any]:
    """What `make dashboard dry=1` prints without a key or a server."""
    (command,) = target_commands("dashboard", {"dry": "1"}, {})
    out, _ = end(start(command, WANDB_API_KEY="", WANDB_BASE_URL="http://127.0.0.1:9"))
    return json.loads(out)


def keys(part: Any) -> set[tuple[str, str]]:
    """Return every (section, key) that a part of a dashboard names; "logged" is history or summary."""
    found: set[tuple[str, str]] = set()
    if isinstance(part, list):
        return found.union(*map(keys, part))
    if not isinstance(part, dict):
        return found
    if {"section", "name"} <= part.keys() and isinstance(part["section"], str):
        found.add((part["section"], part["name"].removesuffix(".value")))
    for key, value in part.items():
        if key == "metrics":
            found |= {("logged", name) for name in value}
        elif key == "groupBy":
            found.add(("config", value.removesuffix(".value")) if value.endswith(".value") else ("run", value))
        elif key in ("xAxis", "yAxis"):
            section, colon, name = value.partition(":")
            found.add((section, name.removesuffix(".value")) if colon else ("logged", value))
        elif key == "columnOrder":
            found |= {(c.partition(":")[0], c.partition(":")[2].removesuffix(".value")) for c in value}
        elif key not in ("localPanelSettings", "settings"):
            found |= keys(value)
    return found


def missing(part: Any, served: list[Any]) -> set[tuple[str, str]]:
    """Return the keys of a part that none of the runs has."""
    known = {("run", name) for name in ("displayName", "createdAt", "group")} | {("logged", "_step")}
    for run in served:
        known |= {("config", key) for key in run.settings()}
        known |= {("summary", key) for key in run.summary}
        known |= {("logged", key) for key in run.logged() | set(run.summary)}
    return keys(part) - known


def task_parts(spec: dict[str, Any]) -> dict[str, list[Any]]:
    """Return what each task's section of the workspace and chapter of the report show."""
    sections = spec["workspace"]["spec"]["section"]["panelBankConfig"]["sections"]
    grids = [block["metadata"] for block in spec["report"]["spec"]["blocks"] if block["type"] == "panel-grid"]
    parts = {section["name"]: [section["panels"]] for section in sections}
    for grid in grids:
        parts[grid["runSets"][0]["name"]].append(grid)
    return parts


def all_missing(spec: dict[str, Any], online_runs) -> set[tuple[str, str]]:
    served = {task: run.served for task, run in online_runs.items()}
    found = [missing(part, [served[task]]) for task, parts in task_parts(spec).items() for part in parts]
    return set().union(*found, missing(spec, list(served.values())))


def test_every_key_is_one_that_a_run_of_the_task_logs(dry, online_runs):
    parts = task_parts(dry)
    assert list(parts) == list(TASKS)
    assert all(len(each) == 2 for each in parts.values())
    for task, (panels, _) in parts.items():
        headline = record(online_runs[task].path)["headline"]
        assert ("logged", f"final/{headline}") in keys(panels)
        assert ("logged", "trainer/global_step") in keys(panels)
    assert {name for section, name in keys(dry) if section == "config"} >= COMMON | {"transfer", "method"}
    assert ("config", "batch_size") in keys(parts["classification"][0])
    assert all_missing(dry, online_runs) == set()


@pytest.mark.parametrize(
    ("right", "wrong", "named"),
    [
        ('"final/test/robust_top1"', '"final/test/robust_top"', ("logged", "final/test/robust_top")),
        ('"val/entropy"', '"val/entropie"', ("logged", "val/entropie")),
        ('"norm.value"', '"nrom.value"', ("config", "nrom")),
        ('"config:transfer.value"', '"config:transfers.value"', ("config", "transfers")),
        ('"summary:final/test/top1"', '"summary:final/test/top"', ("summary", "final/test/top")),
        ('"trainer/global_step"', '"trainer/step"', ("logged", "trainer/step")),
    ],
)
def test_a_misspelt_key_is_found(right, wrong, named, dry, online_runs):
    text = json.dumps(dry)
    assert right in text
    assert all_missing(json.loads(text.replace(right, wrong)), online_runs) == {named}


def test_a_second_call_updates_what_the_first_one_made(server, dry, tmp_path, capsys):
    assert main([f"--runs={tmp_path}"]) == 0
    first = capsys.readouterr().out.splitlines()
    made = {name: dict(view) for name, view in server.views.items()}
    assert [view["type"] for view in made.values()] == ["project-view", "runs"]
    assert [line.split(": ")[0] for line in first] == ["workspace created", "report created"]
    assert all(line.split(": ")[1].startswith(server.address) for line in first)
    assert server.projects == ["norm-suite"]

    assert main([f"--runs={tmp_path}"]) == 0
    second = capsys.readouterr().out.splitlines()
    assert second == [line.replace("created", "updated") for line in first]
    assert server.views.keys() == made.keys()
    assert [view["spec"] for view in server.views.values()] == [view["spec"] for view in made.values()]
    assert server.unknown == []
    workspace, report = (json.loads(view["spec"]) for view in made.values())
    assert workspace == dry["workspace"]["spec"]
    assert keys(report) == keys(dry["report"]["spec"])


def test_another_project_gets_dashboards_of_its_own(server, tmp_path, capsys):
    main([f"--runs={tmp_path}", "--project=one"])
    main([f"--runs={tmp_path}", "--project=two"])
    assert [view["projectName"] for view in server.views.values()] == ["one", "one", "two", "two"]
    assert capsys.readouterr().out.count("created") == 4


def test_a_deleted_view_is_told_and_not_made_again(server, tmp_path, capsys):
    main([f"--runs={tmp_path}"])
    server.views.clear()
    with pytest.raises(SystemExit) as stop:
        main([f"--runs={tmp_path}"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "view not found" in line
    assert "dashboard.json" in line
    assert server.views == {}


@pytest.mark.parametrize("damage", ["{", "[]", '{"place": 3}'])
def test_a_damaged_note_is_named_and_nothing_is_made(server, tmp_path, capsys, damage):
    (tmp_path / "dashboard.json").write_text(damage)
    with pytest.raises(SystemExit) as stop:
        main([f"--runs={tmp_path}"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "dashboard.json must hold the ids of the dashboards" in line
    assert server.views == {}


@pytest.mark.parametrize(
    ("flags", "settings", "named"),
    [
        (["--dry=yes"], {}, "dry must be 0 or 1"),
        ([], {"WANDB_API_KEY": ""}, "make dashboard needs a W&B key"),
        ([], {"WANDB_API_KEY": "b" * 40}, "make dashboard needs an answer of W&B; got: "),
    ],
)
def test_mistakes_are_one_line(flags, settings, named, monkeypatch, tmp_path, capsys):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        main([*flags, f"--runs={tmp_path}"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {named}")
    assert not list(tmp_path.iterdir())
