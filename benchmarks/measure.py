"""Time and memory of norm layers, side by side."""

import cProfile
import platform
import pstats
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_PAIRS = 9


def training_step(norm: nn.Module, x: Tensor, gradient: Tensor) -> Callable[[], None]:
    """Give a function that runs forward and backward in training, with gradients of input and parameters."""
    inputs = [x, *norm.parameters()]
    norm.train()

    def step() -> None:
        torch.autograd.grad(norm(x), inputs, gradient)

    return step


def evaluation(norm: nn.Module, x: Tensor) -> Callable[[], None]:
    """Give a function that runs the layer in evaluation, without gradients."""
    norm.eval()

    def run() -> None:
        with torch.no_grad():
            norm(x)

    return run


def clock(device: torch.device) -> Callable[[], float]:
    """Give the clock: on the CPU with one thread the process's own time, which other processes do not lengthen."""
    if device.type == "cuda":

        def synchronised() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return synchronised
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def compare(
    functions: dict[str, Callable[[], None]], *, seconds: float, device: torch.device
) -> dict[str, dict[str, float]]:
    """Time functions in turns and relate each to the first.

    Args:
        functions: By name; the first is what the others are compared to.
        seconds: Time for each function in all.
        device: Where they run.

    Returns:
        By name, the median time of one call in microseconds and the median of the ratios to the first's turns.
    """
    now = clock(device)
    for function in functions.values():
        function()
    first = next(iter(functions.values()))
    start = time.perf_counter()
    first()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    calls = max(1, min(1000, int(seconds / _PAIRS / max(time.perf_counter() - start, 1e-6))))
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(_PAIRS):
        names = list(functions) if turn % 2 == 0 else list(reversed(functions))
        for name in names:
            start = now()
            for _ in range(calls):
                functions[name]()
            times[name].append((now() - start) / calls)
    reference = next(iter(times.values()))
    return {
        name: {
            "microseconds": round(statistics.median(values) * 1e6, 1),
            "ratio": round(statistics.median(a / b for a, b in zip(values, reference)), 3),
        }
        for name, values in times.items()
    }


def saved_bytes(norm: nn.Module, x: Tensor) -> int:
    """Count the bytes that a layer keeps for its backward pass, each storage once, without its own tensors."""
    own = {values.untyped_storage().data_ptr() for values in (*norm.parameters(), *norm.buffers())}
    kept: dict[int, int] = {}

    def pack(values: Tensor) -> Tensor:
        storage = values.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return values

    norm.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values):
        y = norm(x)
    del y
    return sum(kept.values())


def peak_bytes(step: Callable[[], None], *, device: torch.device) -> int:
    """Give the most memory that one call takes beyond what was there before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def profile_step(step: Callable[[], None]) -> dict[str, float]:
    """Say where one call spends its time, as shares.

    Args:
        step: The call.

    Returns:
        Shares of the kernel, of changes of the memory format, of torch's autograd, and of everything else, which is
        the Python of the layer and torch's small operations.
    """
    step()
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(200):
        step()
    profiler.disable()
    shares = dict.fromkeys(("kernel", "memory format", "autograd", "Python"), 0.0)
    for (file, _, name), (_, _, own, _, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        if Path(file).name in ("cpu_kernel.py", "cpu_positional.py"):
            shares["kernel"] += own
        elif "'contiguous'" in name:
            shares["memory format"] += own
        elif "autograd" in file or "run_backward" in name or "apply" in name:
            shares["autograd"] += own
        else:
            shares["Python"] += own
    total = sum(shares.values())
    return {name: round(own / total, 2) for name, own in shares.items()}


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Name what the numbers belong to."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.is_file() else []
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = f"{models[0] if models else platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
