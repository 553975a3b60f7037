"""What a run record is, and the check that one can be used.

Record schema 1 is one JSON object per finished run: `record.json` in a run's folder, or one line of a
`results/runs/<task>.jsonl`.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.report.fields import BadRecordError, finite, optional, pair, require
from shared.report.items import Items, parse_items
from shared.report.profiles import Profile, parse_profiles
from shared.report.statistics import sampling_error

SCHEMA = 1
STATUSES = ("done", "diverged", "degenerate")
"""How a run ended: with numbers, with a loss that was lost, or because its network could not learn from the start."""
Point = tuple[float, float]


@dataclass(frozen=True)
class Metric:
    """One measured number.

    Args:
        value: The number, in `unit`.
        ci95: 95 % interval over the test items of this one run. None: unknown.
        n: Number of test items. None: unknown.
        unit: E.g. "%"; empty where it has none.
    """

    value: float
    ci95: tuple[float, float] | None
    n: int | None
    unit: str

    @property
    def sampling_error(self) -> float | None:
        """Standard error over the draw of the test items, in `unit`. None: unknown."""
        return sampling_error(self.value, ci95=self.ci95, n=self.n, unit=self.unit)


@dataclass(frozen=True)
class PaperReference:
    """The cell of the paper that a metric stands beside.

    Args:
        table: Number of the table.
        setting: Cell of the table.
        metric: The paper's name of the metric.
        record_metric: Our name of it.
        comparable: Whether a difference of the two numbers means anything.
        why: Reason when it does not.
    """

    table: int
    setting: Mapping[str, int | str]
    metric: str
    record_metric: str
    comparable: bool
    why: str


@dataclass(frozen=True)
class Record:
    """One finished run. Optional fields of the JSON object that are absent are None or empty here.

    Args:
        run: Unique name of the run.
        status: "done", "diverged" or "degenerate".
        task: Name of the experiment.
        norm: Registry name or import path of the norm.
        seed: Random seed.
        headline: Name of the metric that is compared.
        metrics: By name; only finite ones.
        raw: The whole JSON object.
    """

    run: str
    status: str
    task: str
    norm: str
    seed: int
    headline: str
    metrics: Mapping[str, Metric]
    raw: Mapping[str, Any]
    config: str = "?"
    num_groups: int | None = None
    batch_size: int | None = None
    axes: Mapping[str, Any] = field(default_factory=dict)
    model: str = "?"
    dataset: Mapping[str, Any] = field(default_factory=dict)
    selection: str = "?"
    protocol: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)
    items: Mapping[str, Items] = field(default_factory=dict)
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    paper: tuple[PaperReference, ...] = ()
    readings: tuple[str, ...] = ()
    commit: str = "?"
    device: str = "?"
    source_diff: str | None = None
    norm_source: str | None = None

    @property
    def done(self) -> bool:
        """Whether the run came to its end with numbers."""
        return self.status == "done"

    def number(self, name: str) -> float | None:
        """A scalar field such as `wall_time_seconds`; None where it is unknown."""
        value = self.raw.get(name)
        return finite(value)


def with_commit(record: Record) -> str:
    """Name a run with its commit: "classification-bn-s0-1a2b3c4d (commit 90ea7d1)"."""
    return f"{record.run} (commit {record.commit})"


def lost_as(records: Iterable[Record]) -> str:
    """Say how the runs that came to no numbers ended: "diverged", "degenerate", or "diverged or degenerate".

    Args:
        records: Any runs.
    """
    found = {record.status for record in records if not record.done}
    return " or ".join(status for status in STATUSES if status in found) or "diverged"


def lost_verb(how: str) -> str:
    """Return what `lost_as` gave as a verb: a run "diverged", or "was degenerate"."""
    return how.replace("degenerate", "was degenerate")


def parse_record(text: str | None) -> Record:
    """Turn the text of one record into a `Record`.

    Args:
        text: One JSON object. None: the file could not be read.

    Returns:
        The record.

    Raises:
        BadRecordError: Not JSON, another schema, a required field is missing or has the wrong type, the batch size
            is below 1, a finished run has a metric that is not a finite number, its items do not fit a metric, or its
            profiles or warnings are not what they should be.
    """
    if text is None:
        raise BadRecordError("the file cannot be read as UTF-8 text")
    if not text.strip():
        raise BadRecordError("the file is empty, so the run stopped while it was written")
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRecordError("this is not valid JSON, so it is damaged or half-written") from None
    if not isinstance(raw, dict):
        raise BadRecordError(f"a record must be a JSON object; got {type(raw).__name__}")
    if raw.get("schema") != SCHEMA or isinstance(raw.get("schema"), bool):
        raise BadRecordError(f"schema must be {SCHEMA}; got {raw.get('schema')!r}")
    return _build(raw)


def _build(raw: dict[str, Any]) -> Record:
    status = require(raw, "status", str)
    if status not in STATUSES:
        raise BadRecordError(f"status must be one of {', '.join(STATUSES)}; got {status!r}")
    headline = require(raw, "headline", str)
    metrics = _metrics(require(raw, "metrics", dict), done=status == "done")
    batch_size = optional(raw, "batch_size", int, None)
    if batch_size is not None and batch_size < 1:
        raise BadRecordError(f"batch_size must be at least 1; got {batch_size}")
    if status == "done" and headline not in metrics:
        raise BadRecordError(f"metrics must hold the headline {headline}; got {', '.join(metrics) or 'none'}")
    return Record(
        run=require(raw, "run", str),
        status=status,
        task=require(raw, "task", str),
        norm=require(raw, "norm", str),
        seed=require(raw, "seed", int),
        headline=headline,
        metrics=metrics,
        raw=raw,
        config=optional(raw, "config", str, "?"),
        num_groups=optional(raw, "num_groups", int, None),
        batch_size=batch_size,
        axes=optional(raw, "axes", dict, {}),
        model=optional(raw, "model", str, "?"),
        dataset=optional(raw, "dataset", dict, {}),
        selection=optional(raw, "selection", str, "?"),
        protocol=optional(raw, "protocol", dict, {}),
        curves=_curves(optional(raw, "curves", dict, {})),
        items=parse_items(
            optional(raw, "items", dict, {}),
            {name: metric.value for name, metric in metrics.items()},
            done=status == "done",
        ),
        profiles=parse_profiles(optional(raw, "profiles", dict, {})),
        warnings=tuple(_warning(entry) for entry in optional(raw, "warnings", list, [])),
        paper=tuple(_reference(entry) for entry in optional(raw, "paper", list, [])),
        readings=tuple(str(reading) for reading in optional(raw, "readings", list, [])),
        commit=optional(raw, "commit", str, "?") + ("+changes" if raw.get("dirty") else ""),
        device=optional(raw, "device", str, "?"),
        source_diff=optional(raw, "source_diff", str, None),
        norm_source=optional(raw, "norm_source", str, None),
    )


def canonical_json(raw: Mapping[str, Any]) -> str:
    """Return one line of strict JSON; numbers that JSON does not know (NaN, infinity) become null."""
    return json.dumps(_without_infinities(raw), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _without_infinities(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinities(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_infinities(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _metrics(raw: Mapping[str, Any], *, done: bool) -> dict[str, Metric]:
    metrics = {}
    for name, entry in raw.items():
        if not isinstance(entry, dict):
            raise BadRecordError(f"the metric {name} must be an object with a value; got {entry!r:.60}")
        value = finite(entry.get("value"))
        if value is not None:
            n = entry.get("n")
            metrics[name] = Metric(
                value=value,
                ci95=pair(entry.get("ci95")),
                n=n if isinstance(n, int) else None,
                unit=str(entry.get("unit") or ""),
            )
        elif done:
            got = entry.get("value")
            raise BadRecordError(f"the metric {name} must be a finite number in a finished run; got {got!r:.60}")
    return metrics


def _curves(raw: Mapping[str, Any]) -> dict[str, tuple[Point, ...]]:
    return {name: tuple(_points(points)) for name, points in raw.items() if isinstance(points, list)}


def _points(raw: Iterable[object]) -> Iterator[Point]:
    for entry in raw:
        point = pair(entry)
        if point is not None:
            yield point


def _warning(raw: object) -> str:
    """A warning in one line."""
    if not isinstance(raw, str) or not raw.strip():
        raise BadRecordError(f"a warning must be a text that is not empty; got {raw!r:.60}")
    return " ".join(raw.split())


def _reference(raw: object) -> PaperReference:
    if not isinstance(raw, dict):
        raise BadRecordError(f"an entry of paper must be an object; got {raw!r:.60}")
    return PaperReference(
        table=require(raw, "table", int),
        setting=optional(raw, "setting", dict, {}),
        metric=require(raw, "metric", str),
        record_metric=require(raw, "record_metric", str),
        comparable=raw.get("comparable") is True,
        why=str(raw.get("why") or ""),
    )
