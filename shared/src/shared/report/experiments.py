"""Sort records into experiments: sets of runs that differ in norm, number of groups, batch size and seed only.

Runs with another task, config, model, data set, protocol, selection rule or axis are another experiment, so one cell
of a table never mixes them. One freedom is needed for tables over the batch size: values such as the learning rate
may follow it by a simple law (constant, proportional, by square root, inverse).

The code is no part of an experiment, but values of different commits, of different files of a norm or of different
uncommitted changes are never averaged into one: where a seed of a norm ran under several, only the newest counts.
"""

import hashlib
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from shared.report.records import DATASET_IDENTITY, Record

CELL_AXES = ("norm", "num_groups", "batch_size", "seed")
FOLLOWS_BATCH_SIZE = frozenset(
    {"lr", "base_lr", "initial_lr", "learning_rate", "min_lr", "virtual_workers", "total_batch_size", "iterations",
     "iterations_per_epoch", "steps", "warmup_iterations", "warm_up_iterations", "warmup_steps", "warm_up_steps"}
)  # fmt: skip
LAWS = {
    "constant": lambda value, _: value,
    "proportional": lambda value, batch_size: value / batch_size,
    "square root": lambda value, batch_size: value / batch_size**0.5,
    "inverse": lambda value, batch_size: value * batch_size,
}
NEVER = datetime.min.replace(tzinfo=UTC)
Signature = tuple[tuple[str, str, str], ...]
Code = tuple[str, str, str]


@dataclass(frozen=True)
class Experiment:
    """Runs that may stand in one table.

    Args:
        slug: Short unique name, fit for files and anchors.
        records: The runs, by name.
        protocol: What all runs share: protocol scalars, and axes outside the table.
        following: Values that follow the batch size: name → batch size → value.
        superseded: Runs that are not among the records, because their seed ran again with other code; each tells in
            `replaced` what is other.
    """

    slug: str
    records: tuple[Record, ...]
    protocol: Mapping[str, Any]
    following: Mapping[str, Mapping[int, Any]]
    superseded: tuple[Record, ...] = ()

    @property
    def first(self) -> Record:
        """Any run, for what all runs share."""
        return self.records[0]

    @property
    def axes(self) -> dict[str, Any]:
        """Axes outside the table that all runs share."""
        return {name: value for name, value in _outer(self.first.axes).items() if name not in self.following}

    @property
    def commits(self) -> dict[str, int]:
        """Number of runs by commit."""
        return count(record.commit for record in self.records)

    @property
    def devices(self) -> dict[str, int]:
        """Number of runs by device."""
        return count(record.device for record in self.records)


def count(values: Iterable[str]) -> dict[str, int]:
    """Count equal values; the most frequent first, equals by name."""
    counts: dict[str, int] = defaultdict(int)
    for value in values:
        counts[value] += 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def split_into_experiments(records: Iterable[Record]) -> list[Experiment]:
    """Sort runs into experiments.

    Args:
        records: Runs, in any order.

    Returns:
        Experiments in the order of the paper's tables, then by name. Each run is in exactly one, among its records or
        superseded.
    """
    by_identity: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.run):
        by_identity[_identity(record)].append(record)
    experiments = [
        _experiment(identity, number, part)
        for identity, members in by_identity.items()
        for number, part in enumerate(_split_by_laws(members))
    ]
    return sorted(experiments, key=_paper_order)


def _paper_order(experiment: Experiment) -> tuple[int, str, str, int, str]:
    tables = [reference.table for record in experiment.records for reference in record.paper]
    first = experiment.first
    return min(tables, default=99), first.task, first.config, -len(experiment.records), experiment.slug


def _outer(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sorted(values.items()) if name not in CELL_AXES}


def _may_follow(name: str) -> bool:
    """Whether a setting may follow the batch size; "Learning rate" and "learning_rate" are one name."""
    return re.sub(r"[\s_-]+", "_", name.strip().lower()) in FOLLOWS_BATCH_SIZE


