"""Build the CPU kernel: C++ without headers of torch, so that it takes a few seconds, once a machine.

The library lies in the user's cache under a name made of its source and its compiler flags. Several processes may
build it at once: each compiles a file of its own and moves it to that name in one step.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
"""What the kernel computes in, by the ending of its functions' names."""

_UNITS = [Path(__file__).with_name(f"cpu_{name}.cpp") for name in ("bands", "kernel", "positional", "transpose")]
_PARTS = ("bands", "export", "operations", "plan", "reductions", "vectors")
_HEADERS = [Path(__file__).with_name(f"cpu_{name}.h") for name in _PARTS]

# What torch's own kernels may use on this processor is what this one may use.
_INSTRUCTIONS = {
    "AVX2": ["-mavx2", "-mfma"],
    "AVX512": [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512dq",
        "-mavx512vl",
        "-mavx2",
        "-mfma",
        "-mprefer-vector-width=512",
    ],
}
_SECONDS = 120
_logger = logging.getLogger("norm_layers")


@functools.cache
def load_kernel() -> ctypes.CDLL | None:
    """Load the CPU kernel, built if it is not in the cache.

    The cache is `norm_layers` in XDG_CACHE_HOME (or ~/.cache); the compiler is CXX, or the first of c++, g++ and
    clang++ on the path. NORM_LAYERS_KERNEL=0 goes without any kernel.

    Returns:
        The library. None without a compiler that has OpenMP, or a cache that can be written to; the reason is logged
        at level info.
    """
    if os.environ.get("NORM_LAYERS_KERNEL") == "0":
        return None
    try:
        return ctypes.CDLL(str(_cached_library()))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # no home is a RuntimeError
        detail = getattr(error, "stderr", None) or error
        _logger.info("norm_layers: no CPU kernel, torch's own operations instead: %s", detail)
        return None


def kernel_functions(
    arguments: Mapping[str, Sequence[Any]], kinds: Sequence[str]
) -> dict[str, list[Callable[..., None]]]:
    """Give functions of the CPU kernel, which return nothing, by kind.

    Args:
        arguments: Types of the arguments by the name of a function without its kind.
        kinds: What the names in the library end with, behind an underscore: "float32", or the bytes of a value.

    Returns:
        For each kind the functions in the order of `arguments`; nothing where there is no kernel.
    """
    library = load_kernel()
    if library is None:
        return {}
    found: dict[str, list[Any]] = {}
    for kind in kinds:
        found[kind] = [library[f"{name}_{kind}"] for name in arguments]
        for function, types in zip(found[kind], arguments.values()):
            function.argtypes, function.restype = types, None
    return found


def _cached_library() -> Path:
    """Give the path of the library, which is there then."""
    flags, openmp = _compiler_flags(), _openmp_of_torch()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "norm_layers"
    library = cache / library_name(flags, openmp)
    if not library.exists() or library.stat().st_size == 0:  # empty: a machine lost its power
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        _compile(flags, openmp, library)
    return library


def library_name(flags: list[str], openmp: list[Path]) -> str:
    """Give the file name of the library.

    Args:
        flags: Compiler flags.
        openmp: OpenMP libraries that it is linked to. Their names differ between builds of torch, and the kernel of
            one does not load beside another one.

    Returns:
        A name of its own for everything that decides what the library is.
    """
    sources = [source.read_text(encoding="utf-8") for source in (*_UNITS, *_HEADERS)]
    parts = [*sources, *flags, *(path.name for path in openmp), sys.platform, platform.machine()]
    return f"cpu_kernel-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}.so"


def _compile(flags: list[str], openmp: list[Path], library: Path) -> None:
    """Compile the kernel to a temporary file and move it into place."""
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        raise OSError("there is no C++ compiler on the path")
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / library.name
        linked = ["-Wl,--as-needed", *map(str, openmp)] if openmp else []
        command = [*compiler.split(), *flags, *map(str, _UNITS), *linked, "-o", str(built)]
        # A compiler writes in the encoding that it likes.
        subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=_SECONDS)
        with built.open("rb") as file:
            os.fsync(file.fileno())
        built.replace(library)


def _compiler_flags() -> list[str]:
    """Give the flags that decide what the library is."""
    instructions = _INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), [])
    return ["-std=c++17", "-O3", *instructions, "-fno-math-errno", "-fopenmp", "-fPIC", "-shared", "-w"]


def _openmp_of_torch() -> list[Path]:
    """Give the OpenMP library that torch brings, whose threads the kernel should share, ahead of the compiler's."""
    return sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
