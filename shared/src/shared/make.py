"""The make interface: reads the variables of `make …`, checks them, and starts the command that does the work.

Runs under the system's Python with nothing installed, so that help and mistakes are answered at once; the environment
is set up only when something is going to run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NoReturn

SOURCES = [
    Path(__file__).resolve().parents[1],
    Path(__file__).resolve().parents[3] / "packages" / "norm_layers" / "src",
]
if __name__ == "__main__":
    sys.path[0] = str(SOURCES[0])
    sys.path.insert(1, str(SOURCES[1]))
    if sys.version_info < (3, 11):
        from shared import bootstrap

        newer = next(filter(None, (shutil.which(f"python3.{minor}") for minor in range(20, 10, -1))), None)
        if newer is None:
            bootstrap.ensure()
            newer = str(bootstrap.PYTHON)
        os.execv(newer, [newer, *sys.argv])

import signal

from norm_layers.registry import NORMS
from shared import bootstrap
from shared.catalog import ROOT, RUN_VARIABLES, Task, load_grids, load_tasks
from shared.commands import command_line, run_arguments, several_arguments, split_flags, spread
from shared.errors import UserError, choose, exit_with_usage_error

TARGETS = {
    "help": "this text",
    "setup": "install everything at the pinned versions into .venv (the other targets do it by themselves)",
    "sweep": "run every cell of a grid that has no finished record yet: make sweep grid=NAME [jobs=2] [shard=0/4]",
    "report": "report.html and tables from the records: make report [task=…] [runs=DIR] [out=DIR]",
    "runs": "list the runs, and find those that are not finished: make runs [task=…] [runs=DIR]",
    "clean-runs": "delete unfinished runs, after asking: make clean-runs [state=unfinished|lost|all] [yes=1]",
    "sync": "send what W&B lacks of the runs, once: make sync [runs=DIR]",
    "dashboard": "the W&B workspace and report, as code: make dashboard [entity=…] [project=…] [dry=1: print them]",
    "publish": "append finished runs to results/runs and redraw results/: make publish runs=DIR",
    "smoke": "the whole path of one task, or of all, in seconds: make smoke [task=…]",
    "test": 'the tests: make test [args="-k bgn"]',
    "bench": "norm layers beside nn.BatchNorm2d, tasks beside plain loops: make bench [of=norm_layers|tasks|…]",
    "lint": "ruff and mypy",
    "lock": "resolve the dependencies anew and write requirements.lock",
}
WHOLE_SUITE = ["-n", "auto", "--maxprocesses=4", "--dist=loadgroup"]
"""What pytest gets where `make test` comes without args=: processes share the tests."""
MODULES = {
    "runs": ["shared.listing"],
    "clean-runs": ["shared.listing", "--clean"],
    "sync": ["shared.sync"],
    "dashboard": ["shared.dashboard"],
}
"""Targets that are one module, with a flag for each variable."""
BENCHMARKS = (
    "norm_layers", "tasks", "classification", "nas", "adversarial", "fewshot", "uda", "startup", "report_scale",
)  # fmt: skip
"""What `make bench of=` measures alone; without of=, the first two, which are everything but the last."""
TARGET_VARIABLES = {
    "help": [],
    "setup": [],
    "sweep": ["grid", "jobs", "shard", "runs", "wandb", "data_dir", "norm", "seed", "args"],
    "report": ["task", "runs", "out"],
    "runs": ["task", "runs"],
    "clean-runs": ["task", "runs", "state", "yes"],
    "sync": ["runs"],
    "dashboard": ["entity", "project", "runs", "dry"],
    "publish": ["runs"],
    "smoke": ["task", "norm", "runs"],
    "test": ["args"],
    "bench": ["of", "args"],
    "lint": [],
    "lock": [],
}


def read_variables(makeflags: str, environment: dict[str, str]) -> dict[str, str]:
    """Return the `name=value` pairs that were given on make's command line.

    Args:
        makeflags: GNU make's MAKEFLAGS: the options, then " -- ", then the variables with escaped blanks.
        environment: Where make exports each variable's value.
    """
    _, _, overrides = f" {makeflags}".partition(" -- ")
    names = re.findall(r"(?:^|(?<!\\)\s)([^\s=:\\]+)\s*:{0,3}=", overrides)
    return {name: environment.get(name, "") for name in names}


def all_targets(tasks: dict[str, Task]) -> dict[str, tuple[str, list[str]]]:
    """Return every target's help and the variables that it takes: the suite's, then those that tasks bring."""
    own = {name: (text, TARGET_VARIABLES[name]) for name, text in TARGETS.items()}
    brought = {name: (t.help, t.variables) for task in tasks.values() for name, t in task.targets.items()}
    return own | {name: target for name, target in brought.items() if name not in own}


def help_text(tasks: dict[str, Task]) -> str:
    """Return what `make` alone prints."""
    lines = [
        "Which normalization layer should I train with?",
        "",
        "Compare two norm layers (CPU, five minutes, no data needed):",
    ]
    lines += ["  make task=classification norm=bn,bgn", "", "Tasks:"]
    lines += [f"  {task.name:<16}{task.title}; config={'|'.join(task.configs)}" for task in tasks.values()]
    lines += [
        "",
        "Norms:",
        "  " + " ".join(NORMS) + ", or package.module:Class of your own",
        "",
        "Variables of a run:",
    ]
    lines += [f"  {name + '=' + variable.example:<42}{variable.help}" for name, variable in RUN_VARIABLES.items()]
    for task in tasks.values():
        lines += [f"  {name + '=' + v.example:<42}{v.help} ({task.name} only)" for name, v in task.variables.items()]
    lines += ["", "Targets:"] + [f"  make {name:<12}{text}" for name, (text, _) in all_targets(tasks).items()]
    lines += [
        "",
        "Grids:",
        *textwrap.wrap(" ".join(load_grids()), 110, initial_indent="  ", subsequent_indent="  "),
        "",
        "Every flag of a task: make task=classification args=--help",
    ]
    return "\n".join(lines)


def child_environment(command: str | None = None) -> dict[str, str]:
    """Return the environment of a command: without make's own variables, with the run's command where there is one."""
    own = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    # Spinning threads are up to 1.5 times faster on an idle machine, and 12 times slower beside one busy process
    # (default config of classification, two cores); set OMP_WAIT_POLICY=ACTIVE for the former.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return environment | ({} if command is None else {"NORM_SUITE_COMMAND": command})


def become(arguments: list[str], *, command: str) -> NoReturn:
    """Set the environment up and become `python` of .venv with these arguments, so that signals reach it directly."""
    bootstrap.ensure()
    sys.stdout.flush()
    os.execve(bootstrap.PYTHON, [str(bootstrap.PYTHON), *arguments], child_environment(command))


def start(arguments: list[str]) -> int:
    """Set the environment up, run `python` of .venv with these arguments, and return its exit code."""
    bootstrap.ensure()
    process = subprocess.Popen([str(bootstrap.PYTHON), *arguments], env=child_environment())
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the child got the same Ctrl-C and is saving its checkpoint
            continue


def carry_out(target: str, variables: dict[str, str]) -> int:
    """Carry out one target and return the exit code."""
    tasks = load_tasks()
    if target in ("default", "run"):
        if not variables and target == "default":
            target = "help"
        else:
            cells = [variables] if "resume" in variables else spread(variables)
            if len(cells) == 1:
                become(run_arguments(cells[0], tasks), command=command_line(cells[0]))
            become(several_arguments(cells, tasks), command=command_line(variables))
    targets = all_targets(tasks)
    choose("target", target, targets)
    for name in variables:
        allowed = targets[target][1]
        if name not in allowed:
            choices = f"one of {', '.join(allowed)}" if allowed else "left out"
            raise UserError(f"variable of make {target} must be {choices}; got {name!r}.")
    if target == "help":
        print(help_text(tasks), flush=True)
        return 0
    if target == "setup":
        bootstrap.ensure(quiet=False)
        return 0
    if target == "lock":
        bootstrap.write_lock()
        return 0
    return start_all(target_commands(target, variables, tasks))


def target_commands(target: str, variables: dict[str, str], tasks: dict[str, Task]) -> list[list[str]]:
    """Return the argument lists that carry out a target, one after the other."""
    if target == "smoke":
        names = [choose("task", variables["task"], tasks)] if "task" in variables else list(tasks)
        rest = {name: value for name, value in variables.items() if name != "task"}
        return [
            run_arguments({"norm": "bgn", "wandb": "offline", **rest, "task": name, "config": "smoke"}, tasks)
            for name in names
        ]
    if target == "sweep":
        grids = load_grids()
        name = variables.get("grid", "")
        if not name.endswith((".yaml", ".yml")):
            choose("grid", name, grids)
        return [["-m", "shared.sweep", *(f"--{key}={value}" for key, value in variables.items())]]
    if target == "report":
        if "task" in variables:
            choose("task", variables["task"], tasks)
        return [["-m", "shared.report", *(f"--{key}={value}" for key, value in variables.items())]]
    if target == "publish":
        if "runs" not in variables:
            raise UserError(
                "runs must be a folder of finished runs; got nothing. Try `make publish runs=runs/classification`."
            )
        return [["-m", "shared.report", "--publish", variables["runs"]]]
    for task in tasks.values():
        if target in task.targets:
            return [["-m", task.targets[target].module, *(f"--{key}={value}" for key, value in variables.items())]]
    if (module := MODULES.get(target)) is not None:
        return [["-m", *module, *(f"--{key}={value}" for key, value in variables.items())]]
    return development_commands(target, **variables)


def development_commands(target: str, *, of: str = "", args: str = "") -> list[list[str]]:
    """Return the argument lists of the tests, the benchmarks or the linters."""
    if target == "test":
        return [["-m", "pytest", *(split_flags(args) or WHOLE_SUITE)]]
    if target == "bench":
        if of:
            return [["-m", f"benchmarks.{choose('of', of, BENCHMARKS)}", *split_flags(args)]]
        if args:
            raise UserError(f"args must come with of=, whose flags they are: {', '.join(BENCHMARKS)}; got {args!r}.")
        return [["-m", f"benchmarks.{name}"] for name in BENCHMARKS[:2]]
    return [
        ["-m", "ruff", "check", "."],
        ["-m", "ruff", "format", "--check", "."],
        ["-m", "mypy", *source_folders(), "benchmarks"],
    ]


def source_folders() -> list[str]:
    """Return the source folder of every member of the workspace."""
    return [str((folder / "src").relative_to(ROOT)) for folder in bootstrap.members()]


def start_all(commands: list[list[str]]) -> int:
    """Run the commands one after the other up to the first that fails; return the last exit code."""
    for arguments in commands:
        code = start(arguments)
        if code != 0:
            return code
    return 0


def main() -> int:
    """Carry out `make TARGET name=value …`."""
    target = sys.argv[1] if len(sys.argv) > 1 else "default"
    try:
        return carry_out(target, read_variables(os.environ.get("MAKEFLAGS", ""), dict(os.environ)))
    except ValueError as error:
        exit_with_usage_error(error)
    except BrokenPipeError:  # `make help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
