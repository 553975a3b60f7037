"""Who trains a run, who looks at it, and file systems without locks."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time

import pytest

from shared.errors import UserError
from shared.report.publish import publish
from shared.runs import create_run, hold_run, is_held


@pytest.fixture
def run(tmp_path):
    return create_run(
        runs=tmp_path, run_dir=None, task="fewshot", norm="bn", config="smoke", batch_size=2, seed=0, command="make"
    )


def test_a_run_is_held_while_it_is_trained(run):
    assert not is_held(run)
    with hold_run(run):
        assert is_held(run)
        assert is_held(run)
        with pytest.raises(UserError, match=r"one process at a time; .* is being trained\.$"), hold_run(run):
            pass
    assert not is_held(run)


def test_a_look_does_not_stop_a_run_that_starts(run):
    """A process that looks holds the lock for a moment, which a run that starts waits for."""
    with (run.path / "run.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.3, fcntl.flock, (file, fcntl.LOCK_UN)).start()
        with hold_run(run):
            assert is_held(run)


LOOK = """
import sys, time
from shared.runs import is_held, open_run
from pathlib import Path
run = open_run(Path(sys.argv[1]))
print("looking", flush=True)
while True:
    is_held(run)
"""


def test_runs_start_under_any_number_of_looks(run):
    lookers = [
        subprocess.Popen([sys.executable, "-c", LOOK, run.path], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        for looker in lookers:
            assert looker.stdout.readline() == "looking\n"
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            with hold_run(run):
                pass
    finally:
        for looker in lookers:
            looker.kill()
            looker.communicate()


def test_two_looks_at_a_time_see_no_training(run):
    with (run.path / "run.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert not is_held(run)


def emulated(file, kind):
    """The lock of a file system that emulates it by that of byte ranges, as NFS does."""
    handle = file if isinstance(file, int) else file.fileno()
    if kind & fcntl.LOCK_EX and fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def test_a_run_can_be_locked_where_locks_are_emulated(run, monkeypatch):
    asked = []

    def flock(file, kind):
        emulated(file, kind)
        asked.append(kind)

    monkeypatch.setattr(fcntl, "flock", flock)
    with hold_run(run):
        assert not is_held(run)
    assert len(asked) == 2


def test_runs_can_be_published_where_locks_are_emulated(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", emulated)
    assert publish([], tmp_path / "results" / "runs") == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF])
def test_where_there_are_no_locks_a_run_goes_on_without(run, monkeypatch, code):
    def flock(file, kind):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with hold_run(run):
        assert not is_held(run)


def test_a_run_that_cannot_be_written_is_named(run):
    (run.path / "run.json").unlink()
    with pytest.raises(UserError, match=r"a run must be one whose files can be written; got .*bs2"), hold_run(run):
        pass
    assert not is_held(run)
