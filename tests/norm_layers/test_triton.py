"""The Triton kernels without a GPU: their numbers in Triton's interpreter, and that they compile for real ones."""

import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from norm_layers.triton_route import kernels_agree, triton_is_wanted, triton_serves

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def run_worker(name, **environment):
    """Run a script beside this file and give what it prints."""
    worker = Path(__file__).with_name(name)
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run([sys.executable, worker], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
@needs_triton
def test_kernels_in_the_interpreter():
    assert run_worker("triton_worker.py", TRITON_INTERPRET="1") == "agree"


@pytest.mark.slow
@needs_triton
def test_kernels_compile_to_machine_code(tmp_path):
    assert run_worker("triton_compile_worker.py", TRITON_CACHE_DIR=str(tmp_path)) == str(4 * 3 * 6)


def test_without_triton_or_a_gpu_torch_takes_over():
    hidden = "import sys; sys.modules['triton'] = None\n"
    code = hidden + "import torch\nfrom norm_layers.triton_route import kernels_agree\n"
    code += "import logging; logging.basicConfig(level=logging.INFO)\nprint(kernels_agree(torch.device('cpu')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr
    assert "no Triton kernels" in done.stderr
    assert not triton_serves(torch.randn(2, 8, 4, 4))


@needs_triton
def test_kernels_that_cannot_run_are_not_used(caplog):
    caplog.set_level(logging.WARNING, logger="norm_layers")
    assert not kernels_agree(torch.device("cpu"))  # compiled for a GPU, they have no form for the CPU
    assert "Triton kernels fail on cpu" in caplog.text


@pytest.mark.parametrize(("value", "is_wanted"), [(None, False), ("0", False), ("triton", True)])
def test_kernels_are_for_those_who_ask(monkeypatch, value, is_wanted):
    monkeypatch.delenv("NORM_LAYERS_KERNEL", raising=False)
    if value is not None:
        monkeypatch.setenv("NORM_LAYERS_KERNEL", value)
    triton_is_wanted.cache_clear()
    assert triton_is_wanted() == is_wanted
    triton_is_wanted.cache_clear()
