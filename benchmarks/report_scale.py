"""How long a report over many runs takes, and how much memory it needs: `benchmarks/report_scale.py --num-runs 10000`.

The runs are copies of the published records with other names, seeds and numbers, so that all parts of the report have
work to do: paired tests item by item, curves, profiles, ranks. Target: 10,000 records under a minute and 2 GB.
"""

import argparse
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def write_runs(folder: Path, num_runs: int) -> int:
    """Write a folder of runs; return its size in bytes."""
    lines = [line for file in sorted((ROOT / "results" / "runs").glob("*.jsonl")) for line in file.open()]
    draw, size = random.Random(0), 0
    for number, line in zip(range(num_runs), itertools.cycle(lines), strict=False):
        record = json.loads(line)
        record["run"] = f"{record['run']}-{number}"
        record["seed"] = number // len(lines)
        for name, metric in record["metrics"].items():
            if name not in record.get("items", {}):
                metric["value"] += draw.gauss(0.0, 0.5)
        text = json.dumps(record)
        path = folder / record["task"] / record["run"] / "record.json"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        size += len(text)
    return size


def main() -> int:
    """Write runs, report on them, and print what it cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-runs", type=int, default=10_000, help="runs in the folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_runs(folder / "runs", options.num_runs)
        command = [
            sys.executable,
            "-m",
            "shared.report",
            "--runs",
            str(folder / "runs"),
            "--results",
            str(folder / "no"),
        ]
        began = time.perf_counter()
        subprocess.run([*command, "--out", str(folder / "out")], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        page = (folder / "out" / "report.html").stat().st_size
    result = {
        "num_runs": options.num_runs,
        "records_mb": round(size / 1e6, 1),
        "wall_seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_memory_mb": round(used.ru_maxrss / 1024),
        "page_kb": round(page / 1024),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
