"""The make interface: variables, commands, help and every mistake in one line."""

import json
import os
import shutil
import subprocess

import pytest

from norm_layers.registry import NORMS
from shared import bootstrap
from shared.catalog import ROOT, RUN_VARIABLES, load_tasks
from shared.commands import command_line, run_arguments, several_arguments, spread
from shared.errors import UserError
from shared.make import TARGETS, child_environment, help_text, read_variables, target_commands

TASKS = load_tasks()
CONFIG = TASKS["classification"].configs["default"]


@pytest.mark.parametrize(
    ("makeflags", "names"),
    [
        ("", []),
        (" -- task=classification norm=bgn", ["task", "norm"]),
        ("rR -- args=--trainer.max_epochs=5\\ --seed=1 norm=bn", ["args", "norm"]),
        (" --no-print-directory -- norm:=bn", ["norm"]),
        ("s", []),
    ],
)
def test_variables_of_makeflags(makeflags, names):
    environment = {name: f"value of {name}" for name in names}
    assert read_variables(makeflags, environment) == environment


def test_variables_become_flags(monkeypatch):
    monkeypatch.delenv("DATA_DIR", raising=False)
    given = {
        "task": "classification",
        "norm": "bn",
        "batch_size": "2",
        "seed": "3",
        "args": "--trainer.max_epochs=5 --wandb=off",
    }
    assert run_arguments(given, TASKS) == [
        "-m", "classification", f"--config={CONFIG}", "--model.norm=bn", "--data.batch_size=2", "--seed=3",
        "--trainer.max_epochs=5", "--wandb=off",
    ]  # fmt: skip


def test_data_dir_of_the_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("DATA_DIR", "somewhere")
    assert "--data.data_dir=somewhere" in run_arguments({"task": "classification"}, TASKS)
    assert "--data.data_dir=else" in run_arguments({"task": "classification", "data_dir": "else"}, TASKS)


def test_command_line_has_one_spelling_and_no_place():
    command = command_line(
        {
            "seed": "1",
            "norm": "bn",
            "task": "classification",
            "runs": "a",
            "data_dir": "b",
            "wandb": "off",
            "args": "-a -b",
        }
    )
    assert command == "make task=classification norm=bn seed=1 args='-a -b'"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"norm": "bgn"}, "task must be one of classification.*got nothing. Try `make task=classification norm=bgn`"),
        ({"task": "clasification"}, "task must be one of.*Did you mean 'classification'"),
        ({"task": "classification", "norm": "bng"}, "norm must be one of bn, in.*got 'bng'"),
        ({"task": "classification", "config": "papr"}, "config must be one of.*Did you mean 'paper'"),
        ({"task": "classification", "config": "none.yaml"}, "config must be an existing YAML file"),
        ({"task": "classification", "batchsize": "2"}, "variable must be one of.*Did you mean 'batch_size'"),
        ({"task": "fewshot", "seed": "x"}, "seed must be a whole number; got 'x'"),
        ({"task": "fewshot", "batch_size": "1.5"}, "batch_size must be a whole number; got '1.5'"),
        ({"task": "fewshot", "wandb": "maybe"}, "wandb must be one of auto, online, offline, off; got 'maybe'"),
        ({"task": "fewshot", "args": '"--x'}, "args must be flags, with every quotation closed"),
        ({"resume": "/nowhere"}, "resume must be the folder of a run"),
        ({"resume": "/nowhere", "norm": "bn"}, "a resumed run keeps its settings.*got 'norm'"),
    ],
)
def test_mistakes_in_a_run(variables, message):
    with pytest.raises(ValueError, match=message):
        run_arguments(variables, TASKS)


@pytest.mark.parametrize(
    ("target", "variables", "message"),
    [
        ("sweep", {"grid": "no"}, "grid must be one of"),
        ("sweep", {}, "grid must be one of"),
        ("report", {"task": "no"}, "task must be one of"),
        ("publish", {}, "runs must be a folder"),
        ("smoke", {"task": "no"}, "task must be one of"),
        ("bench", {"of": "norms"}, "of must be one of norm_layers, tasks"),
        ("bench", {"args": "--tiny"}, "args must come with of="),
    ],
)
def test_mistakes_in_a_target(target, variables, message):
    with pytest.raises(UserError, match=message):
        target_commands(target, variables, TASKS)


