"""UDA: the contrastive domain discrepancy beside nested loops, and what of a loop is clustering and matching.

    python -m benchmarks.uda

The discrepancy at the size of Office-31: 10 of 31 classes, 3 + 3 images each, 2048 features and the probabilities.
Values and gradients of both must agree before anything is timed. A loop's time is that of the default config from one
clustering to the next, validation included.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from benchmarks.beside import compare, now, prepared_run
from benchmarks.plain_cdd import plain_cdd
from benchmarks.rows import Row, main, timed_row
from uda import module as uda_module
from uda.cdd import cdd

IMAGES_PER_CLASS = 3
TARGET_SHARE = 20.0


def discrepancies(*, classes: int, num_classes: int, width: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return forward and backward of both sides on the same features; each returns the value and the gradients."""
    generator = torch.Generator().manual_seed(0)
    rows = classes * IMAGES_PER_CLASS
    labels = torch.arange(classes).repeat_interleave(IMAGES_PER_CLASS)

    def layers(shift: float) -> list[Tensor]:
        features = torch.randn(rows, width, generator=generator).add(shift).relu()
        logits = torch.randn(rows, num_classes, generator=generator)
        return [features.requires_grad_(), logits.softmax(1).requires_grad_()]

    source, target = layers(0.0), layers(0.3)

    def ours() -> Any:
        terms = cdd(source, target, source_labels=labels, target_labels=labels, num_classes=num_classes)
        return terms.value, *torch.autograd.grad(terms.value, [*source, *target])

    def theirs() -> Any:
        value = plain_cdd(source, target, sizes=[IMAGES_PER_CLASS] * classes, num_classes=num_classes)
        return value, *torch.autograd.grad(value, [*source, *target])

    for found, expected in zip(ours(), theirs()):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    return ours, theirs


class LoopClock(pl.Callback):
    """Times the loops of a fit, and what of them is clustering."""

    def __init__(self) -> None:
        self.loops: list[float] = []
        self._start: float | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """End a loop where another begins: validation, clustering and batches lie between two of these."""
        if pl_module.loop_state is None:
            return
        if self._start is not None:
            self.loops.append(now() - self._start)
        self._start = now()


def loop_rows(*, tiny: bool) -> list[Row]:
    """Measure a loop's parts in the default config."""
    spent: dict[str, list[float]] = {"start_loop": [], "domain_features": []}

    def timed(name: str) -> Callable[..., Any]:
        function = getattr(uda_module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            start = now()
            found = function(*args, **kwargs)
            spent[name].append(now() - start)
            return found

        return call

    clock = LoopClock()
    originals = {name: getattr(uda_module, name) for name in spent}
    epochs = () if tiny else ("--model.warmup_epochs=1", "--trainer.max_epochs=5")
    with tempfile.TemporaryDirectory() as name:
        config = "smoke" if tiny else "default"
        run = prepared_run("uda", "--model.norm=bn", *epochs, config=config, folder=Path(name))
        run.trainer.callbacks.append(clock)  # type: ignore[attr-defined]
        for function in spent:
            setattr(uda_module, function, timed(function))
        try:
            run.trainer.fit(run.module, datamodule=run.data)
        finally:
            for function, original in originals.items():
                setattr(uda_module, function, original)
    loop = statistics.median(clock.loops)
    cluster, features = statistics.median(spent["start_loop"]), 2 * statistics.median(spent["domain_features"])
    data: Any = run.data
    sizes = f"{config} config, {len(data.source)} + {len(data.target)} images, a loop of {loop:.2f} s"
    parts = f"features of both domains {features / loop:.1%}, k-means, matching and filter {cluster / loop:.2%}"
    matching = "k-means, matching and filter"
    return [
        Row(
            task="uda", what=f"{matching}, share of a loop ({sizes})", ours=round(100 * cluster / loop, 3), unit="%",
            at_most=TARGET_SHARE, why=parts,
        ),
        Row(
            task="uda", what=f"{matching} with the forward passes for their features, share of a loop ({sizes})",
            ours=round(100 * (cluster + features) / loop, 2), unit="%", at_most=TARGET_SHARE, why=parts,
        ),
    ]  # fmt: skip


def measure(*, pairs: int = 9, tiny: bool = False) -> list[Row]:
    """Measure the discrepancy and the loop."""
    sizes = (
        {"classes": 3, "num_classes": 5, "width": 16} if tiny else {"classes": 10, "num_classes": 31, "width": 2048}
    )
    ours, theirs = discrepancies(**sizes)
    what = "CDD, forward and backward, {classes} of {num_classes} classes × (3 + 3), {width} features".format(**sizes)
    turns = compare(ours, theirs, pairs=pairs, wanted=5)
    reference = "nested loops, written plainly (official code of CAN, 39acc51)"
    row = timed_row(turns, task="uda", what=what, reference=reference, at_least=5, note="same value and gradients")
    return [row, *loop_rows(tiny=tiny)]


if __name__ == "__main__":
    raise SystemExit(main(["benchmarks.uda"], name="uda"))
