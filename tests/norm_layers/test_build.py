"""Building the CPU kernel where something is odd: another torch, no home, a compiler that does not write UTF-8."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from norm_layers.build import load_kernel

PROGRAM = """
import logging
from norm_layers.build import load_kernel
logging.basicConfig(level=logging.INFO)
print(load_kernel())
"""


def load(program=PROGRAM, **environment):
    """Load the kernel in a process of its own; variables that are None are taken out of its environment."""
    merged = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    kept = {name: value for name, value in merged.items() if value is not None}
    return subprocess.run([sys.executable, "-c", program], env=kept, capture_output=True, timeout=120)


def test_a_library_is_for_the_openmp_library_that_it_is_linked_to():
    from norm_layers.build import library_name

    names = [
        library_name(flags, [Path(openmp)])
        for flags in (["-O2"], ["-O3"])
        for openmp in ("a/libgomp.so.1", "a/libgomp-24e2ab19.so.1", "b/libgomp.so.1")
    ]
    assert len(set(names)) == 4
    assert names[0] == names[2]


def test_a_compiler_that_writes_another_encoding(tmp_path):
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\nprintf '\\374nknown option' >&2\nexit 1\n")
    compiler.chmod(0o755)
    done = load(XDG_CACHE_HOME=str(tmp_path / "cache"), CXX=str(compiler))
    assert (done.returncode, done.stdout.strip()) == (0, b"None"), done.stderr
    assert b"no CPU kernel" in done.stderr
    assert b"nknown option" in done.stderr


def test_a_cache_that_cannot_be_written_to(tmp_path):
    tmp_path.joinpath("file").touch()
    done = load(XDG_CACHE_HOME=None, HOME=str(tmp_path / "file"))
    assert (done.returncode, done.stdout.strip()) == (0, b"None"), done.stderr
    assert b"no CPU kernel" in done.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become a user of no name")
def test_a_user_without_a_home():
    become = "import os, torch, norm_layers.build\nos.setuid(54321)\n"
    done = load(become + PROGRAM, XDG_CACHE_HOME=None, HOME=None)
    assert (done.returncode, done.stdout.strip()) == (0, b"None"), done.stderr
    assert b"no CPU kernel" in done.stderr


@pytest.mark.skipif(load_kernel() is None, reason="there is no C++ compiler with OpenMP to build the kernel")
def test_a_library_of_no_length_is_built_anew(tmp_path):
    assert b"CDLL" in load(XDG_CACHE_HOME=str(tmp_path)).stdout
    (library,) = (tmp_path / "norm_layers").iterdir()
    library.write_bytes(b"")  # as a machine may leave it that lost its power
    assert b"CDLL" in load(XDG_CACHE_HOME=str(tmp_path)).stdout
    assert library.stat().st_size > 0
