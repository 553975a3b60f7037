"""record.json: everything that the report and a reader need to know of one finished run."""

from __future__ import annotations

import math
import platform
import re
import resource
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torchvision

from shared.runs import SCHEMA, Outcome, Run, Scalar, finite_metrics, utc_now
from shared.source import both, norm_source, source_diff, source_version


def device_name(device: torch.device) -> str:
    """Return the device's kind and model: "cpu (Intel …, 2 threads)" or "cuda (NVIDIA H200)"."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.partition(":")[2].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{device.type} ({model}, {torch.get_num_threads()} threads)"


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory that tensors took on the GPU, or that the process took on a CPU, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return 1024 * int(found[1])  # getrusage counts on from the process that started this one
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def versions() -> dict[str, str]:
    """Return the versions that numbers may depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pytorch_lightning": pl.__version__,
    }


def build_record(
    run: Run,
    *,
    outcome: Outcome,
    status: str,
    norm: str,
    num_groups: int | None,
    default_num_groups: int | None,
    batch_size: int,
    seed: int,
    axes: dict[str, Scalar],
    dataset: dict[str, Any],
    norm_audit: dict[str, Any],
    trainer_protocol: dict[str, Scalar],
    device: torch.device,
    wall_time_seconds: float,
    images_per_second: float | None,
    peak_memory: int,
    wandb: dict[str, Any],
) -> dict[str, Any]:
    """Return the record of a finished run as a JSON object, schema 1.

    Args:
        run: The run.
        outcome: What the task says of it.
        status: "done", "diverged" or "degenerate".
        norm: The norm as given.
        num_groups: The G in force; None for a norm without groups.
        default_num_groups: The task's G for this norm when none is given; None for a norm without groups.
        batch_size: Images per worker and step.
        seed: The seed.
        axes: Further settings that a table may vary.
        dataset: What the data module says of the data.
        norm_audit: Every norm layer's shape and groups.
        trainer_protocol: Trainer settings that change results and are not Lightning's defaults.
        device: Where the network ran.
        wall_time_seconds: Seconds from start to end, over all resumes.
        images_per_second: Training images a second; None if no epoch went through.
        peak_memory: Most memory taken while training, in bytes; 0 if no epoch went through.
        wandb: mode, id and url of the W&B run.
    """
    commit, dirty = source_version()  # cached when the run began, or was resumed
    commits = commit if commit == run.commit else f"{run.commit}, {commit}"
    curves = {name: [[e, v] for e, v in points if math.isfinite(v)] for name, points in outcome.curves.items()}
    return {
        "schema": SCHEMA,
        "run": run.name,
        "status": status,
        "task": run.task,
        "config": run.config,
        "norm": norm,
        "num_groups": num_groups,
        "default_num_groups": default_num_groups,
        "batch_size": batch_size,
        "seed": seed,
        "axes": axes,
        "model": outcome.model,
        "dataset": dataset,
        "headline": outcome.headline,
        "metrics": finite_metrics(outcome.metrics),
        "selection": outcome.selection,
        "protocol": outcome.protocol | trainer_protocol,
        "curves": curves,
        "items": {name: asdict(items) for name, items in outcome.items.items()},
        "profiles": {name: asdict(profile) for name, profile in outcome.profiles.items()},
        "warnings": outcome.warnings,
        "paper": [asdict(cell) for cell in outcome.paper],
        "readings": outcome.readings,
        "norm_audit": norm_audit,
        "commit": commits,
        "dirty": dirty or run.dirty,
        "source_diff": both(run.source_diff, source_diff()),
        "norm_source": both(run.norm_source, norm_source(norm)) if run.norm_source else norm_source(norm),
        "config_source": run.config_source,
        "versions": versions(),
        "device": device_name(device),
        "wall_time_seconds": round(wall_time_seconds, 1),
        "images_per_second": None if images_per_second is None else round(images_per_second, 1),
        "peak_memory_bytes": peak_memory or None,
        "wandb": wandb,
        "command": run.command,
        "finished": utc_now(),
    }
