"""Which code a run is made with: the suite's commit, what a tree differs from it in, a norm from outside, a config."""

from __future__ import annotations

import hashlib
import inspect
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import yaml

from norm_layers.registry import NORMS, load_norm
from shared.catalog import ROOT

COUNTED = ("--", ".", ":(exclude)benchmarks/results")
"""What benchmarks wrote does not count: the next one measures the same code."""
SOURCES = (".py", ".c", ".cpp", ".cu", ".h")
"""Untracked files that may be code. Those of a folder of runs in the tree change from run to run, and are none."""
UNKNOWN = "unknown"


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=True).stdout


@cache
def source_version() -> tuple[str, bool]:
    """Return the commit of the source tree ("unknown" outside git) and whether the tree differs from it."""
    try:
        changed = _git("status", "--porcelain", *COUNTED).strip()
        return _git("rev-parse", "--short=10", "HEAD").decode().strip(), bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN, True


@cache
def source_diff() -> str | None:
    """Return a checksum of what the source tree differs from its commit in; None where it does not, or outside git."""
    try:
        if not source_version()[1]:
            return None
        changes = _git("diff", "--no-color", "--no-ext-diff", "--no-textconv", "HEAD", *COUNTED)
        listed = _git("ls-files", "-z", "--others", "--exclude-standard", *COUNTED).decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        return None
    digest = hashlib.sha256(changes)
    files = sorted(name for name in listed if name.endswith(SOURCES))
    for name in files:
        file = ROOT / name
        digest.update(name.encode() + b"\0" + (file.read_bytes() if file.is_file() else b"") + b"\0")
    return digest.hexdigest()[:12] if changes or files else None


@cache
def norm_source(norm: str) -> str | None:
    """Return a checksum of the source file of a norm from outside, as the process first saw it.

    None for the suite's own, and for a norm without a source file.

    Args:
        norm: The norm as given.

    Raises:
        ValueError: If the norm cannot be imported.
    """
    if norm in NORMS:
        return None
    layer = load_norm(norm)
    try:
        file = inspect.getsourcefile(layer)
    except TypeError:  # an object that can be called, and whose class may be anyone's
        file = getattr(sys.modules[norm.partition(":")[0]], "__file__", None)
    if file is None or not Path(file).is_file():
        return None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]


def config_source(configs: Sequence[Path]) -> str | None:
    """Return a checksum of what config files set, whatever their comments say; None where there is no file.

    Args:
        configs: The YAML files, the later ones over the earlier.
    """
    if not configs:
        return None
    settings = [yaml.safe_load(config.read_text()) for config in configs]
    return hashlib.sha256(json.dumps(settings, default=str).encode()).hexdigest()[:12]


def both(begun: str | None, ended: str | None) -> str | None:
    """Return one checksum for a run that was resumed: that of its beginning, and another one that it ended with."""
    return begun if begun == ended else f"{begun or 'clean'}, {ended or 'clean'}"
