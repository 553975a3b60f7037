"""Imports point one way: norm_layers <- shared <- tasks, and no task imports another."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from shared.catalog import ROOT, load_tasks

TASKS = list(load_tasks())
ALLOWED = {"norm_layers": {"norm_layers"}, "shared": {"norm_layers", "shared"}} | {
    task: {"norm_layers", "shared", task} for task in TASKS
}
SOURCES = {"norm_layers": ROOT / "packages/norm_layers/src", "shared": ROOT / "shared/src"} | {
    task: ROOT / "tasks" / task / "src" for task in TASKS
}


def imported_names(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", SOURCES)
def test_imports_point_one_way(package: str):
    files = list(SOURCES[package].rglob("*.py"))
    assert files
    for file in files:
        ours = imported_names(file) & set(SOURCES)
        assert ours <= ALLOWED[package], f"{file.relative_to(ROOT)} imports {ours - ALLOWED[package]}"


def test_norm_layers_import_torch_only():
    for file in SOURCES["norm_layers"].rglob("*.py"):
        foreign = imported_names(file) - sys.stdlib_module_names - {"torch", "norm_layers"}
        # Annotations are checked where jaxtyping is installed; the kernels for GPUs are there where Triton is.
        optional = {"shapes.py": {"jaxtyping"}, "triton_kernels.py": {"triton"}, "triton_ops.py": {"triton"}}
        assert foreign <= optional.get(file.name, set()), f"{file.relative_to(ROOT)} imports {foreign}"


def test_norm_layers_work_without_jaxtyping():
    hidden = "import sys; sys.modules['jaxtyping'] = None"
    code = hidden + "\nfrom norm_layers import make_norm\nprint(make_norm('bgn', 8, num_groups=2))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "BatchGroupNorm" in done.stdout


def test_names_and_help_need_no_torch():
    code = "import sys, norm_layers.registry, shared.make; assert not {'torch', 'numpy', 'yaml'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", ["make.py", "bootstrap.py", "catalog.py", "errors.py"])
def test_the_make_interface_needs_no_installed_package(file: str):
    foreign = imported_names(SOURCES["shared"] / "shared" / file) - sys.stdlib_module_names - {"norm_layers", "shared"}
    assert not foreign


def test_files_are_short():
    for source in SOURCES.values():
        for file in source.rglob("*.py"):
            assert len(file.read_text().splitlines()) <= 400, file
