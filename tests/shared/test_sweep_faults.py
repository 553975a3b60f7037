"""Sweeps over what crashes, full disks and moved data leave, and sweeps that cannot go on."""

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from task_runs import TaskRuns

from shared.commands import resume_arguments
from shared.finished import stopped_run
from shared.runs import create_run, hold_run
from shared.sweep import log_name, main, run_cells

CELL = {"task": "classification", "norm": "bn", "config": "smoke", "seed": "0"}
GRID = """
method: grid
parameters: {task: {value: classification}, norm: {value: bn}, config: {value: smoke}, seed: {value: 0}}
"""


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    return path


@pytest.fixture
def stopped(grid, tmp_path):
    """The flags of a sweep of one cell, and the folder of its run, which stopped after its first epoch."""
    runs, tasks = tmp_path / "runs", TaskRuns("classification")

    class StoppingModule(tasks.module):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                raise KeyError("stop")

    os.environ["NORM_SUITE_COMMAND"] = "make task=classification norm=bn config=smoke seed=0"
    try:
        with pytest.raises(KeyError):
            tasks.run(runs, "--model.norm=bn", f"--data.data_dir={tmp_path / 'gone'}", module=StoppingModule)
    finally:
        del os.environ["NORM_SUITE_COMMAND"]
    return [f"--grid={grid}", f"--runs={runs}", "--wandb=off"], tasks.only_run(runs)


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_data_where_they_are_now(stopped, tmp_path):
    flags, folder = stopped
    data = tmp_path / "moved"
    arguments = resume_arguments({"resume": str(folder), "data_dir": str(data)})
    assert f"--data.data_dir={data}" in arguments
    assert main([*flags, f"--data_dir={data}"]) == 0
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert (folder / "record.json").is_file()


@pytest.mark.slow
def test_a_cell_whose_run_is_damaged_starts_anew(stopped, capsys):
    flags, folder = stopped
    checkpoint = folder / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
    assert main(flags) == 0
    out = capsys.readouterr().out
    assert f"{folder} cannot go on: checkpoints/last.ckpt is damaged: " in out
    assert "starts anew" in out
    (record,) = folder.parents[1].rglob("record.json")
    assert record.parent != folder


def test_what_is_damaged_is_passed_over(tmp_path):
    runs = []
    for seed in range(3):
        run = create_run(
            runs=tmp_path, run_dir=None, task="fewshot", norm="bn", config="smoke", batch_size=2, seed=seed,
            command="make x", settings="" if seed == 2 else "model: {norm: bn}",
        )  # fmt: skip
        with zipfile.ZipFile(run.last_checkpoint, "w") as archive:
            archive.writestr("data.pkl", b"weights" * 100)
        os.utime(run.last_checkpoint, (seed, seed))
        runs.append(run)
    whole = runs[1].last_checkpoint.read_bytes()
    runs[1].last_checkpoint.write_bytes(whole.replace(b"weights", b"weighty", 1))
    os.utime(runs[1].last_checkpoint, (1, 1))
    found, reasons = stopped_run(tmp_path, "make x", config=None)
    assert found == runs[0]
    assert [reason.partition(" cannot go on: ")[0] for reason in reasons] == [str(runs[2].path), str(runs[1].path)]
    assert "config.yaml is damaged" in reasons[0]
    assert "data.pkl in it is not what was written" in reasons[1]
    assert stopped_run(tmp_path, "make y", config=None) == (None, [])
    with hold_run(runs[0]):
        assert stopped_run(tmp_path, "make x", config=None)[0] is None


def test_a_log_has_a_name_that_any_file_system_takes(tmp_path):
    cell = {"task": "classification", "norm": "bn", "args": "--model.x=ä" * 60}
    names = {log_name(cell), log_name(cell | {"args": cell["args"] + "a"}), log_name(cell | {"args": "--x=a/b"})}
    assert len(names) == 3
    for name in names:
        (tmp_path / name).write_text("")


def test_whatever_goes_wrong_in_a_sweep_the_started_cells_are_stopped(tmp_path):
    started = []

    def start(cell, *, threads, gpu, log):
        if started:
            raise OSError("no more")
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        return started[0]

    with pytest.raises(OSError, match="no more"):
        run_cells([{"norm": "bn"}, {"norm": "gn"}], start, jobs=2, logs=tmp_path, num_before=0)
    assert started[0].returncode == -signal.SIGTERM


def start_python(code: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen([sys.executable, "-c", code], stdout=file, stderr=file)


def test_a_cell_that_starts_says_where_its_log_is(tmp_path, capsys):
    def start(cell, *, log, **_):
        return start_python("", log)

    cells = [CELL, CELL | {"norm": "bgn"}]
    assert run_cells(cells, start, jobs=2, logs=tmp_path, num_before=3) == 0
    started = [
        f"[{number}/5] task=classification norm={cell['norm']} config=smoke seed=0: started; "
        f"log {tmp_path / log_name(cell)}"
        for number, cell in enumerate(cells, start=4)
    ]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == started
    assert all(": done, " in line for line in lines[2:])


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("assert False", ": AssertionError)"),
        ("raise KeyError('scale')", ": KeyError: 'scale')"),
        ("print('error: norm must be one; got two.'); print('and more'); raise SystemExit(2)", ": norm must be one; "),
        ("raise SystemExit(2)", ".log), "),
    ],
)
def test_a_failed_cell_says_why(tmp_path, capsys, code, reason):
    """By its last error, or by the last line of the log; what an earlier try left there is not its reason."""
    log = tmp_path / log_name(CELL)
    log.write_text("error: an earlier one\n")

    def start(cell, *, log, **_):
        return start_python(code, log)

    assert run_cells([CELL], start, jobs=1, logs=tmp_path, num_before=0) == 1
    failed = capsys.readouterr().out.splitlines()[-1]
    assert f"FAILED (code {1 if 'Exit' not in code else 2}, see {log}" in failed
    assert reason in failed
    assert "earlier" not in failed


def test_a_sweep_whose_reader_has_gone_ends_without_a_traceback(grid, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "shared.sweep", f"--grid={grid}", f"--runs={tmp_path / 'runs'}", "--wandb=off"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(writer)
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == "Stopped, because nothing reads the output any more; the same command goes on.\n"


@pytest.mark.parametrize("blocked", ["runs", "runs/sweep-logs", "runs/sweep-logs/LOG"])
def test_a_sweep_that_cannot_write_says_so_in_one_line(grid, tmp_path, blocked, capsys):
    if blocked.endswith("LOG"):
        (tmp_path / blocked.replace("LOG", log_name(CELL))).mkdir(parents=True)
    elif blocked == "runs/sweep-logs":
        (tmp_path / "runs").mkdir()
        (tmp_path / blocked).write_text("")
    runs = Path("/proc/nowhere") if blocked == "runs" else tmp_path / "runs"
    with pytest.raises(SystemExit) as stop:
        main([f"--grid={grid}", f"--runs={runs}", "--wandb=off"])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: runs must be a folder that can be written; got {runs} (")
    assert "\n" not in error
    assert not list(tmp_path.rglob("run.json"))
