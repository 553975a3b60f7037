"""Test items one by one: what a run got right on each, and the values of a cell by seed and item.

Two norms are compared in pairs only where they saw the same items in the same order, which their key tells.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.report.fields import BadRecordError, require

ROUNDING = 1e-3  # points by which a metric may differ from its items
Key = tuple[str, str, int, int]


@dataclass(frozen=True)
class Items:
    """What one run got right on each item of a metric.

    Args:
        kind: What an item is, in the plural ("episodes").
        key: Checksum of the items and their order.
        each: Trials of one item.
        hits: Trials that came out right, by item.
    """

    kind: str
    key: str
    each: int
    hits: tuple[int, ...]

    @property
    def identity(self) -> Key:
        """Equal for two runs that saw the same items."""
        return (self.kind, self.key, self.each, len(self.hits))

    @property
    def percent(self) -> float:
        """The metric that follows from the items."""
        return 100 * sum(self.hits) / (self.each * len(self.hits))


@dataclass(frozen=True)
class ItemTable:
    """Values of a cell by seed and item.

    Args:
        identity: Of the items.
        by_seed: Percentages by item, by seed.
    """

    identity: Key
    by_seed: Mapping[int, tuple[float, ...]]

    @property
    def kind(self) -> str:
        """What an item is, in the plural."""
        return self.identity[0]

    @property
    def num_items(self) -> int:
        """Number of items."""
        return self.identity[3]


def parse_items(raw: Mapping[str, Any], values: Mapping[str, float], *, done: bool) -> dict[str, Items]:
    """Check the items of a record.

    Args:
        raw: The field `items`: metric name to an object of kind, key, each and hits.
        values: The metrics in %, by name.
        done: Whether the run came to its end; of a diverged one, items without a metric are dropped.

    Returns:
        The items by metric.

    Raises:
        BadRecordError: A field is missing or of the wrong type, a hit is out of range, there are fewer than two
            items, or the metric is not what follows from them.
    """
    found = {}
    for name, entry in raw.items():
        items = _items(name, entry)
        if name not in values and not done:
            continue
        if name not in values:
            raise BadRecordError(f"items must belong to a metric of the record; got {name}")
        if abs(items.percent - values[name]) > ROUNDING:
            raise BadRecordError(
                f"the metric {name} must be the mean of its items, {items.percent:.4f}; got {values[name]}"
            )
        found[name] = items
    return found


def _items(name: str, entry: object) -> Items:
    if not isinstance(entry, dict):
        raise BadRecordError(f"the items of {name} must be an object; got {entry!r:.60}")
    try:
        kind, key = require(entry, "kind", str), require(entry, "key", str)
        each, hits = require(entry, "each", int), require(entry, "hits", list)
    except BadRecordError as error:
        raise BadRecordError(f"in the items of {name}, {error}") from None
    if each < 1:
        raise BadRecordError(f"in the items of {name}, each must be at least 1; got {each}")
    if len(hits) < 2:
        raise BadRecordError(f"in the items of {name}, hits must be two or more; got {len(hits)}")
    for hit in hits:
        if not isinstance(hit, int) or isinstance(hit, bool) or not 0 <= hit <= each:
            raise BadRecordError(
                f"in the items of {name}, a hit must be a whole number from 0 to {each}; got {hit!r:.60}"
            )
    return Items(kind, key, each, tuple(hits))


def item_table(runs: Sequence[tuple[int, Items | None]]) -> ItemTable | None:
    """Put the items of a cell's runs together; re-runs of a seed are averaged.

    Args:
        runs: Seed and items of each finished run.

    Returns:
        The table. None: there are no runs, one has no items, or not all saw the same.
    """
    by_seed: dict[int, list[Items]] = defaultdict(list)
    for seed, items in runs:
        if items is None:
            return None
        by_seed[seed].append(items)
    identities = {items.identity for several in by_seed.values() for items in several}
    if len(identities) != 1:
        return None
    return ItemTable(
        identities.pop(),
        {seed: _mean([[100 * hit / one.each for hit in one.hits] for one in by_seed[seed]]) for seed in by_seed},
    )


def mean_table(tables: Sequence[ItemTable | None], seeds: Sequence[int]) -> ItemTable | None:
    """Average tables of the same items, item by item, for some seeds.

    Args:
        tables: One per column. None: the column has no items.
        seeds: Seeds that each table has.

    Returns:
        The table of means. None: a column has no items, or not all have the same.
    """
    known = [table for table in tables if table is not None]
    if len(known) < len(tables) or len({table.identity for table in known}) != 1:
        return None
    by_seed = {seed: _mean([table.by_seed[seed] for table in known]) for seed in seeds}
    return ItemTable(known[0].identity, by_seed)


def same_items(first: ItemTable | None, second: ItemTable | None) -> bool:
    """Whether two cells were tested on the same items in the same order."""
    return first is not None and second is not None and first.identity == second.identity


def _mean(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(rows[0]) if len(rows) == 1 else tuple(
        math.fsum(values) / len(rows) for values in zip(*rows, strict=True)
    )  # fmt: skip
