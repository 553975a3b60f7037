"""The README of the package: its code runs, its tables are those of the registry."""

import re
from pathlib import Path

import torch

from norm_layers.registry import BATCH_GROUP_NORM_GROUPS, NORMS

README = Path(__file__).parents[2] / "packages" / "norm_layers" / "README.md"


def test_the_code_runs():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 5
    namespace = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
    assert namespace["layer"].weight.shape == (64,)
    assert isinstance(namespace["y"], torch.Tensor)


def test_every_norm_has_its_row():
    lines = README.read_text(encoding="utf-8").splitlines()
    for name, spec in NORMS.items():
        if name != "none":
            cells = (f"`{name}`", spec.title, spec.shares, spec.statistic, f"`{spec.formula}`", spec.source)
            assert f"| {' | '.join(cells)} |" in lines


def test_the_default_group_numbers_are_those_in_force():
    table = ", ".join(f"{batch}: {groups}" for batch, groups in sorted(BATCH_GROUP_NORM_GROUPS.items(), reverse=True))
    assert table in README.read_text(encoding="utf-8")


def test_the_figure_is_there():
    assert "![" in README.read_text(encoding="utf-8")
    assert (README.parent / "norms.svg").exists()
