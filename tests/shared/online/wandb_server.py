"""A small W&B on the loopback: what its clients send, kept in plain objects, with faults on demand.

Only the standard library. It answers the requests that a run, `wandb sync`, `wandb sweep`, `wandb agent` and saved
workspaces make; any other one is an error that `unknown` notes. Errors of the GraphQL layer come as HTTP 200 with
`errors`, as from W&B, because a client tries again for minutes after a 5xx or a dropped connection.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from base64 import b64decode
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from wandb_operations import OPERATIONS, GraphQLError

KEY = "a" * 40
ENTITY = "someone"


@dataclass
class ServedRun:
    """One W&B run as the server holds it.

    Args:
        name: Its id in addresses.
        project: Its project.
        entity: Its user or team.
    """

    name: str
    project: str
    entity: str
    display_name: str = ""
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    received_lines: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    sweep: str | None = None
    exit_code: int | None = None
    stops: int = 0

    def settings(self) -> dict[str, Any]:
        """Return the config without W&B's own entry, as plain values."""
        return {key: entry["value"] for key, entry in self.config.items() if key != "_wandb"}

    def logged(self) -> set[str]:
        """Return every key of the history."""
        return {key for row in self.history for key in row}


class WandbServer:
    """W&B on 127.0.0.1 at a free port, in threads of this process.

    Attributes:
        runs: Every run by its id.
        views: Every saved workspace and report by its id.
        sweeps: Every sweep by its id.
        operations: The GraphQL operations that came, in order.
        unknown: Requests that it has no answer to.
        refused: Operations that it answers with an error of GraphQL.
        fault: HTTP status that every request gets instead of an answer; None for none.
    """

    def __init__(self) -> None:
        self.runs: dict[str, ServedRun] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.sweeps: dict[str, dict[str, Any]] = {}
        self.projects: list[str] = []
        self.operations: list[str] = []
        self.unknown: list[str] = []
        self.fault: int | None = None
        self.refused: set[str] = set()
        self.lock = threading.RLock()
        self.is_dead = False
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"server_state": self}))
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def environment(self) -> dict[str, str]:
        """Return the variables that send W&B's clients here."""
        return {"WANDB_BASE_URL": self.address, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}

    def kill(self) -> None:
        """Vanish: connections break, and new ones are refused."""
        self.is_dead = True
        self._http.shutdown()
        self._http.server_close()

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a GraphQL request."""
        found = re.search(r"\b(?:query|mutation)\s+(\w+)", query)
        name = found[1] if found else query
        with self.lock:
            self.operations.append(name)
            if name in self.refused:
                return {"data": None, "errors": [{"message": "permission denied"}]}
            if name not in OPERATIONS:
                self.unknown.append(name)
                return {"data": None, "errors": [{"message": f"no such operation: {name}"}]}
            try:
                return {"data": OPERATIONS[name](self, variables)}
            except GraphQLError as error:
                return {"data": None, "errors": [{"message": str(error)}]}
            except (KeyError, ValueError, TypeError) as error:  # else a client would try again for minutes
                self.unknown.append(f"{name} {variables}: {error!r}")
                return {"data": None, "errors": [{"message": repr(error)}]}

    def run(self, *, entity: str | None, project: str | None, name: str) -> tuple[ServedRun, bool]:
        """Return a run, made if it is not there, and whether it was made."""
        project = project or "uncategorized"
        if project not in self.projects:
            self.projects.append(project)
        is_new = name not in self.runs
        return self.runs.setdefault(name, ServedRun(name, project, entity or ENTITY)), is_new

    def stream(self, name: str, sent: dict[str, Any]) -> None:
        """Take what a run streams: history and summary lines, files, its end."""
        with self.lock:
            run = self.runs[name]
            history = sent.get("files", {}).get("wandb-history.jsonl")
            if history:
                rows = [json.loads(line) for line in history["content"]]
                run.received_lines += len(rows)
                run.history[history["offset"] : history["offset"] + len(rows)] = rows
            if summary := sent.get("files", {}).get("wandb-summary.json"):
                run.summary = json.loads(summary["content"][-1])
            if sent.get("complete"):
                run.stops += 1
                run.exit_code = sent.get("exitcode")


class _Handler(BaseHTTPRequestHandler):
    """Answers one request a connection."""

    server_state: WandbServer

    def do_POST(self) -> None:
        state = self.server_state
        body = self._body()
        if self._refused():
            return
        if self.path == "/graphql":
            sent = json.loads(body)
            self._send(200, json.dumps(state.answer(sent["query"], sent.get("variables") or {})).encode())
        elif found := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            state.stream(found[1], json.loads(body))
            self._send(200, b"{}")
        elif "/otel/" in self.path:
            self._send(200, b"{}")
        else:
            self._lost()

    def do_PUT(self) -> None:
        state = self.server_state
        body = self._body()
        if self._refused():
            return
        if found := re.fullmatch(r"/storage/([^/]+)/(.+)", self.path):
            with state.lock:
                state.runs[found[1]].files[found[2]] = body
            self._send(200, b"")
        else:
            self._lost()

    def do_GET(self) -> None:
        if not self._refused():
            self._lost()

    def _lost(self) -> None:
        with self.server_state.lock:
            self.server_state.unknown.append(f"{self.command} {self.path}")
        self._send(404, b"{}")

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _refused(self) -> bool:
        """Answer with a fault, and tell whether there was one."""
        state = self.server_state
        if state.is_dead:
            self.close_connection = True
            return True
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        needs_key = not self.path.startswith(("/storage/", "/sdk/otel/"))
        is_known = not needs_key or (given and b64decode(given).decode().endswith(f":{KEY}"))
        status = state.fault or (None if is_known else 401)
        if status is not None:
            self._send(status, b'{"errors": [{"message": "refused"}]}')
        return status is not None

    def _send(self, status: int, body: bytes) -> None:
        if self.server_state.is_dead:
            return
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
