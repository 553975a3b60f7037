"""Every command in a README is one that the suite takes."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from shared.catalog import ROOT, load_tasks
from shared.commands import run_arguments, spread
from shared.make import all_targets, target_commands
from shared.parser import SuiteCLI
from shared.report.paper import load_paper_tables

READMES = sorted(path for path in ROOT.rglob("README.md") if ".venv" not in path.parts and ".tools" not in path.parts)
FENCE = re.compile(r"^```(?:sh|bash|console)?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(file: Path) -> list[str]:
    lines = [line.strip() for block in FENCE.findall(file.read_text()) for line in block.splitlines()]
    return [line.split("  #")[0].strip() for line in lines if line.split()[:1] == ["make"]]


COMMANDS = [(file, command) for file in READMES for command in commands(file)]


@pytest.mark.parametrize(("file", "command"), COMMANDS, ids=[f"{f.parent.name}: {c}" for f, c in COMMANDS])
def test_command_is_understood(file, command):
    words = shlex.split(command)[1:]
    targets = [word for word in words if "=" not in word]
    variables = dict(word.split("=", 1) for word in words if "=" in word)
    assert len(targets) <= 1
    tasks = load_tasks()
    if not targets and not variables:
        return
    if not targets or targets == ["run"]:
        variables.pop("resume", None)
        for cell in spread({"task": "classification"} | variables):
            arguments = run_arguments({name: value for name, value in cell.items() if name != "jobs"}, tasks)
            entry = importlib.import_module(f"{arguments[1]}.__main__")
            own = [word for word in arguments[2:] if "mynorms:" not in word]
            assert SuiteCLI(entry.MODULE, entry.DATA, [*own, "--data.data_dir=somewhere"]).trainer_settings()
        return
    assert targets[0] in all_targets(tasks)
    assert set(variables) <= set(all_targets(tasks)[targets[0]][1])
    if targets[0] not in ("help", "setup", "lock"):
        assert target_commands(targets[0], variables, tasks)


def test_there_are_commands_to_check():
    assert {file for file, _ in COMMANDS} >= {
        ROOT / "README.md",
        *(t.folder / "README.md" for t in load_tasks().values()),
    }


def test_every_member_has_a_readme_that_is_not_empty():
    for pyproject in [*ROOT.glob("packages/*/pyproject.toml"), *ROOT.glob("tasks/*/pyproject.toml")]:
        assert len((pyproject.parent / "README.md").read_text()) > 200, pyproject.parent


QUOTE = re.compile(r"<!-- from (\S+) -->\n(.*?)\n<!-- end -->", re.DOTALL)


def quotes() -> list[tuple[Path, str, str]]:
    return [(file, source, text) for file in READMES for source, text in QUOTE.findall(file.read_text())]


@pytest.mark.parametrize(("file", "source", "text"), quotes(), ids=[f"{f.parent.name}: {s}" for f, s, _ in quotes()])
def test_a_quoted_table_is_the_generated_one(file, source, text):
    generated = (ROOT / source).read_text()
    assert text.strip() == generated.partition("\n")[2].strip(), f"{file} must quote {source}, without its heading"


@pytest.mark.parametrize("task", load_tasks().values(), ids=load_tasks())
def test_the_paper_s_tables_are_quoted_as_printed(task):
    text = (task.folder / "README.md").read_text()
    tables = load_paper_tables()
    assert task.tables
    for number in task.tables:
        assert tables[number].task == task.name
        for entry in tables[number].entries:
            assert f" {entry.printed} " in text, entry
