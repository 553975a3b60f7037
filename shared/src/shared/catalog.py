"""The tasks of the suite, read from the folders of tasks/; imports the standard library only."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import UserError, choose

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A `name=value` of the make interface.

    Args:
        flag: The command-line flag that takes the value ("--data.batch_size"); None if the entry itself reads it.
        help: What it means, with its unit.
        example: A value to show.
    """

    flag: str | None
    help: str
    example: str


@dataclass(frozen=True, kw_only=True)
class Target:
    """A `make TARGET name=value …` that one task brings.

    Args:
        module: What `python -m` runs, with a flag for each variable.
        help: What it does, with its command.
        variables: Which variables it takes.
    """

    module: str
    help: str
    variables: list[str]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One experiment: a folder of tasks/ with a Lightning package, configs and a pyproject.toml that names variables.

    Args:
        name: Folder and import name ("fewshot").
        title: One phrase for the help.
        tables: The paper's tables that it reproduces; the tasks are listed in this order.
        folder: Where it lies.
        configs: Config name to YAML file.
        variables: The make variables that only this task has.
        targets: The make targets that only this task has.
    """

    name: str
    title: str
    tables: list[int]
    folder: Path
    configs: dict[str, Path]
    variables: dict[str, Variable] = field(default_factory=dict)
    targets: dict[str, Target] = field(default_factory=dict)

    def config(self, name: str) -> Path:
        """Return the YAML file of a config name, or of a path to a YAML file.

        Raises:
            UserError: If there is neither.
        """
        if name.endswith((".yaml", ".yml")):
            path = Path(name).expanduser()
            if not path.is_file():
                raise UserError(
                    f"config must be an existing YAML file or one of {', '.join(self.configs)}; got {name!r}."
                )
            return path
        return self.configs[choose("config", name, self.configs)]


RUN_VARIABLES = {
    "task": Variable(flag=None, help="the experiment", example="classification"),
    "norm": Variable(
        flag="--model.norm", help="norm layer, or several, as of seed and batch_size: compared", example="bn,bgn"
    ),
    "config": Variable(flag=None, help="which experiment file of the task", example="default"),
    "batch_size": Variable(flag="--data.batch_size", help="images per worker and step", example="2"),
    "num_groups": Variable(
        flag="--model.num_groups", help="G of GN, GBGN and BGN (the paper's where left out)", example="8"
    ),
    "seed": Variable(flag="--seed", help="random seed", example="3"),
    "data_dir": Variable(flag="--data.data_dir", help="folder with the real images (or DATA_DIR)", example="~/data"),
    "download": Variable(flag="--data.download", help="true: let torchvision download CIFAR-10", example="true"),
    "jobs": Variable(flag=None, help="runs at a time, where norm, seed or batch_size are several", example="2"),
    "runs": Variable(flag="--runs", help="folder for the runs", example="runs"),
    "wandb": Variable(flag="--wandb", help="auto, online, offline or off", example="offline"),
    "resume": Variable(flag="--resume", help="continue the run in this folder", example="runs/…/classification-bgn-…"),
    "args": Variable(flag=None, help="any further flags of the task", example='"--trainer.max_epochs=5"'),
}


def load_tasks(root: Path = ROOT) -> dict[str, Task]:
    """Return every task, by name, found as a pyproject.toml of `root`/tasks with a [tool.norm-suite] table.

    They come in the order of the paper's tables.
    """
    tasks: dict[str, Task] = {}
    for pyproject in sorted((root / "tasks").glob("*/pyproject.toml")):
        folder = pyproject.parent
        name = folder.name
        settings = tomllib.loads(pyproject.read_text())["tool"].get("norm-suite")
        if settings is None:  # a package whose parts are there, and no experiment yet
            continue
        files = sorted(
            (folder / "src" / name / "configs").glob("*.yaml"), key=lambda path: (path.stem != "default", path.stem)
        )
        variables = {key: Variable(**value) for key, value in settings.get("variables", {}).items()}
        for other in tasks.values():
            if shared := other.targets.keys() & settings.get("targets", {}).keys():
                raise ValueError(
                    f"a make target must belong to one task; got {min(shared)} of {other.name} and {name}."
                )
        tasks[name] = Task(
            name=name,
            title=settings["title"],
            tables=settings["tables"],
            folder=folder,
            configs={path.stem: path for path in files},
            variables=variables,
            targets={key: Target(**value) for key, value in settings.get("targets", {}).items()},
        )
    return dict(sorted(tasks.items(), key=lambda item: item[1].tables))


def load_grids(root: Path = ROOT) -> dict[str, Path]:
    """Return the sweep files of grids/ by name."""
    return {path.stem: path for path in sorted((root / "grids").glob("*.yaml"))}


def default_data_dir() -> str | None:
    """Return the DATA_DIR of the environment, or None."""
    return os.environ.get("DATA_DIR") or None
