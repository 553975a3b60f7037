"""Makes .venv from requirements.lock, with uv; runs under any Python 3 before anything is installed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
VENV = ROOT / ".venv"
TOOLS = ROOT / ".tools"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def members() -> list:
    """Return the folders of the workspace's packages, the layers first."""
    return [
        path.parent
        for pattern in ("packages/*", "shared", "tasks/*")
        for path in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))
    ]


def fingerprint() -> str:
    """Return a hash of everything that the environment is made from."""
    digest = hashlib.sha256()
    for path in [ROOT / "requirements.lock", *(folder / "pyproject.toml" for folder in members())]:
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


def is_ready() -> bool:
    """Return whether .venv is what requirements.lock asks for."""
    stamp = VENV / "norm-suite-stamp"
    return PYTHON.exists() and stamp.is_file() and stamp.read_text() == fingerprint()


def find_uv() -> str:
    """Return the path of uv: from PATH, else from .tools, where pip puts it once."""
    found = shutil.which("uv")
    if found:
        return found
    own = TOOLS / PYTHON.relative_to(VENV).with_name("uv")
    if not own.exists():
        run(
            [sys.executable, "-m", "venv", str(TOOLS)],
            "Python's venv module is missing: install it (python3-venv) or uv.",
        )
        pip = TOOLS / PYTHON.relative_to(VENV)
        run(
            [str(pip), "-m", "pip", "install", "--quiet", "uv"],
            "uv could not be installed with pip; install uv yourself.",
        )
    return str(own)


def run(command: list, failure: str) -> None:
    """Run a command; on failure end with one line and exit code 1."""
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        raise SystemExit(f"error: {failure}")


def ensure(*, quiet: bool = True) -> None:
    """Bring .venv up to date with requirements.lock, once for any number of callers at a time.

    Args:
        quiet: Say nothing if there is nothing to do.
    """
    if is_ready():
        if not quiet:
            print("The environment in .venv is up to date.")
        return
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_ready():
            return
        first = not PYTHON.exists()
        print(
            "Setting up .venv" + (" (first time: several GB, some minutes)" if first else "") + " …",
            file=sys.stderr,
            flush=True,
        )
        uv = find_uv()
        if first:
            run(
                [uv, "venv", "--quiet", "--python", ">=3.11", str(VENV)],
                "no Python 3.11 or newer was found; install one.",
            )
        target = ["--quiet", "--python", str(PYTHON)]
        failure = "the packages of requirements.lock could not be installed (see above); `make setup` tries again."
        run([uv, "pip", "sync", *target, "requirements.lock"], failure)
        editable = [word for folder in members() for word in ("-e", str(folder.relative_to(ROOT)))]
        run([uv, "pip", "install", *target, "--no-deps", *editable], failure)
        (VENV / "norm-suite-stamp").write_text(fingerprint())


def write_lock() -> None:
    """Resolve the workspace anew and write requirements.lock: every version, no address."""
    uv = find_uv()
    run([uv, "lock", "--quiet", "--upgrade"], "the dependencies could not be resolved (see above).")
    command = [
        uv,
        "export",
        "--quiet",
        "--no-hashes",
        "--no-emit-workspace",
        "--no-annotate",
        "--no-header",
        "--all-packages",
    ]
    run([*command, "--output-file", "requirements.lock"], "requirements.lock could not be written (see above).")


if __name__ == "__main__":
    ensure(quiet=False)
