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
INCOMPLETE = " without learn2learn"
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


def is_ready(*, complete: bool = False) -> bool:
    """Return whether .venv is what requirements.lock asks for; `complete`: with learn2learn, too."""
    stamp = VENV / "norm-suite-stamp"
    if not (PYTHON.exists() and stamp.is_file()):
        return False
    wanted = [fingerprint()] if complete else [fingerprint(), fingerprint() + INCOMPLETE]
    return stamp.read_text() in wanted


def works(python: Path) -> bool:
    """Return whether an interpreter runs."""
    try:
        return subprocess.run([str(python), "-c", ""], check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def wanted_requirements(torch_backend: str | None) -> str:
    """Return requirements.lock, without the GPU's libraries where UV_TORCH_BACKEND=cpu asks for torch without them."""
    lines = (ROOT / "requirements.lock").read_text().splitlines(keepends=True)
    unwanted = ("nvidia-", "cuda-", "triton==") if torch_backend == "cpu" else ()
    return "".join(line for line in lines if not line.startswith(unwanted))


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


def succeeds(command: list) -> bool:
    """Run a command and return whether it succeeded."""
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def run(command: list, failure: str) -> None:
    """Run a command; on failure end with one line and exit code 1."""
    if not succeeds(command):
        raise SystemExit(f"error: {failure}")


def install(sync: list, requirements: Path, failure: str) -> str:
    """Install the locked packages; without learn2learn where it cannot be. Return what the stamp adds about it."""
    requirements.write_text(wanted_requirements(os.environ.get("UV_TORCH_BACKEND")))
    if succeeds([*sync, str(requirements)]):
        return ""
    lines = requirements.read_text().splitlines(keepends=True)
    requirements.write_text("".join(line for line in lines if not line.startswith("learn2learn==")))
    print("Trying again without learn2learn …", file=sys.stderr, flush=True)
    run([*sync, str(requirements)], failure)
    print(
        "learn2learn could not be installed (see above; it needs a C compiler and Python's headers): everything else "
        "is, and few-shot draws the same episodes with its own sampler. `make setup` tries again.",
        file=sys.stderr,
        flush=True,
    )
    return INCOMPLETE


def ensure(*, quiet: bool = True) -> None:
    """Bring .venv up to date with requirements.lock, once for any number of callers at a time.

    Args:
        quiet: Say nothing if there is nothing to do.
    """
    if is_ready(complete=not quiet):
        if not quiet:
            print("The environment in .venv is up to date.")
        return
    try:
        TOOLS.mkdir(exist_ok=True)
    except OSError as error:
        raise SystemExit(f"error: the repository must be writable to set up .venv; got: {error}") from None
    with (TOOLS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_ready(complete=not quiet):
            return
        stamp = VENV / "norm-suite-stamp"
        stamp.unlink(missing_ok=True)  # an interrupted installation must not look finished
        first = not works(PYTHON)
        print(
            "Setting up .venv" + (" (first time: several GB, some minutes)" if first else "") + " …",
            file=sys.stderr,
            flush=True,
        )
        uv = find_uv()
        if first:
            run(
                [uv, "venv", "--quiet", "--clear", "--python", ">=3.11", str(VENV)],
                "no Python 3.11 or newer was found; install one.",
            )
        target = ["--quiet", "--python", str(PYTHON)]
        failure = "the packages of requirements.lock could not be installed (see above); `make setup` tries again."
        missing = install([uv, "pip", "sync", *target], TOOLS / "requirements.txt", failure)
        editable = [word for folder in members() for word in ("-e", str(folder.relative_to(ROOT)))]
        run([uv, "pip", "install", *target, "--no-deps", *editable], failure)
        stamp.write_text(fingerprint() + missing)


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
