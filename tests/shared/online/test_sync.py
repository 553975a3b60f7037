"""`make sync`: each run that W&B lacks is sent once."""

import os
import shutil
from pathlib import Path

import pytest
from wandb_runs import kept_numbers, record, sent_numbers, start

from shared.errors import UserError
from shared.make import target_commands
from shared.sync import find_pieces, sync, unsent
from shared.wandb_mode import connect

pytestmark = pytest.mark.slow


def make_sync(runs: Path, **environment: str) -> tuple[int, list[str]]:
    """Run the command of `make sync` and return its exit code and lines."""
    (command,) = target_commands("sync", {"runs": str(runs)}, {})
    process = start(command, **environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, (out + err).splitlines()


@pytest.fixture
def runs(fallen_back, orphan, online_runs, tmp_path) -> Path:
    """A folder with an offline run, an online one whose server died, and one that is whole at W&B."""
    for run in (fallen_back, orphan, online_runs["classification"]):
        shutil.copytree(run.path, tmp_path / "runs" / "classification" / run.path.name, symlinks=True)
    return tmp_path / "runs"


def test_what_is_missing_is_sent_once(runs, server, fallen_back, orphan, online_runs):
    whole, half = online_runs["classification"].served, orphan.served
    server.runs.update({whole.name: whole, half.name: half})
    server.projects.append("norm-suite")
    rows = list(half.history)
    code, lines = make_sync(runs, **server.environment())
    assert code == 0, lines
    offline = fallen_back.path.name
    assert sorted(lines[:-1]) == sorted(
        f"{name}: sent to {server.address}/someone/norm-suite/runs/{name}" for name in (offline, half.name)
    )
    assert lines[-1] == "2 sent, 0 failed, 1 had been sent before."
    assert whole.stops == 1

    sent = server.runs[offline]
    assert [line[:2] for line in sent_numbers(sent.history)] == [line[:2] for line in kept_numbers(fallen_back.path)]
    assert sent.summary["final/test/top1"] == record(fallen_back.path)["metrics"]["test/top1"]["value"]
    assert (sent.exit_code, sent.job_type) == (0, "smoke")
    assert sent.group.startswith(record_group(fallen_back.path))

    by_step = {row["_step"]: row for row in half.history}
    assert all(by_step[row["_step"]] == row for row in rows)  # W&B's own tool sends them again, under the same step
    assert list(by_step) == list(range(len(by_step)))
    assert [line[:2] for line in sent_numbers([*by_step.values()])] == [line[:2] for line in kept_numbers(orphan.path)]
    assert (half.exit_code, half.summary["status"]) == (0, "done")

    received = {name: run.received_lines for name, run in server.runs.items()}
    assert make_sync(runs, **server.environment()) == (0, ["0 sent, 0 failed, 3 had been sent before."])
    assert {name: run.received_lines for name, run in server.runs.items()} == received
    assert server.unknown == []


def record_group(run: Path) -> str:
    done = record(run)
    return f"classification/smoke/{done['norm']}-G{done['num_groups']}/bs{done['batch_size']}/"


@pytest.mark.usefixtures("own_wandb")
def test_an_online_piece_after_which_the_run_went_on_is_left_alone(orphan, tmp_path):
    shutil.copytree(orphan.path, tmp_path / "runs" / orphan.path.name, symlinks=True)
    (first,) = find_pieces(tmp_path)
    later = first.file.parent.with_name("run-29990101_000000-later")
    shutil.copytree(first.file.parent, later, symlinks=True)
    both = find_pieces(tmp_path)
    assert [piece.file.parent.name for piece in both] == [first.file.parent.name, later.name]
    assert unsent(both, connect("make sync")) == both[1:]


def test_what_wandb_does_not_take_is_told_and_tried_again(fallen_back, server, tmp_path):
    shutil.copytree(fallen_back.path, tmp_path / fallen_back.path.name, symlinks=True)
    server.refused = {"UpsertBucket"}
    code, lines = make_sync(tmp_path, **server.environment())
    assert code == 1
    assert lines[0].startswith(f"{fallen_back.path.name}: FAILED (")
    assert "permission denied" in lines[0]
    assert lines[1:] == ["0 sent, 1 failed, 0 had been sent before."]
    server.refused.clear()
    assert make_sync(tmp_path, **server.environment())[1][-1] == "1 sent, 0 failed, 0 had been sent before."


@pytest.mark.parametrize(
    ("settings", "fault", "named"),
    [
        ({"WANDB_API_KEY": ""}, None, "error: make sync needs a W&B key: set WANDB_API_KEY"),
        ({"WANDB_API_KEY": "b" * 40}, None, "error: make sync needs an answer of W&B; got: "),
        ({}, 503, "error: make sync needs an answer of W&B; got: "),
    ],
    ids=["no key", "refused", "out of order"],
)
def test_without_an_answer_nothing_is_sent_and_one_line_says_so(settings, fault, named, runs, server):
    server.fault = fault
    code, lines = make_sync(runs, **(server.environment() | settings))
    assert code == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith(named)
    assert not list(runs.rglob("*.synced"))


@pytest.mark.usefixtures("own_wandb")
@pytest.mark.parametrize("fault", [401, 503])
def test_no_process_of_wandb_is_started_for_a_server_that_is_out_of_order(fault, server):
    """W&B's process went on trying after the error, and the command waited for it."""
    server.fault = fault
    with pytest.raises(UserError, match=f"make sync needs an answer of W&B; got: .*{fault}"):
        connect("make sync")
    assert "WANDB_SERVICE" not in os.environ


@pytest.mark.usefixtures("own_wandb")
@pytest.mark.parametrize("damage", ["{", "null", '{"wandb": null}', None])
def test_a_damaged_run_does_not_hold_up_the_others(fallen_back, online_runs, server, tmp_path, damage):
    for run in (fallen_back, online_runs["classification"]):
        shutil.copytree(run.path, tmp_path / run.path.name, symlinks=True)
    broken = tmp_path / online_runs["classification"].path.name
    for marker in broken.rglob("*.synced"):
        marker.unlink()
    if damage is None:
        (broken / "record.json").unlink()
        (broken / "config.yaml").unlink()
    else:
        (broken / "record.json").write_text(damage)
    code, lines = make_sync(tmp_path, **server.environment())
    assert code == 1, lines
    assert any(line.startswith(f"{fallen_back.path.name}: sent to ") for line in lines)
    (told,) = [line for line in lines if line.startswith(f"{broken.name}: FAILED (")]
    assert ("config.yaml" if damage is None else "record.json") in told
    assert lines[-1] == "1 sent, 1 failed, 0 had been sent before."


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="runs must be a folder of runs"):
        sync(tmp_path / "none")
