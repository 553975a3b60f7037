"""Runs the cells of a grid that have no finished record yet; the grid file is a W&B sweep file (method grid)."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import shared.report.__main__ as report
from norm_layers.registry import resolve_norm
from shared.catalog import ROOT, default_data_dir, load_grids, load_tasks
from shared.commands import command_line, resume_arguments, run_arguments
from shared.errors import UserError, choose, exit_with_usage_error
from shared.finished import cell_config, finished_records, other_code, other_data, stopped_run
from shared.grids import Cell, override, read_grid, take_share
from shared.report.wording import plural
from shared.screen import comparison
from shared.source import source_version

MAX_LOG_NAME = 200
"""Bytes of a log file's name before its end; file systems take 255."""


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(index) for index, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


def start_cell(
    cell: Cell, *, runs: Path, wandb: str | None, data_dir: str | None, args: str, threads: int, gpu: str | None,
    log: Path | None,
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Start one cell, or go on with its stopped run, as a process with its output in `log`, or on the screen.

    It has so many threads, and sees the one GPU where one is named.
    """
    extra = {"runs": str(runs)} | ({"wandb": wandb} if wandb else {}) | ({"data_dir": data_dir} if data_dir else {})
    merged = with_args(cell, args)
    environment = dict(os.environ) | {"NORM_SUITE_COMMAND": command_line(merged)}
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    tasks, command = load_tasks(), command_line(merged)
    arguments = run_arguments({**merged, **extra}, tasks)
    stopped, reasons = stopped_run(runs, command, config=cell_config(cell, tasks))
    for reason in reasons:
        print(f"{label(cell)}: {reason}.", flush=True)
    if stopped is not None:
        further = {name: value for name, value in {**cell, **extra}.items() if name in ("wandb", "data_dir")}
        arguments = resume_arguments({"resume": str(stopped.path), **further})
    elif reasons:
        print(f"{label(cell)}: starts anew.", flush=True)
    with open_log(log) as file:
        return subprocess.Popen(
            [sys.executable, *arguments, "--report=false"],
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,  # Ctrl-C reaches the sweep alone, which asks every cell once to save and stop
        )


def open_log(log: Path | None) -> AbstractContextManager[BinaryIO | None]:
    """Open the file that a cell's output is appended to; None for the screen.

    Raises:
        UserError: If it cannot be written.
    """
    if log is None:
        return nullcontext()
    try:
        return log.open("ab")
    except OSError as error:
        raise UserError(f"runs must be a folder that can be written; got {log.parent.parent} ({error}).") from error


def log_name(cell: Cell) -> str:
    """Return the name of a cell's log file: what the cell is, cut where no file may be called so."""
    name = label(cell).replace(" ", "_").replace("/", "-").replace("\0", "-")
    whole = os.fsencode(name)
    if len(whole) > MAX_LOG_NAME:
        name = f"{whole[:MAX_LOG_NAME].decode(errors='ignore')}-{hashlib.sha256(whole).hexdigest()[:8]}"
    return f"{name}.log"


def with_args(cell: Cell, args: str) -> Cell:
    """Return the variables of a cell's run with the flags that every run gets."""
    return {**cell, "args": args} if args else cell


def stop_all(processes: Collection[subprocess.Popen[bytes]]) -> None:
    """Ask every process to save and stop, and wait for it; asked again meanwhile, they stop at once."""
    while any(process.poll() is None for process in processes):
        with suppress(KeyboardInterrupt):
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


class StartedCell(NamedTuple):
    """A cell whose process runs.

    Attributes:
        cell: The cell.
        began: When, by the monotonic clock, in seconds.
        log: Where its output goes; None for the screen.
        log_start: Bytes of the log that an earlier try left there.
        slot: Its place among the jobs.
    """

    cell: Cell
    began: float
    log: Path | None
    log_start: int
    slot: int


def reason(log: Path | None, *, start: int) -> str:
    """Return why a cell failed: its last error, else the last line of its log, and where the rest stands.

    Args:
        log: Its log; None for the screen.
        start: Bytes that were there before the cell.
    """
    if log is None:
        return "see above"
    lines = [line.strip() for line in log.read_bytes()[start:].decode(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    last = (errors or lines)[-1:]
    return f"see {log}" + (f": {last[0]}" if last else "")


def label(cell: Cell) -> str:
    """Return a cell in a few words."""
    return " ".join(f"{name}={value}" for name, value in cell.items())


def run_grid(
    cells: list[Cell],
    *,
    runs: Path,
    jobs: int = 1,
    wandb: str | None = None,
    data_dir: str | None = None,
    args: str = "",
    on_screen: bool = False,
) -> int:
    """Run all cells that are not finished, at most `jobs` at a time; one cell's failure does not stop the rest.

    Args:
        cells: The cells.
        runs: Folder of the runs; a cell is done if one of its records has the cell's command, and norm and config
            have not been edited since.
        jobs: Processes at a time. With two or more, each sees one of the machine's GPUs, in turn; one alone sees all.
        wandb: W&B mode of every run; None for the default.
        data_dir: Folder with the real images.
        args: Further flags of every run.
        on_screen: Whether the runs' output goes to the screen, where one runs at a time, and not to log files.

    Returns:
        Exit code: 0 if every cell is finished, 1 if one failed, 130 after Ctrl-C.

    Raises:
        UserError: If the folder of the runs cannot be written.
    """
    tasks = load_tasks()
    commands = {command_line(with_args(cell, args)): cell for cell in cells}
    configs = {command: cell_config(cell, tasks) for command, cell in commands.items()}
    done = {command: record for command, record in finished_records(runs, configs).items() if command in commands}
    edited = len(commands.keys() & finished_records(runs).keys()) - len(done)
    waiting = [cell for cell in cells if command_line(with_args(cell, args)) not in done]
    num_before = len(cells) - len(waiting)
    print(f"{plural(len(cells), 'cell')}: {num_before} finished, {len(waiting)} to run, {jobs} at a time", flush=True)
    for remark in remarks(list(done.values()), runs, data_dir, edited=edited):
        print(remark, flush=True)
    logs = None if on_screen and jobs == 1 else runs / "sweep-logs"
    try:
        (logs or runs).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"runs must be a folder that can be written; got {runs} ({error}).") from error
    start = partial(start_cell, runs=runs, wandb=wandb, data_dir=data_dir, args=args)
    try:
        failed = run_cells(waiting, start, jobs=jobs, logs=logs, num_before=num_before)
    except KeyboardInterrupt:
        print("Stopped; the same command goes on with the cells that are not finished.", flush=True)
        return 130
    report.main(["--runs", str(runs), "--results", str(ROOT / "results" / "runs")])
    records = finished_records(runs, configs)
    print("\n".join(comparison([(cell, records.get(command_line(with_args(cell, args)))) for cell in cells])))
    print(
        f"{len(waiting) - failed} finished, {failed} failed."
        + (" The same command runs the failed ones again." if failed else ""),
        flush=True,
    )
    return 1 if failed else 0


def remarks(done: list[dict[str, Any]], runs: Path, data_dir: str | None, *, edited: int) -> Iterator[str]:
    """Yield a line for each reason why finished cells may not be what was asked for.

    Args:
        done: Their records.
        runs: Folder of the runs.
        data_dir: Folder with the real images.
        edited: Cells that have records of a norm or a config that has been edited since.
    """
    if edited:
        yield f"{plural(edited, 'cell')} to run again: the norm or the config has been edited since."
    if others := other_code(done):
        names = ", ".join(sorted(set(others)))
        yield (
            f"{len(others)} of the finished ones are of another state of the code ({names}) than this one "
            f"({source_version()[0]}) and are kept: give another runs= for a fresh set."
        )
    if other := sorted(other_data(done, runs, data_dir)):
        yield (
            f"Finished with other data than data_dir={data_dir or 'nothing'}: {', '.join(other)}. A cell is known by "
            "its command, without data_dir: give another runs= for other data."
        )


def run_cells(
    waiting: list[Cell],
    start: Callable[..., subprocess.Popen[bytes]],
    *,
    jobs: int,
    logs: Path | None,
    num_before: int,
) -> int:
    """Run cells, at most `jobs` at a time; where anything ends this early, the started ones save and stop.

    Args:
        waiting: The cells.
        start: Starts one, with so many threads, on a GPU, with its output in a log.
        jobs: Processes at a time.
        logs: Folder of the logs; None for the screen.
        num_before: Cells of the grid that were finished before.

    Returns:
        How many failed.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)  # more threads than cores slow small networks down many times
    gpus = visible_gpus() if jobs > 1 else []
    num_cells = num_before + len(waiting)
    queue, slots = iter(waiting), list(range(jobs))
    active: dict[subprocess.Popen[bytes], StartedCell] = {}
    failed, ended, began = 0, 0, time.monotonic()
    numbers = itertools.count(num_before + 1)
    try:
        while True:
            while slots and (cell := next(queue, None)) is not None:
                slot = slots.pop(0)
                log = logs / log_name(cell) if logs else None
                title = f"[{next(numbers)}/{num_cells}] {label(cell)}"
                if log is None:
                    print(f"\n{title}", flush=True)
                log_start = log.stat().st_size if log and log.is_file() else 0
                process = start(cell, threads=threads, gpu=gpus[slot % len(gpus)] if gpus else None, log=log)
                active[process] = StartedCell(cell, time.monotonic(), log, log_start, slot)
                if log is not None:
                    print(f"{title}: started; log {log}", flush=True)
            if not active:
                return failed
            time.sleep(0.2)
            for process in [each for each in active if each.poll() is not None]:
                run = active.pop(process)
                slots.append(run.slot)
                ended += 1
                state, code = "done", process.returncode
                if code != 0:
                    failed += 1
                    state = f"FAILED (code {code}, {reason(run.log, start=run.log_start)})"
                left = (time.monotonic() - began) / ended * (len(waiting) - ended)
                print(
                    f"[{num_before + ended}/{num_cells}] {label(run.cell)}: {state}, "
                    f"{time.monotonic() - run.began:.0f} s; {left / 60:.0f} min left",
                    flush=True,
                )
    except BaseException:
        stop_all(active)
        raise


def main(arguments: list[str] | None = None) -> int:
    """Run a grid from the command line."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog="make sweep", description=__doc__)
    parser.add_argument("--grid", default="", help="name of a file in grids/, or a path")
    parser.add_argument("--cells", type=json.loads, default=None, help="JSON list of runs in place of a grid")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--wandb", default=None)
    parser.add_argument("--data_dir", default=default_data_dir())
    parser.add_argument(
        "--norm", default=None, help="norms instead of the grid's, with commas between; your own alone: beside them"
    )
    parser.add_argument("--seed", default=None, help="seeds instead of the grid's, with commas between")
    parser.add_argument("--shard", default=None, help="i/n: every n-th cell from the i-th on, i from 0")
    parser.add_argument("--args", default="")
    options: Any = parser.parse_args(arguments)
    try:
        if options.jobs < 1:
            raise UserError(f"jobs must be at least 1; got {options.jobs}.")
        cells = override(options.cells or named_grid(options.grid), norm=options.norm, seed=options.seed)
        own = {name: getattr(options, name) for name in ("args", "wandb") if getattr(options, name)}
        for cell in cells:
            run_arguments({**cell, **own}, load_tasks(ROOT))
        if options.runs.exists() and not options.runs.is_dir():
            raise UserError(f"runs must be a folder; got the file {str(options.runs)!r}.")
        asked = [*(options.norm or "").split(","), *(cell.get("norm", "") for cell in options.cells or ())]
        for own in dict.fromkeys(name for name in asked if ":" in name):
            resolve_norm(own)
        cells = take_share(cells, options.shard)
    except ValueError as error:
        exit_with_usage_error(error)
    try:
        return run_grid(
            cells, runs=options.runs, jobs=options.jobs, wandb=options.wandb, data_dir=options.data_dir,
            args=options.args, on_screen=options.cells is not None,
        )  # fmt: skip
    except BrokenPipeError:  # `make sweep | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("Stopped, because nothing reads the output any more; the same command goes on.", file=sys.stderr)
        return 128 + signal.SIGPIPE
    except UserError as error:
        exit_with_usage_error(error)


def named_grid(name: str) -> list[Cell]:
    """Return the cells of a grid by its name or path."""
    grids = load_grids()
    path = Path(name) if name.endswith((".yaml", ".yml")) else grids[choose("grid", name, grids)]
    if not path.is_file():
        raise UserError(f"grid must be one of {', '.join(grids)} or a YAML file; got {name!r}.")
    return read_grid(path)


if __name__ == "__main__":
    raise SystemExit(main())