def test_smoke_covers_every_task():
    assert [command[1] for command in target_commands("smoke", {}, TASKS)] == list(TASKS)


def test_several_values_are_a_run_for_each_combination():
    cells = spread({"task": "fewshot", "norm": "bn,bgn,bn", "args": "-a=1,2", "seed": "0,1"})
    assert [(cell["norm"], cell["seed"]) for cell in cells] == [("bn", "0"), ("bn", "1"), ("bgn", "0"), ("bgn", "1")]
    assert {(cell["task"], cell["args"]) for cell in cells} == {("fewshot", "-a=1,2")}
    assert spread({"task": "fewshot", "norm": "bn"}) == [{"task": "fewshot", "norm": "bn"}]
    module, sweep, *flags, last = several_arguments(
        [cell | {"runs": "here", "jobs": "2"} for cell in cells[:2]], TASKS
    )
    assert (module, sweep, flags) == ("-m", "shared.sweep", ["--jobs=2", "--runs=here", "--args=-a=1,2"])
    assert json.loads(last.removeprefix("--cells=")) == [
        {"task": "fewshot", "norm": "bn", "seed": seed} for seed in ("0", "1")
    ]


def test_mistakes_in_several_values():
    with pytest.raises(UserError, match="norm must be one value, or several with commas between; got 'bn,'"):
        spread({"task": "fewshot", "norm": "bn,"})
    with pytest.raises(ValueError, match=r"norm must be one of bn, in.*got 'bng'"):
        several_arguments(spread({"task": "fewshot", "norm": "bn,bng"}), TASKS)
    with pytest.raises(UserError, match="jobs must come with several values of norm, seed, batch_size"):
        run_arguments({"task": "fewshot", "norm": "bn", "jobs": "2"}, TASKS)


def test_bench_is_one_command_of_which_each_part_can_be_had_alone():
    assert target_commands("bench", {}, TASKS) == [["-m", "benchmarks.norm_layers"], ["-m", "benchmarks.tasks"]]
    alone = target_commands("bench", {"of": "nas", "args": "--tiny --pairs=2"}, TASKS)
    assert alone == [["-m", "benchmarks.nas", "--tiny", "--pairs=2"]]


def test_help_names_everything():
    text = help_text(TASKS)
    for word in [*TASKS, *NORMS, *RUN_VARIABLES, *TARGETS]:
        assert word in text
    assert max(map(len, text.splitlines())) < 160


def make(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, env=environment, check=False)


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="GNU make is not installed")


@needs_make
def test_make_alone_prints_the_help():
    done = make()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Which normalization layer")


@needs_make
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["task=clasification"], "Did you mean 'classification'"),
        (["task=classification", "norm=bgm"], "Did you mean 'bgn'"),
        (["task=classification", "nrom=bgn"], "Did you mean 'norm'"),
        (["swep"], "target must be one of"),
        (["task=classification", "norm=bn,bn", "config=none.yaml"], "config must be an existing YAML file"),
        (["task=classification", "norm=mynorms.Good"], "got 'mynorms.Good'. Did you mean 'mynorms:Good'?"),
        (["sweep"], "got nothing."),
        (["tests"], "Did you mean 'test'"),
        (["help", "norm=bgn"], "variable of make help must be left out"),
    ],
)
def test_make_answers_a_mistake_in_one_line_with_code_2(words, expected):
    done = make(*words)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert expected in errors[0]
    assert not done.stdout


def test_commands_get_no_make_variables_and_wait_without_spinning(monkeypatch):
    monkeypatch.setenv("MAKEFLAGS", "s")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    environment = child_environment("make x=1")
    assert "MAKEFLAGS" not in environment
    assert environment["NORM_SUITE_COMMAND"] == "make x=1"
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert child_environment()["OMP_WAIT_POLICY"] == "ACTIVE"


def test_a_machine_without_a_gpu_gets_no_gpu_libraries():
    everything, small = bootstrap.wanted_requirements(None), bootstrap.wanted_requirements("cpu")
    assert "nvidia-" in everything
    assert "nvidia-" not in small
    assert "triton==" not in small
    assert set(small.splitlines()) < set(everything.splitlines())
    assert {"torch", "wandb"} <= {line.partition("==")[0] for line in small.splitlines()}
