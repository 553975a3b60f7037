"""A run's directory, its identity, and the one record that it leaves."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared.errors import UserError
from shared.locks import take_lock
from shared.source import UNKNOWN, config_source, norm_source, source_diff, source_version

SCHEMA = 1
MAX_NORM = 40
"""Letters of a norm in a run's name, which W&B takes up to 128 letters long."""
PATIENCE_SECONDS = 1.0
"""How long a process that is to train waits for those that only look whether the run is being trained."""
Scalar = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A measured number with its uncertainty.

    Args:
        value: The number, in `unit`.
        n: How many items it is a mean over; None if it is no mean.
        ci95: 95 % confidence interval over these items, in `unit`; None if there is none.
        unit: "%" or another unit; "" for a plain number.
    """

    value: float
    n: int | None = None
    ci95: tuple[float, float] | None = None
    unit: str = "%"


@dataclass(frozen=True, kw_only=True)
class Items:
    """What a percentage is a mean over, item by item, so that runs on the same items are compared in pairs.

    The metric is ``100 * sum(hits) / (each * len(hits))``.

    Args:
        kind: What an item is, in the plural ("episodes").
        key: Checksum of the items: two runs have the same one only if they saw the same items in the same order.
        each: Trials of one item (the queries of an episode; 1 for an image).
        hits: Trials that came out right, one number per item.
    """

    kind: str
    key: str
    each: int
    hits: list[int]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A measured number over a setting of the test, drawn as a curve.

    Args:
        title: What is shown ("PGD-20 accuracy over eps").
        x: What is varied, with its unit ("eps × 255").
        unit: Unit of the number.
        points: (x, value), x increasing.
    """

    title: str
    x: str
    unit: str
    points: list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class PaperCell:
    """Where the paper prints the number that a metric of ours stands beside.

    Args:
        table: The paper's table, 1 to 7.
        setting: The cell's setting, as in results/paper ({"batch_size": 64}).
        metric: The paper's metric name in that table.
        record_metric: Our metric's name in the record.
        comparable: Whether ours was measured under the paper's protocol on its data.
        why: If not comparable, what differs.
    """

    table: int
    setting: dict[str, Scalar]
    metric: str
    record_metric: str
    comparable: bool
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a task says of a finished run.

    Args:
        headline: Name of the metric that the report leads with.
        metrics: Every metric by name.
        selection: The rule that chose the headline number ("median of the last five epochs").
        model: Name of the network.
        protocol: The settings that two runs must share to stand in one table, as scalars.
        paper: The paper's cells beside which our numbers stand.
        readings: How unclear places of the paper were read, where it matters to the numbers.
        curves: Metric name to (epoch, value) points.
        items: Metric name to the items that it is a mean over, where runs can be compared item by item.
        profiles: Name to a number over a setting of the test.
        warnings: Reasons to doubt a number, each with the numbers that say so.
    """

    headline: str
    metrics: dict[str, Metric]
    selection: str
    model: str
    protocol: dict[str, Scalar]
    paper: list[PaperCell] = field(default_factory=list)
    readings: list[str] = field(default_factory=list)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    items: dict[str, Items] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is there whole or not at all; infinite and undefined numbers are refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def short_norm(norm: str) -> str:
    """Return a norm's name as it may stand in a file name: "pkg.module:MyNorm" becomes "mynorm".

    A name without Latin letters and digits becomes "norm" and four hexadecimal digits; a long one is cut.
    """
    name = norm.rpartition(":")[2]
    plain = re.sub(r"[^a-z0-9]+", "", name.lower())[:MAX_NORM]
    return plain or f"norm{hashlib.sha256(name.encode()).hexdigest()[:4]}"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run's directory and identity.

    Args:
        path: The run directory.
        name: Its name, which is also the W&B id.
        task: The task's name.
        config: The config's name.
        command: The command that makes the run again.
        commit: The commit of the code that started the run.
        dirty: Whether the code differed from the commit.
        source_diff: Checksum of the difference; None where there was none, "unknown" in runs from before it was noted.
        norm_source: Checksum of the source of a norm from outside; None for the suite's own.
        config_source: Checksum of what the config file sets; None where it is not known.
    """

    path: Path
    name: str
    task: str
    config: str
    command: str
    commit: str = UNKNOWN
    dirty: bool = True
    source_diff: str | None = UNKNOWN
    norm_source: str | None = None
    config_source: str | None = None

    @property
    def record_file(self) -> Path:
        """Where the record is, once the run is finished."""
        return self.path / "record.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint from which the run resumes."""
        return self.checkpoints / "last.ckpt"

    @property
    def is_finished(self) -> bool:
        """Whether the run has its record."""
        return self.record_file.is_file()


def run_name(*, task: str, norm: str, batch_size: int, seed: int) -> str:
    """Return a new name for a run: the cell, the seed and eight random hexadecimal digits."""
    return f"{task}-{short_norm(norm)}-bs{batch_size}-s{seed}-{secrets.token_hex(4)}"


