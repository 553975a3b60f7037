"""Every task beside what it is compared to: one JSON file and one table.

    python -m benchmarks.tasks

About ten minutes on one CPU core; `--pairs=3` for a first look. Writes results/tasks_cpu.json and .md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.rows import RESULTS, main

MODULES = tuple(f"benchmarks.{name}" for name in ("classification", "nas", "adversarial", "fewshot", "uda", "startup"))


def measure_all(arguments: Sequence[str]) -> int:
    """Run all benchmarks.

    Args:
        arguments: The command line; the results go to benchmarks/results unless it names another folder.
    """
    return main(MODULES, name="tasks_cpu", arguments=[f"--out={RESULTS}", *arguments])


if __name__ == "__main__":
    raise SystemExit(measure_all(sys.argv[1:]))
