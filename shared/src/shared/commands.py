"""The variables of `make task=… name=value …`: checked, and turned into the command that does the work.

Imports the standard library only, so that mistakes are answered at once.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
from pathlib import Path

from norm_layers.registry import resolve_norm
from shared.catalog import RUN_VARIABLES, Task, Variable, default_data_dir
from shared.errors import UserError, choose
from shared.wandb_mode import MODES

NUMBERS = ("seed", "batch_size", "num_groups")
"""Variables of a run that are whole numbers."""
SEVERAL = ("norm", "seed", "batch_size")
"""Variables of a run that may have several values with commas between: a run for each combination."""


def task_variables(task: Task) -> dict[str, Variable]:
    """Return every variable that a run of `task` takes."""
    return RUN_VARIABLES | task.variables


def spread(variables: dict[str, str]) -> list[dict[str, str]]:
    """Return the variables of one run for each combination of the values of `SEVERAL`.

    Args:
        variables: What was given, such as norm="bn,bgn".

    Raises:
        UserError: For a comma with nothing before or after it.
    """
    choices = []
    for name, value in variables.items():
        values = value.split(",") if name in SEVERAL else [value]
        if len(values) > 1 and "" in values:
            raise UserError(f"{name} must be one value, or several with commas between; got {value!r}.")
        choices.append(dict.fromkeys(values))
    return [dict(zip(variables, values)) for values in itertools.product(*choices)]


def several_arguments(cells: list[dict[str, str]], tasks: dict[str, Task]) -> list[str]:
    """Return the arguments of `python` that carry out several runs and compare them.

    Args:
        cells: The variables of each, which differ in those of `SEVERAL` alone.
        tasks: The tasks by name.

    Raises:
        ValueError: For a mistake in any of them.
    """
    options = {name: cells[0][name] for name in ("jobs", "runs", "wandb", "data_dir", "args") if name in cells[0]}
    cells = [{name: value for name, value in cell.items() if name not in options} for cell in cells]
    for cell in cells:
        run_arguments(cell, tasks)
    flags = [f"--{name}={value}" for name, value in options.items()]
    return ["-m", "shared.sweep", *flags, f"--cells={json.dumps(cells)}"]


def run_arguments(variables: dict[str, str], tasks: dict[str, Task]) -> list[str]:
    """Return the arguments of `python` that carry out `make name=value …`.

    Args:
        variables: What was given.
        tasks: The tasks by name.

    Raises:
        UserError: For an unknown task, norm, config or variable.
        ValueError: For an unknown norm.
    """
    variables = dict(variables)
    if "resume" in variables:
        return resume_arguments(variables)
    if "task" not in variables:
        raise UserError(
            f"task must be one of {', '.join(tasks)}; got nothing. Try `make task={next(iter(tasks))} norm=bgn`."
        )
    task = tasks[choose("task", variables.pop("task"), tasks)]
    known = task_variables(task)
    for name in variables:
        choose("variable", name, known)
    if "jobs" in variables:
        raise UserError(f"jobs must come with several values of {', '.join(SEVERAL)}, such as norm=bn,bgn.")
    for name in NUMBERS:
        if not re.fullmatch(r"\d+", variables.get(name, "0")):
            raise UserError(f"{name} must be a whole number; got {variables[name]!r}.")
    choose("wandb", variables.get("wandb", MODES[0]), MODES)
    norm = variables.get("norm", "")
    if norm and ":" not in norm:
        resolve_norm(norm)
    config = task.config(variables.pop("config", "default"))
    extra = split_flags(variables.pop("args", ""))
    if "data_dir" not in variables and (data_dir := default_data_dir()):
        variables["data_dir"] = data_dir
    flags = [f"{known[name].flag}={value}" for name, value in variables.items() if known[name].flag]
    return ["-m", task.name, f"--config={config}", *flags, *extra]


def split_flags(text: str) -> list[str]:
    """Return the flags that args= holds.

    Raises:
        UserError: If a quotation has no end.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"args must be flags, with every quotation closed; got {text!r}.") from error


def resume_arguments(variables: dict[str, str]) -> list[str]:
    """Return the arguments that continue the run in `resume`, whose own config holds all other settings."""
    allowed = ("resume", "wandb", "data_dir", "args")
    for name in variables:
        if name not in allowed:
            raise UserError(
                f"a resumed run keeps its settings, so only {', '.join(allowed)} may be given; got {name!r}."
            )
    run_dir = Path(variables["resume"]).expanduser()
    identity = run_dir / "run.json"
    if not identity.is_file():
        raise UserError(f"resume must be the folder of a run (it holds run.json); got {variables['resume']!r}.")
    try:
        task = json.loads(identity.read_text())["task"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"run.json must say whose it is; got {identity}, which is damaged ({error}).") from error
    flags = [f"{RUN_VARIABLES[name].flag}={variables[name]}" for name in ("wandb", "data_dir") if name in variables]
    return [
        "-m",
        task,
        f"--config={run_dir / 'config.yaml'}",
        f"--resume={run_dir}",
        *flags,
        *split_flags(variables.get("args", "")),
    ]


def command_line(variables: dict[str, str]) -> str:
    """Return the one spelling of a run's make command, without what does not change its result."""
    kept = {name: value for name, value in variables.items() if name not in ("runs", "wandb", "data_dir")}
    order = [name for name in RUN_VARIABLES if name in kept] + sorted(
        name for name in kept if name not in RUN_VARIABLES
    )
    words = [f"{name}={shlex.quote(kept[name])}" for name in order]
    return " ".join(["make", *words])
