"""How weights and alphas are stepped by hand: optimisers, schedules, clipping, and gradients over processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from nas import protocol
from nas.bilevel import InnerStep
from nas.searchers import DartsSearch, Tools
from norm_layers import frozen_statistics
from shared import callbacks
from shared.errors import UserError

if TYPE_CHECKING:
    from nas.module import NasModule


class Stepping:
    """The steps of a module's phases. Lightning's count of steps is that of the weights' steps.

    Args:
        module: The module.
    """

    def __init__(self, module: NasModule) -> None:
        self.module = module

    def check(self, trainer: pl.Trainer) -> None:
        """Refuse trainer settings that steps by hand do not follow, and batches that the images do not fill.

        Raises:
            UserError: If there is one.
        """
        module, num_epochs = self.module, trainer.max_epochs or 1
        data, settings = module.data, module.settings
        if module.search_epochs > num_epochs:
            raise UserError(
                f"search_epochs must be at most trainer.max_epochs = {num_epochs}; got {module.search_epochs}."
            )
        per_cell = settings.method.startswith("manas") and settings.agents == "per_cell"
        if per_cell and num_epochs > module.search_epochs > 0 and module.cells != settings.cells:
            raise UserError(
                f"cells must be search_cells = {settings.cells} where each cell has its own agents; got "
                f"{module.cells}. Take agents=shared, or as many cells."
            )
        if module.compiles and (module.search_epochs == 0 or settings.method != "darts"):
            raise UserError(
                "compile must be false where there is no search by darts: a path differs at every step, and drop path "
                "at every epoch; got true."
            )
        if module.compiles and (settings.order, settings.hvp) == ("second", "exact"):
            raise UserError("compile must be false with hvp=exact, which differentiates twice; got true.")
        if trainer.precision in ("16-mixed", "16-true", "bf16-true"):
            raise UserError(
                f"trainer.precision must be 32-true, 64-true or bf16-mixed, for the architecture's gradients; got "
                f"{trainer.precision}."
            )
        if trainer.gradient_clip_val is not None:
            raise UserError(f"trainer.gradient_clip_val must be left out: give model.clip (now {module.clip:g}).")
        if trainer.accumulate_grad_batches != 1:
            raise UserError("trainer.accumulate_grad_batches must be left out: a step is made at every batch.")
        every = trainer.check_val_every_n_epoch or 1
        if settings.method == "random" and module.search_epochs % every:
            raise UserError(
                f"search_epochs must be a multiple of trainer.check_val_every_n_epoch = {every}, since random chooses "
                f"in the last validation; got {module.search_epochs}."
            )
        ranks = trainer.world_size
        if module.search_epochs > 0 and data.batch_size * ranks > len(data.weight_images):
            raise UserError(
                f"batch_size × processes must be at most half of the {len(data.train):,} training images, "
                f"{len(data.weight_images):,}, in a search; got {data.batch_size} × {ranks}."
            )
        if data.retrain_batch_size * ranks > len(data.train):
            raise UserError(
                f"batch_size × processes must be at most the {len(data.train):,} training images in retraining; got "
                f"{data.retrain_batch_size} × {ranks}."
            )

    def steps_per_epoch(self, trainer: pl.Trainer) -> int:
        """Return the steps in an epoch of search."""
        data = self.module.data
        images, batch = len(data.weight_images), data.batch_size * trainer.world_size
        whole, rest = divmod(images, batch)
        return callbacks.steps_per_epoch(trainer, whole + int(rest > 1 and trainer.world_size == 1))

    # ------------------------------------------------------------------ optimisers and schedules

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the optimiser of the weights, and in a DARTS search that of the alphas."""
        module = self.module
        start = module.settings.learning_rate if module.is_searching else module.learning_rate
        found: list[torch.optim.Optimizer] = [
            torch.optim.SGD(
                module.network.parameters(), lr=start, momentum=protocol.MOMENTUM, weight_decay=module.weight_decay
            )
        ]
        if module.is_searching and isinstance(module.searcher, DartsSearch):
            found.append(
                torch.optim.Adam(
                    [module.searcher.alphas], lr=module.settings.architecture_learning_rate,
                    betas=protocol.ARCHITECTURE_BETAS, weight_decay=protocol.ARCHITECTURE_WEIGHT_DECAY,
                )
            )  # fmt: skip
        return found

    def set_schedules(self) -> None:
        """Set learning rate and drop path of the present epoch."""
        module = self.module
        epoch = module.current_epoch
        if module.is_searching:
            settings = module.settings
            rate = protocol.cosine(
                epoch, num_epochs=settings.epochs, start=settings.learning_rate, end=settings.learning_rate_end
            )
        else:
            epoch -= module.search_epochs
            num_epochs = (module.trainer.max_epochs or 1) - module.search_epochs
            rate = protocol.cosine(epoch, num_epochs=num_epochs, start=module.learning_rate)
            module.network.drop_path_probability = protocol.drop_path_probability(
                epoch, num_epochs=num_epochs, largest=module.drop_path
            )
        for group in module.optimizer().param_groups:
            group["lr"] = rate

    @property
    def learning_rate(self) -> float:
        """Learning rate of the weights, as in force."""
        return float(self.module.optimizer().param_groups[0]["lr"])

    # ------------------------------------------------------------------ steps

    def step_weights(self, loss: Tensor) -> None:
        """Make a step of the weights that the loss hangs on; the others keep even their momentum.

        Args:
            loss: Mean over this process's images.
        """
        module = self.module
        weights = list(module.network.parameters())
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        used = [(weight, gradient) for weight, gradient in zip(weights, gradients) if gradient is not None]
        reduced = self.mean([gradient for _, gradient in used])
        for weight in weights:
            weight.grad = None
        for (weight, _), gradient in zip(used, reduced):
            weight.grad = gradient
        nn.utils.clip_grad_norm_(weights, module.clip)
        module.optimizer().step()

    def tools(self) -> Tools:
        """Return what a search may do."""
        module = self.module
        weights = list(module.network.parameters())
        optimizer = module.optimizer().optimizer
        return Tools(
            loss=self._loss, weights=weights,
            momenta=[optimizer.state.get(weight, {}).get("momentum_buffer") for weight in weights],
            inner=InnerStep(
                learning_rate=self.learning_rate, momentum=protocol.MOMENTUM, weight_decay=module.weight_decay
            ),
            held=self.held, reduce=self.mean, step_architecture=self._step_architecture, log=module.log_dict,
        )  # fmt: skip

    def _loss(self, images: Tensor, labels: Tensor, **how: Tensor) -> Tensor:
        return F.cross_entropy(self.module.network(images, **how), labels)

    def held(self) -> AbstractContextManager[Any]:
        """Return a context in which the batch's statistics normalise, and running ones stay what they are."""
        module = self.module
        if module.settings.statistics == "batch":  # the norms of the search keep none
            return nullcontext()
        return frozen_statistics(module.network, mode="train")

    def _step_architecture(self, gradients: Sequence[Tensor]) -> None:
        module = self.module
        assert isinstance(module.searcher, DartsSearch)
        (gradient,) = gradients
        module.searcher.alphas.grad = gradient
        module.optimizer(1).optimizer.step()  # not counted by Lightning
        module.searcher.alphas.grad = None

    # ------------------------------------------------------------------ processes

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the means over all processes, in one message."""
        return _over_processes(tensors, lambda flat: flat.div_(dist.get_world_size()))

    def summed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums over all processes."""
        return _over_processes(tensors, lambda flat: flat)

    def synchronise(self, network: nn.Module, *, buffers_only: bool = False) -> None:
        """Give all processes rank 0's running statistics, and its weights where they were just made.

        Args:
            network: The network.
            buffers_only: Whether to leave the weights.
        """
        if not _is_distributed():
            return
        tensors = [*network.buffers(), *([] if buffers_only else network.parameters())]
        for tensor in tensors:
            dist.broadcast(tensor.data, src=0)


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _over_processes(tensors: Sequence[Tensor], finish: Callable[[Tensor], Tensor]) -> list[Tensor]:
    if not _is_distributed() or not tensors:
        return list(tensors)
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat = finish(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors)]
