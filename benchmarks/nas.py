"""NAS: a step of a DARTS search, first and second order, beside the official algorithm written plainly.

    python -m benchmarks.nas

Before anything is timed, both make two steps from the same weights on the same batches in float64, and must arrive at
the same alphas and the same weights after each. Ours is timed under Lightning, with its loader, augmentation and
logging; the other gets the ready batches, and is spared the loader that the official code starts anew at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.beside import Beside, fit_beside
from benchmarks.plain_darts import PlainSearch, PlainSearchNetwork
from benchmarks.rows import Row, main, timed_row

REFERENCE = "the official algorithm, written plainly (quark0/darts, f276dd3)"
SETTINGS = {
    "default config": (),
    "8 channels, 4 cells, 4 nodes, batch 16": (
        "--model.search_channels=8", "--model.search_cells=4", "--model.nodes=4", "--data.batch_size=16",
    ),
}  # fmt: skip
CHECKED_STEPS = 2  # the first has no momentum yet


def plain_search(module: Any) -> PlainSearch:
    """Return the reference with a module's weights, alphas, momenta and rates."""
    settings = module.settings
    network = PlainSearchNetwork(
        channels=settings.channels, num_cells=settings.cells, num_nodes=settings.nodes,
        num_classes=module.data.num_classes,
    ).to(module.dtype)  # fmt: skip
    search = PlainSearch(
        network,
        second_order=settings.order == "second",
        learning_rate=module.stepping.learning_rate,
        architecture_learning_rate=settings.architecture_learning_rate,
    )
    copy_state(module, search)
    return search


@torch.no_grad()
def copy_state(module: Any, search: PlainSearch) -> None:
    """Give the reference a module's weights and alphas."""
    ours, theirs = list(module.network.parameters()), list(search.network.parameters())
    assert [w.shape for w in ours] == [w.shape for w in theirs], "the networks differ"
    for theirs_weight, weight in zip(theirs, ours):
        theirs_weight.copy_(weight)
    for number, alpha in enumerate(search.network.alphas):
        alpha.data = module.searcher.alphas[number].detach().clone()


def step_on(search: PlainSearch) -> Callable[[Any], None]:
    """Return the reference's step on one of our batches."""
    return lambda batch: search.step(batch.images, batch.labels, batch.alpha_images, batch.alpha_labels)


class SameStep(Beside):
    """Holds the reference's steps against ours: same batch, same start, same end."""

    def __init__(self, steps: int) -> None:
        super().__init__(lambda _: lambda _: None, steps=1, pairs=1)
        self.num_checked, self.wanted_checks = 0, steps

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        self.search = plain_search(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        step_on(self.search)(batch)
        alphas = torch.stack([alpha.detach() for alpha in self.search.network.alphas])
        self._check(pl_module.searcher.alphas, alphas)
        for ours, theirs in zip(pl_module.network.parameters(), self.search.network.parameters()):
            self._check(ours, theirs)
        self.num_checked += 1
        trainer.should_stop = self.num_checked >= self.wanted_checks

    @staticmethod
    def _check(ours: Tensor, theirs: Tensor) -> None:
        torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-8, atol=1e-10)


def check_same_step(*flags: str, order: str, steps: int = 1, config: str = "default") -> None:
    """Check in float64 that both give the same alphas and weights.

    Args:
        flags: Sizes.
        order: first or second.
        steps: How many steps one after the other; the first has no momentum yet.
        config: Name of the config.

    Raises:
        AssertionError: If they do not.
    """
    beside = SameStep(steps)
    more = (f"--model.order={order}", "--model.norm=bn", "--trainer.precision=64-true", "--model.search_epochs=1000")
    fit_beside("nas", *more, *flags, config=config, beside=beside)
    assert beside.num_checked == steps


def measure(*, pairs: int = 9, tiny: bool = False) -> list[Row]:
    """Measure both orders, after the check of one step."""
    rows = []
    config = "smoke" if tiny else "default"
    settings = {"smoke config": ()} if tiny else SETTINGS
    for sizes, flags in settings.items():
        for order in ("first", "second"):
            check_same_step(*flags, order=order, steps=CHECKED_STEPS, config=config)
            beside = Beside(lambda module: step_on(plain_search(module)), steps=1, pairs=pairs, wanted=1.5)
            more = (f"--model.order={order}", "--model.norm=bn", "--model.search_epochs=1000", *flags)
            turns, run = fit_beside("nas", *more, config=config, beside=beside)
            data: Any = run.data
            side = data.test.resolution[0]
            rows.append(
                timed_row(
                    turns,
                    task="nas",
                    what=f"DARTS search step, {order} order, BN, {sizes}, {side} px",
                    reference=REFERENCE,
                    at_least=1.5,
                    note="same alphas and weights after each of two steps in float64",
                )
            )
    return rows


if __name__ == "__main__":
    raise SystemExit(main(["benchmarks.nas"], name="nas"))
