"""What arrives at W&B from a run of each task, and from one that was stopped and went on."""

import json
import re
import signal

import pytest
from wandb_runs import TASKS, end, kept_numbers, record, run_dir, sent_numbers, start_run, wait_for

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("task", TASKS)
def test_the_axes_of_a_run_are_flat_and_its_group_is_the_cell(task, online_runs):
    run = online_runs[task]
    done, settings = record(run.path), run.served.settings()
    axes = {key: done[key] for key in ("task", "norm", "num_groups", "batch_size", "seed")} | done["axes"]
    assert {key: settings[key] for key in axes} == axes
    assert settings["config_name"] == "smoke"
    assert set(settings) == {*axes, "config_name", "cli"}
    assert settings["cli"]["model"]["norm"] == done["norm"]
    cell = [task, "smoke", f"{done['norm']}-G{done['num_groups']}", f"bs{done['batch_size']}", *done["axes"].values()]
    assert re.fullmatch(re.escape("/".join(map(str, cell))) + "/[0-9a-f]{6}", run.served.group)
    assert sorted(run.served.tags) == sorted(cell)
    assert run.served.job_type == "smoke"
    assert run.path.name.startswith(f"{run.served.display_name}-")


@pytest.mark.parametrize("task", TASKS)
def test_every_logged_number_arrives_once_over_the_global_step(task, online_runs):
    run = online_runs[task]
    kept, sent = kept_numbers(run.path), sent_numbers(run.served.history)
    assert [line[:2] for line in sent] == [line[:2] for line in kept]
    assert [line[2] for line in sent] == pytest.approx([line[2] for line in kept], rel=1e-6)
    assert [row["_step"] for row in run.served.history] == list(range(len(run.served.history)))
    definitions = run.served.config["_wandb"]["value"]["m"]
    index = next(place for place, each in enumerate(definitions, 1) if each.get("1") == "trainer/global_step")
    assert [each["5"] for each in definitions if each.get("2") == "*"] == [index]


@pytest.mark.parametrize("task", TASKS)
def test_a_run_ends_with_its_record_s_numbers_in_the_summary(task, online_runs, filled_server):
    run = online_runs[task]
    done = record(run.path)
    final = {key: value for key, value in run.served.summary.items() if key.startswith("final/")}
    assert final == pytest.approx({f"final/{name}": metric["value"] for name, metric in done["metrics"].items()})
    assert run.served.summary["status"] == done["status"] == "done"
    assert (run.served.exit_code, run.served.stops) == (0, 1)
    assert done["wandb"]["mode"] == "online"
    assert done["wandb"]["id"] == run.path.name
    assert done["wandb"]["url"].startswith(filled_server.address)
    assert done["wandb"]["url"] in run.out
    assert run.err == ""
    assert filled_server.unknown == []


def test_pictures_arrive(online_runs):
    for task in ("nas", "uda"):
        served = online_runs[task].served
        pictures = [value for value in served.summary.values() if isinstance(value, dict) and "filenames" in value]
        shown = [name for picture in pictures for name in picture["filenames"]]
        assert shown
        assert set(shown) <= set(served.files)


def test_a_stopped_run_goes_on_as_the_same_wandb_run_and_repeats_nothing(server, tmp_path):
    process = start_run("classification", tmp_path, "--trainer.max_epochs=4", **server.environment())
    wait_for(process, lambda: list(tmp_path.rglob("last.ckpt")))
    process.send_signal(signal.SIGTERM)
    end(process, code=128 + signal.SIGTERM)
    path = run_dir(tmp_path)
    (served,) = server.runs.values()
    before, group = len(served.history), served.group
    assert (served.exit_code, served.summary.get("status")) == (143, None)
    flags = [f"--config={path / 'config.yaml'}", f"--resume={path}"]
    end(start_run("classification", tmp_path, *flags, **server.environment()))
    assert list(server.runs) == [path.name]
    assert served.group == group
    assert served.received_lines == len(served.history) > before
    assert [row["_step"] for row in served.history] == list(range(len(served.history)))
    sent = sent_numbers(served.history)
    assert len({line[:2] for line in sent}) == len(sent)
    assert [line[:2] for line in sent] == [line[:2] for line in kept_numbers(path)]
    assert (served.exit_code, served.summary["status"]) == (0, "done")
    assert json.loads((path / "record.json").read_text())["wandb"]["url"].endswith(path.name)
