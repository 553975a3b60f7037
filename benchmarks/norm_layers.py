"""Norm layers beside nn.BatchNorm2d: time of a training step and of evaluation, saved activations, peak memory.

    make bench                                     # minutes on one CPU thread
    make bench args="--batches=2,32,128 --nets=all --layouts=contiguous,channels_last"

Every layer of every net is measured in turns with nn.BatchNorm2d on the same input; a figure is the median of the
ratios of the turns. Layers without batch statistics are also set against what torch's own operations take.
"""

import argparse
import datetime
import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import (
    compare,
    describe_machine,
    evaluation,
    peak_bytes,
    profile_step,
    saved_bytes,
    training_step,
)
from benchmarks.shapes import NETS
from benchmarks.tables import markdown
from norm_layers import make_norm
from norm_layers.plain import plain_batch_group_norm, plain_flat_group_norm, plain_positional_norm
from norm_layers.pn import PositionalNorm
from shared.source import source_version

RESULTS = Path(__file__).with_name("results")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
NORMS = ("bgn", "gbgn", "gn", "ln", "pn")


class Plain(nn.Module):
    """A layer of this package computed with torch's own operations."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        norm: Any = self.norm
        if hasattr(norm, "statistics"):
            owner = norm.statistics
            return plain_batch_group_norm(
                x,
                owner.running_mean,
                owner.running_var,
                norm.weight,
                norm.bias,
                num_groups=norm.num_groups,
                training=owner.training,
                eps=norm.eps,
            )
        if getattr(norm, "is_flat", False):
            return plain_flat_group_norm(x, norm.weight, norm.bias, num_groups=norm.num_groups, eps=norm.eps)
        if isinstance(norm, PositionalNorm):
            return plain_positional_norm(x, norm.weight, norm.bias, eps=norm.eps)
        return norm(x)


@dataclass(frozen=True)
class Case:
    """One layer on one input."""

    net: str
    batch_size: int
    shape: tuple[int, int, int]
    norm: str
    num_groups: int | None
    layout: str

    def build(self) -> nn.Module:
        return make_norm(self.norm, self.shape[0], num_groups=self.num_groups)


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Give every case asked for, each shape once."""
    seen = set()
    for layout in arguments.layouts:
        for name in arguments.nets:
            for batch_size in arguments.batches:
                for shape in NETS[name].shapes:
                    for norm in arguments.norms:
                        groups = {"bgn": NETS[name].bgn_groups(batch_size), "gbgn": 32, "gn": NETS[name].gn_groups()}
                        case = Case(name, batch_size, shape, norm, groups.get(norm), layout)
                        fits = math.prod(shape) >= (case.num_groups or 1) and (layout == "contiguous" or shape[1] > 1)
                        key = (batch_size, shape, norm, case.num_groups, layout)
                        if fits and key not in seen:
                            seen.add(key)
                            yield case


def measure_case(case: Case, *, dtype: torch.dtype, device: torch.device, seconds: float) -> dict[str, Any]:
    """Measure one case; all of its numbers but the profile, which only a slow one gets."""
    form = LAYOUTS[case.layout]
    x, gradient = (
        torch.randn(case.batch_size, *case.shape, device=device, dtype=dtype).contiguous(memory_format=form)
        for _ in range(2)
    )
    x.requires_grad_()
    reference, ours = nn.BatchNorm2d(case.shape[0]).to(device), case.build().to(device)
    layers = {"batch_norm": reference, "ours": ours, "plain": Plain(case.build().to(device))}
    steps = {name: training_step(layer, x, gradient) for name, layer in layers.items()}
    training = compare(steps, seconds=seconds, device=device)
    memory = {name: (saved_bytes(layers[name], x), peak_bytes(steps[name], device=device)) for name in layers}
    runs = {name: evaluation(layer, x.detach()) for name, layer in layers.items()}
    row: dict[str, Any] = {
        **{key: value for key, value in vars(case).items() if key != "shape"},
        "shape": list(case.shape),
        "training": training,
        "evaluation": compare(runs, seconds=seconds / 3, device=device),
        "saved": {name: saved for name, (saved, _) in memory.items()},
        "peak": {name: peak for name, (_, peak) in memory.items()},
    }
    if device.type == "cpu" and training["ours"]["ratio"] > 1:
        ours.train()
        row["profile"] = profile_step(steps["ours"])
    return row


def commit() -> str:
    """Name the commit that is measured, and whether files differ from it."""
    name, dirty = source_version()
    return name + "-dirty" * dirty


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""

    def several(choices: list[str]) -> Any:
        def parse(text: str) -> list[str]:
            names = choices if text == "all" else text.split(",")
            for name in names:
                if name not in choices:
                    raise argparse.ArgumentTypeError(f"must be of {', '.join(choices)}; got {name!r}")
            return names

        return parse

    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--nets", type=several(list(NETS)), default=list(NETS), help="names, or all")
    parser.add_argument("--norms", type=several(list(NORMS)), default=list(NORMS), help="names, or all")
    parser.add_argument("--batches", type=lambda text: [int(size) for size in text.split(",")], default=[2, 32])
    parser.add_argument("--layouts", type=several(list(LAYOUTS)), default=["contiguous"], help="names, or all")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seconds", type=float, default=0.1, help="time for each layer of a case")
    parser.add_argument("--max_mib", type=int, default=128, help="largest input; larger ones are listed as left out")
    parser.add_argument("--name", default="", help="name of the result files; norm_layers_<device>_<dtype> if empty")
    return parser.parse_args(words)


def main() -> None:
    """Measure, and write the JSON file and the table."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    dtype, device = DTYPES[arguments.dtype], arguments.device
    rows, left_out = [], []
    for case in cases(arguments):
        mib = case.batch_size * math.prod(case.shape) * dtype.itemsize / 2**20
        if mib > arguments.max_mib:
            left_out.append(f"{case.batch_size} x {case.shape}, {mib:.0f} MiB")
            continue
        rows.append(measure_case(case, dtype=dtype, device=device, seconds=arguments.seconds))
        ratio = rows[-1]["training"]["ours"]["ratio"]
        print(f"{case.norm:5} {case.batch_size:4} {case.shape!s:16} G={case.num_groups!s:5} {ratio:.2f}", flush=True)
    record = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        **describe_machine(device),
        "dtype": arguments.dtype,
        "left_out": sorted(set(left_out)),
        "rows": rows,
    }
    name = arguments.name or f"norm_layers_{device.type}_{arguments.dtype}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(markdown(record))
    ratios = [row["training"]["ours"]["ratio"] for row in rows]
    print(f"{len(rows)} cases, median ratio {statistics.median(ratios):.2f}; {RESULTS.name}/{name}.md")


if __name__ == "__main__":
    main()