def create_run(
    *, runs: Path, run_dir: Path | None, task: str, norm: str, config: str, batch_size: int, seed: int, command: str,
    config_files: Sequence[Path] = (), settings: str = "",
) -> Run:  # fmt: skip
    """Make the directory of a new run.

    Args:
        runs: Folder of all runs.
        run_dir: The run's own directory, which must not exist or be empty; None for a new one below `runs`.
        task: The task's name.
        norm: The norm as given.
        config: The config's name.
        batch_size: Images per worker and step.
        seed: The seed.
        command: The command that makes the run again.
        config_files: The YAML files that its settings come from.
        settings: All its settings, as YAML.

    Raises:
        UserError: If `run_dir` holds something.
        OSError: If the directory cannot be written; it is not left half-made.
    """
    name = run_name(task=task, norm=norm, batch_size=batch_size, seed=seed)
    path = run_dir or runs / task / name
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"run_dir must be new or empty; got {str(path)!r}. To go on with a run, give resume={path}.")
    commit, dirty = source_version()
    run = Run(
        path=path, name=name, task=task, config=config, command=command, commit=commit, dirty=dirty,
        source_diff=source_diff(), norm_source=norm_source(norm), config_source=config_source(config_files),
    )  # fmt: skip
    try:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        write_json(path / "run.json", {key: value for key, value in asdict(run).items() if key != "path"})
        if settings:
            write_text(path / "config.yaml", settings)
    except OSError:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return run


def open_run(path: Path) -> Run:
    """Open an existing run.

    Raises:
        UserError: If the folder is not a run's.
    """
    identity = path / "run.json"
    if not identity.is_file():
        raise UserError(f"resume must be the folder of a run (it holds run.json); got {str(path)!r}.")
    try:
        return Run(path=path, **json.loads(identity.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"run.json must say whose it is; got {identity}, which is damaged ({error}).") from error


def find_runs(folder: Path) -> Iterator[Run]:
    """Yield the runs at any depth below a folder, in the order of their paths; what is no run is passed over.

    Args:
        folder: Folder of runs.
    """
    for identity in sorted(folder.rglob("run.json")):
        try:
            yield open_run(identity.parent)
        except UserError:
            continue


def read_record(file: Path) -> dict[str, Any]:
    """Return the JSON object of a record, with what every command that lists runs looks at.

    Args:
        file: A record.json.

    Raises:
        ValueError: If it cannot be read, or is no record.
    """
    try:
        record = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} must be a record; it cannot be read ({error})") from error
    names = ("status", "norm", "command", "finished", "headline")
    is_one = isinstance(record, dict) and all(isinstance(record.get(name), str) for name in names)
    metrics = record.get("metrics") if is_one else None
    if not isinstance(metrics, dict) or not all(
        isinstance(metric, dict) and isinstance(metric.get("value"), int | float | None) for metric in metrics.values()
    ):
        raise ValueError(f"{file} must be a record; it has not what a record has")
    return record


@contextmanager
def hold_run(run: Run) -> Iterator[None]:
    """Keep other processes from training a run while this one does.

    Raises:
        UserError: If another process holds it, or its files cannot be written.
    """
    try:
        file = (run.path / "run.json").open("r+")
    except OSError as error:
        raise UserError(f"a run must be one whose files can be written; got {run.path} ({error}).") from error
    with file:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not take_lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            if time.monotonic() > deadline:
                raise UserError(f"a run must be trained by one process at a time; {run.path} is being trained.")
            time.sleep(0.02)
        yield


def is_held(run: Run) -> bool:
    """Return whether a process is training the run."""
    try:
        with (run.path / "run.json").open() as file:
            return not take_lock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False


def utc_now() -> str:
    """Return the time now in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def finite_metrics(metrics: dict[str, Metric]) -> dict[str, dict[str, Any]]:
    """Return the metrics as JSON objects; a number that is not finite becomes null."""
    return {name: asdict(m) | {"value": m.value if math.isfinite(m.value) else None} for name, m in metrics.items()}


def wilson_interval(correct: float, n: int, *, z: float = 1.959963984540054) -> tuple[float, float]:
    r"""Return Wilson's 95 % interval of a proportion, in percent.

    .. math:: \frac{p + z^2/2n \pm z\sqrt{p(1-p)/n + z^2/4n^2}}{1 + z^2/n}

    Args:
        correct: Number of successes, 0 to `n`.
        n: Number of trials, at least 1.
        z: Quantile of the normal distribution.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927.
    """
    p = correct / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 100 / (1 + z * z / n)
    return ((centre - half) * scale, (centre + half) * scale)


def accuracy_metric(percent: float, n: int) -> Metric:
    """Return an accuracy in percent over `n` items with its Wilson interval."""
    return Metric(value=round(percent, 4), n=n, ci95=wilson_interval(percent / 100 * n, n))