def _identity(record: Record) -> str:
    """What all runs of an experiment share, as text."""
    fixed = {
        "task": record.task,
        "config": record.config,
        "model": record.model,
        "dataset": {name: record.dataset.get(name) for name in DATASET_IDENTITY},
        "headline": record.headline,
        "selection": record.selection,
        "axes": {name: value for name, value in _outer(record.axes).items() if not _may_follow(name)},
        "protocol": {name: value for name, value in _outer(record.protocol).items() if not _may_follow(name)},
    }
    return json.dumps(fixed, sort_keys=True, default=str)


def _followers(record: Record) -> dict[str, Any]:
    return {
        name: value for name, value in (_outer(record.protocol) | _outer(record.axes)).items() if _may_follow(name)
    }


def _split_by_laws(records: Sequence[Record]) -> list[list[Record]]:
    """Split runs so that, in each part, every value that may follow the batch size does so by one law.

    Of all laws that fit, the one that covers most batch sizes takes its runs first, then the next.
    """
    signatures = [_signatures(record) for record in records]
    members: dict[Signature, list[int]] = defaultdict(list)
    for index, options in enumerate(signatures):
        for signature in options:
            members[signature].append(index)
    sizes = {signature: len({records[i].batch_size for i in indices}) for signature, indices in members.items()}
    ranked = sorted(members, key=lambda signature: (-sizes[signature], -len(members[signature]), signature))
    taken: set[int] = set()
    parts = []
    for signature in ranked:
        part = [index for index in members[signature] if index not in taken]
        if part:
            taken.update(part)
            parts.append([records[index] for index in part])
    return parts


def _signatures(record: Record) -> list[Signature]:
    """Every choice of laws that this run fits, with the constant of each law."""
    choices = []
    for name, value in _followers(record).items():
        numeric = isinstance(value, int | float) and not isinstance(value, bool) and record.batch_size
        laws = LAWS if numeric else {"constant": LAWS["constant"]}
        choices.append([(name, law, _constant(rule(value, record.batch_size))) for law, rule in laws.items()])
    return list(itertools.product(*choices))


def _constant(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, int | float) else json.dumps(value, sort_keys=True, default=str)


def _newest(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Part the runs of each seed by their code: those of the newest one, and the others."""
    codes: dict[tuple[Any, ...], dict[Code, datetime]] = defaultdict(dict)
    for record in records:
        times = codes[_cell_of(record)]
        times[record.code] = max(_finished(record), times.get(record.code, NEVER))
    newest = {cell: max(times, key=lambda code: (times[code], code)) for cell, times in codes.items()}
    kept, superseded = [], []
    for record in records:
        if words := _other_code(record.code, newest[_cell_of(record)]):
            superseded.append(replace(record, replaced=words))
        else:
            kept.append(record)
    return kept, superseded


def _other_code(old: Code, new: Code) -> str:
    """Say what is other in the new code; empty where nothing is."""
    if old[0] != new[0]:
        return "under another commit"
    parts = ("another version of the norm's own file", "other uncommitted changes")
    found = [words for words, before, after in zip(parts, old[1:], new[1:], strict=True) if before != after]
    return f"with {' and '.join(found)}" if found else ""


def _cell_of(record: Record) -> tuple[Any, ...]:
    return record.norm, record.num_groups, record.batch_size, record.seed


def _finished(record: Record) -> datetime:
    """When a run ended; long ago where its record does not tell."""
    try:
        found = datetime.fromisoformat(str(record.raw.get("finished")))
    except ValueError:
        return NEVER
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _experiment(identity: str, number: int, members: Sequence[Record]) -> Experiment:
    records, superseded = _newest(members)
    first = records[0]
    values: dict[str, dict[int, Any]] = defaultdict(dict)
    for record in records:
        for name, value in _followers(record).items():
            values[name][record.batch_size or 0] = value
    following = {
        name: dict(sorted(by_size.items(), reverse=True))
        for name, by_size in values.items()
        if len({str(v) for v in by_size.values()}) > 1
    }
    shared = {name: value for name, value in _outer(first.protocol).items() if name not in following}
    digest = hashlib.sha256(identity.encode()).hexdigest()[:6]
    words = [first.task, first.config, first.model, str(first.dataset.get("name", "data")), digest]
    slug = "-".join(words + [str(number + 1)] * (number > 0))
    safe = "".join(letter if (letter.isalnum() and letter.isascii()) or letter in "-_" else "_" for letter in slug)
    return Experiment(safe, tuple(records), shared, following, tuple(superseded))
