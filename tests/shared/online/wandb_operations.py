"""The GraphQL operations of the small W&B: each takes the server and the variables, and returns the answer's data."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wandb_server import ServedRun, WandbServer

Variables = dict[str, Any]


class GraphQLError(Exception):
    """An error that W&B answers with HTTP 200."""


def _viewer(server: WandbServer, variables: Variables) -> Variables:
    viewer = {"id": "VXNlcjox", "entity": "someone", "username": "someone", "email": "s@example.org", "flags": "{}"}
    return {"viewer": {**viewer, "admin": False, "teams": {"edges": []}, "apiKeys": {"edges": []}}}


def _resume_status(server: WandbServer, variables: Variables) -> Variables:
    run = server.runs.get(variables["name"])
    if run is None:
        return {"model": None}
    bucket = {
        "id": run.name, "name": run.name, "displayName": run.display_name, "notes": None, "tags": run.tags,
        "config": json.dumps(run.config), "summaryMetrics": json.dumps(run.summary), "wandbConfig": '{"t": 1}',
        "historyLineCount": len(run.history), "eventsLineCount": 0, "logLineCount": 0, "eventsTail": "[]",
        "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
    }  # fmt: skip
    return {"model": {"id": run.project, "name": run.project, "entity": _entity(run), "bucket": bucket}}


def _run(server: WandbServer, variables: Variables) -> Variables:
    run = server.runs.get(variables["name"])
    if run is None or (run.entity, run.project) != (variables["entity"], variables["project"]):
        return {"project": {"run": None}}
    states = {None: "crashed", 0: "finished"}
    empty = ("commit", "heartbeatAt", "description", "notes", "systemMetrics", "historyKeys")
    fields = {
        "id": run.name, "name": run.name, "displayName": run.display_name, "tags": run.tags, "sweepName": run.sweep,
        "state": states.get(run.exit_code, "failed"), "config": json.dumps(run.config), "projectId": "1",
        "summaryMetrics": json.dumps(run.summary), "group": run.group, "jobType": run.job_type, "readOnly": False,
        "user": {"name": "someone", "username": "someone"},
        "createdAt": "2026-01-01T00:00:00Z", "historyLineCount": len(run.history),
    }  # fmt: skip
    return {"project": {"run": fields | dict.fromkeys(empty)}}


def _entity(run: ServedRun) -> Variables:
    return {"id": run.entity, "name": run.entity}


def _upsert_bucket(server: WandbServer, variables: Variables) -> Variables:
    if variables.get("entity") not in (None, "", "someone"):
        raise GraphQLError(f"permission denied: entity {variables['entity']} not found")
    run, is_new = server.run(
        entity=variables.get("entity"),
        project=variables.get("project"),
        name=variables.get("name") or variables["id"],
    )
    if variables.get("config"):
        run.config = json.loads(variables["config"])
    run.display_name = variables.get("displayName") or run.display_name
    run.group = variables.get("groupName") or run.group
    run.job_type = variables.get("jobType") or run.job_type
    run.tags = variables.get("tags") or run.tags
    run.sweep = variables.get("sweep") or run.sweep
    project = {"id": run.project, "name": run.project, "entity": _entity(run)}
    bucket = {
        "id": run.name, "name": run.name, "displayName": run.display_name, "description": None, "project": project,
        "config": json.dumps(run.config), "sweepName": run.sweep, "historyLineCount": len(run.history),
    }  # fmt: skip
    return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}


def _create_run_files(server: WandbServer, variables: Variables) -> Variables:
    run = variables["run"]
    files = [{"name": name, "uploadUrl": f"{server.address}/storage/{run}/{name}"} for name in variables["files"]]
    return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}


def _projects(server: WandbServer, variables: Variables) -> Variables:
    common = {"entityName": "someone", "isBenchmark": False, "createdAt": "2026-01-01T00:00:00Z", "user": None}
    nodes = [{"id": name, "name": name, **common} for name in server.projects]
    edges = [{"node": node, "cursor": node["name"]} for node in nodes]
    return {"models": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}


def _project_number(server: WandbServer, variables: Variables) -> Variables:
    name = variables["projectName"]
    return {"project": {"id": name, "internalId": name} if name in server.projects else None}


def _create_project(server: WandbServer, variables: Variables) -> Variables:
    name = variables["input"]["name"]
    server.projects.append(name)
    made = {"id": name, "name": name, "entityName": "someone"}
    return {"result": {"project": made, "model": made, "inserted": True}}


def _upsert_view(server: WandbServer, variables: Variables) -> Variables:
    given = variables.get("id")
    if given and given not in server.views:
        raise GraphQLError("view not found")
    view = server.views.setdefault(given or f"view{len(server.views) + 1}", {})
    view.update({key: value for key, value in variables.items() if key != "id"})
    name = next(key for key, each in server.views.items() if each is view)
    view["id"] = name
    return {"upsertView": {"view": _view(view), "inserted": not given}}


def _view(view: Variables) -> Variables:
    project = {"id": view["projectName"], "name": view["projectName"], "entityName": view["entityName"]}
    kept = {key: view.get(key) for key in ("id", "name", "type", "displayName", "description", "spec")}
    return {**kept, "project": project, "createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z"}


def _find_view(server: WandbServer, variables: Variables) -> Variables:
    found = [view for view in server.views.values() if view["name"] == variables["viewName"]]
    return {"project": {"allViews": {"edges": [{"node": _view(view)} for view in found]}}}


def _find_report(server: WandbServer, variables: Variables) -> Variables:
    view = server.views.get(variables["reportId"])
    return {"view": None if view is None else _view(view)}


def _upsert_sweep(server: WandbServer, variables: Variables) -> Variables:
    import yaml

    name = f"sweep{len(server.sweeps) + 1}"
    config = yaml.safe_load(variables["config"])
    choices = {key: one.get("values", [one.get("value")]) for key, one in config["parameters"].items()}
    cells = [dict(zip(choices, values)) for values in itertools.product(*choices.values())]
    project = {
        "id": variables["projectName"],
        "name": variables["projectName"],
        "entity": {"id": "1", "name": "someone"},
    }
    server.sweeps[name] = {
        "id": name, "name": name, "state": "RUNNING", "config": variables["config"], "program": config["program"],
        "waiting": cells, "agents": [], "project": project,
    }  # fmt: skip
    return {"upsertSweep": {"sweep": {"name": name, "project": project}, "configValidationWarnings": []}}


def _sweep(server: WandbServer, variables: Variables) -> Variables:
    sweep = server.sweeps.get(variables["sweep"])
    if sweep is None:
        return {"project": {"sweep": None}}
    fields = {key: sweep[key] for key in ("id", "name", "state", "config")}
    return {"project": {"sweep": {**fields, "method": "grid", "runs": {"edges": []}}}}


def _create_agent(server: WandbServer, variables: Variables) -> Variables:
    agents = server.sweeps[variables["sweep"]]["agents"]
    agents.append(f"{variables['sweep']}/agent{len(agents) + 1}")
    return {"createAgent": {"agent": {"id": agents[-1]}}}


def _heartbeat(server: WandbServer, variables: Variables) -> Variables:
    """Give the agent its next cell when it runs none, and its leave when none is left."""
    sweep = server.sweeps[variables["id"].partition("/")[0]]
    commands: list[Variables] = []
    if not json.loads(variables["runState"] or "{}"):
        if sweep["waiting"]:
            cell = sweep["waiting"].pop(0)
            name = f"{sweep['name']}cell{len(sweep['waiting'])}"
            args = {key: {"value": value} for key, value in cell.items()}
            commands = [{"type": "run", "run_id": name, "program": sweep["program"], "args": args}]
        else:
            sweep["state"] = "FINISHED"
            commands = [{"type": "exit"}]
    return {"agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}}


OPERATIONS: dict[str, Callable[[WandbServer, Variables], Variables]] = {
    "Viewer": _viewer,
    "GetDefaultEntity": _viewer,
    "GetViewer": _viewer,
    "RunResumeStatus": _resume_status,
    "UpsertBucket": _upsert_bucket,
    "Run": _run,
    "CreateRunFiles": _create_run_files,
    "RunStoppedStatus": lambda *_: {"project": {"run": {"stopped": False}}},
    "ServerFeaturesQuery": lambda *_: {"serverInfo": {"features": []}},
    "OrganizationCoreWeaveOrganizationID": lambda *_: {"entity": {"organization": None}},
    "GetProjects": _projects,
    "ProjectInternalId": _project_number,
    "CreateProject": _create_project,
    "UpsertView2": _upsert_view,
    "upsertView": _upsert_view,
    "View": _find_view,
    "SpecificReport": _find_report,
    "UpsertSweep": _upsert_sweep,
    "SweepWithRuns": _sweep,
    "GetSweep": _sweep,
    "GetSweepState": _sweep,
    "CreateAgent": _create_agent,
    "Heartbeat": _heartbeat,
}
