"""How well a search does: its network, the genotype that it would give now, and untaught paths beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.searchers import Searcher
from norm_layers import frozen_statistics
from shared.data.loaders import Batch
from shared.metrics import WeightedMean

if TYPE_CHECKING:
    from nas.module import NasModule

METERS = ("train_loss", "train_top1", "val_loss", "val_top1", "uniform_loss")


class Meters(nn.Module):
    """Means over an epoch, part of the checkpoint. Those named …top1 are shares, logged in percent."""

    def __init__(self) -> None:
        super().__init__()
        self.meters = nn.ModuleDict({name: WeightedMean() for name in METERS})

    def update(self, name: str, values: Tensor, weights: Tensor | float = 1.0) -> None:
        """Add values to a mean.

        Args:
            name: One of `METERS`.
            values: Shape (N,), or a scalar.
            weights: One for each value, or one for all.
        """
        self._meter(name).update(values, weights)

    def log(self, module: NasModule, names: Mapping[str, str]) -> None:
        """Log means over all processes, and begin them anew.

        Args:
            module: The module that logs.
            names: Mean by the name under which it is logged.
        """
        for name, meter in names.items():
            mean = self._meter(meter)
            scale = 100 if meter.endswith("top1") else 1
            module.log(name, scale * mean.compute(), prog_bar=name == "val/top1", sync_dist=True)
            mean.reset()

    def _meter(self, name: str) -> WeightedMean:
        meter = self.meters[name]
        assert isinstance(meter, WeightedMean)
        return meter


class Validation:
    """One validation of a search on images of the architecture's half.

    Args:
        module: The module.
        searcher: Its search.
    """

    def __init__(self, module: NasModule, searcher: Searcher) -> None:
        self.module, self.searcher = module, searcher
        self.is_last = module.current_epoch + 1 == module.search_epochs
        candidates = searcher.candidates()
        self.candidates = candidates if self.is_last else candidates[:1]
        self.right = torch.zeros(len(self.candidates), device=module.device, dtype=torch.float64)

    def step(self, batch: Batch, number: int) -> None:
        """Classify a batch by what the search prefers, by each candidate's path, and by an untaught path.

        Args:
            batch: The images.
            number: Of the batch.
        """
        network, searcher = self.module.network, self.searcher
        preferred = searcher.preferred()
        if "mixing" in preferred:
            self._count(network(batch.images, **preferred), batch)
        with frozen_statistics(network, mode="train"):  # running statistics are of no one path
            if "paths" in preferred:
                self._count(network(batch.images, **preferred), batch)
            for index, path in enumerate(self.candidates):
                logits = network(batch.images, paths=path)
                self.right[index] += ((logits.argmax(1) == batch.labels) & batch.valid).sum()
            baseline = searcher.baseline_path(number)
            if baseline is not None:
                losses = F.cross_entropy(network(batch.images, paths=baseline), batch.labels, reduction="none")
                self.module.meters.update("uniform_loss", losses, batch.valid)

    def _count(self, logits: Tensor, batch: Batch) -> None:
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        self.module.meters.update("val_loss", losses, batch.valid)
        self.module.meters.update("val_top1", (logits.argmax(1) == batch.labels).float(), batch.valid)

    def end(self) -> None:
        """Log the numbers, and let the search rate its candidates."""
        module = self.module
        names = {"val/loss": "val_loss", "val/top1": "val_top1"}
        if self.searcher.baseline_path(0) is not None:
            names["val/uniform_loss"] = "uniform_loss"
        module.meters.log(module, names)
        (right,) = module.stepping.summed([self.right])
        shares = right / len(module.data.validated_images)
        if self.is_last:
            self.searcher.rate(shares.tolist())
        module.log("val/derived_top1", 100 * shares.max().float())
