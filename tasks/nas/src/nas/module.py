"""One run of a search, of retraining, or of both, one after the other."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from nas import protocol
from nas.artefacts import Artefacts
from nas.bilevel import Hvp
from nas.building import SearchSettings, build_evaluation_network, build_search_network, build_searcher
from nas.data import NasData, SearchBatch
from nas.degeneracy import examine
from nas.genotype import Genotype, Provenance, load_genotype, random_genotype, resolve_genotype
from nas.manas import BanditSettings, LeastSquaresSettings
from nas.network import EvaluationNetwork, auxiliary_loss, auxiliary_resolution
from nas.outcome import CURVES, SHOWN_IN_SEARCH, nas_outcome
from nas.searchers import ManasSearch, Searcher
from nas.stepping import Stepping
from nas.supernet import SearchNetwork, genotype_path
from nas.validating import Meters, Validation
from norm_layers import frozen_statistics
from norm_layers.registry import resolve_norm
from shared.audit import audit_network
from shared.data.loaders import Batch
from shared.errors import UserError
from shared.per_image import PerImage
from shared.runs import Outcome, Scalar
from shared.task import TaskData, TaskModule


class NasModule(TaskModule):
    """Searches for search_epochs of the run's epochs, and retrains what was found for the rest.

    Args:
        norm: Norm layer: bn, in, ln, gn, pn, gbgn, bgn, none, or package.module:Class of your own.
        num_groups: G of the norms with groups; None: 32 for GN (less in proportion below C = 16) and GBGN; for BGN 256
            (darts, random) or 64 (manas).
        batch_size: Images per worker and step (set by data.batch_size).
        method: Search: darts (gradient), manas (bandits), manas_ls (bandits by least squares), or random (the best of
            random_candidates genotypes under shared weights). Without epochs of search, random draws one genotype.
        order: Of darts: first, or second (through one step of the weights).
        hvp: Hessian-vector product of the second order: finite_difference (the paper's) or exact.
        agents: Of manas: one for each edge of each cell (per_cell), or the same in all cells of a type (shared).
        reward: Of manas: centred (minus its running mean) or literal.
        temperature_start: Of manas: divisor of the summed rewards at the first step.
        temperature_end: The same after the last step.
        exploration: Of manas: share γ of the uniform distribution in what each agent draws from.
        reward_baseline: Of manas: the reward is this minus the loss, cut to [0, this].
        baseline_decay: Of manas and manas_ls: decay, a step, of the running mean that is taken from rewards or losses.
        samples: Networks in a fit of manas_ls; None: twice the fewest that determine all effects.
        refresh: Of manas_ls: steps between fits.
        random_candidates: Genotypes among which random chooses.
        search_epochs: How many of trainer.max_epochs search; the others retrain.
        search_channels: C of the search network.
        search_cells: Its cells.
        nodes: Nodes of a cell.
        search_learning_rate: Of its weights at the start; falls by a cosine.
        search_learning_rate_end: What it falls to.
        architecture_learning_rate: Of darts' alphas (Adam).
        statistics: With which a search is validated: batch, or running (which then follow the steps of the weights).
        genotype: What is retrained where nothing is searched: DARTS_V1, DARTS_V2, a file, or the folder of a run.
        channels: C of the network that is retrained.
        cells: Its cells.
        learning_rate: Of its weights at the start; falls to 0 by a cosine.
        drop_path: Probability of drop path towards the end of retraining, to which it rises linearly.
        auxiliary_weight: Of the auxiliary head's loss; 0: no head.
        weight_decay: Of the weights, in both.
        clip: Largest norm of the weights' gradient, in both.
        allow_degenerate: Whether to go on where the logits do not depend on the image, as with IN.
    """

    automatic_optimization = False
    network: SearchNetwork | EvaluationNetwork
    headline, further_axes = "test/top1", ("method",)
    compiles_any_size = False  # parts of one kind differ in channels, which must not be read as sizes
    compared = ("val/derived_top1", "search/entropy")
    curves = tuple(name for name in CURVES if name != "val/uniform_loss")  # which gradient methods do not log
    shown: list[str]

    def __init__(
        self,
        norm: str = "bgn",
        num_groups: int | None = None,
        batch_size: int = protocol.SEARCH_BATCH_SIZE,
        method: protocol.Method = "darts",
        order: protocol.Order = "first",
        hvp: Hvp = "finite_difference",
        agents: Literal["per_cell", "shared"] = "shared",
        reward: Literal["centred", "literal"] = "centred",
        temperature_start: float = BanditSettings.temperature_start,
        temperature_end: float = BanditSettings.temperature_end,
        exploration: float = BanditSettings.exploration,
        reward_baseline: float = BanditSettings.reward_baseline,
        baseline_decay: float = BanditSettings.baseline_decay,
        samples: int | None = None,
        refresh: int = LeastSquaresSettings.refresh,
        random_candidates: int = 16,
        search_epochs: int = protocol.SEARCH_EPOCHS,
        search_channels: int = protocol.SEARCH_CHANNELS,
        search_cells: int = protocol.SEARCH_CELLS,
        nodes: int = protocol.NUM_NODES,
        search_learning_rate: float = protocol.LEARNING_RATE,
        search_learning_rate_end: float = protocol.SEARCH_LEARNING_RATE_END,
        architecture_learning_rate: float = protocol.ARCHITECTURE_LEARNING_RATE,
        statistics: Literal["batch", "running"] = "batch",
        genotype: str | None = None,
        channels: int = protocol.CHANNELS,
        cells: int = protocol.CELLS,
        learning_rate: float = protocol.LEARNING_RATE,
        drop_path: float = protocol.DROP_PATH,
        auxiliary_weight: float = protocol.AUXILIARY_WEIGHT,
        weight_decay: float = protocol.WEIGHT_DECAY,
        clip: float = protocol.CLIP,
        allow_degenerate: bool = False,
    ) -> None:
        super().__init__()
        spec = resolve_norm(norm)
        if num_groups is not None and not spec.has_groups:
            raise ValueError(f"num_groups must be left out for norm {norm!r}, which has no groups; got {num_groups}.")
        self.settings = SearchSettings(
            method=method, order=order, hvp=hvp, agents=agents, reward=reward, temperature_start=temperature_start,
            temperature_end=temperature_end, exploration=exploration, reward_baseline=reward_baseline,
            baseline_decay=baseline_decay, samples=samples, refresh=refresh, random_candidates=random_candidates,
            epochs=search_epochs, channels=search_channels, cells=search_cells, nodes=nodes,
            learning_rate=search_learning_rate, learning_rate_end=search_learning_rate_end,
            architecture_learning_rate=architecture_learning_rate, statistics=statistics,
        )  # fmt: skip
        for name, value in {"channels": channels, "cells": cells}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        for name, rate in {"learning_rate": learning_rate, "clip": clip}.items():
            if rate <= 0:
                raise ValueError(f"{name} must be above 0; got {rate}.")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1); got {drop_path}.")
        for name, rate in {"auxiliary_weight": auxiliary_weight, "weight_decay": weight_decay}.items():
            if rate < 0:
                raise ValueError(f"{name} must be at least 0; got {rate}.")
        if genotype is not None and search_epochs > 0:
            raise ValueError(
                f"genotype must be left out where there is a search; got {genotype!r}. Give config=retrain, or "
                "args=--model.search_epochs=0."
            )
        self.shown = ["train/loss", "train/top1"]
        if search_epochs > 0:
            self.shown += SHOWN_IN_SEARCH
        self.norm, self.batch_size = norm, batch_size
        self.search_epochs, self.given_genotype = search_epochs, genotype
        self.channels, self.cells = channels, cells
        self.num_groups = self.default_groups() if num_groups is None else num_groups
        self.learning_rate, self.drop_path, self.auxiliary_weight = learning_rate, drop_path, auxiliary_weight
        self.weight_decay, self.clip, self.allow_degenerate = weight_decay, clip, allow_degenerate
        self.searcher: Searcher | None = None
        self.genotype: Genotype | None = None
        self.provenance: Provenance | None = None
        self.previous: Genotype | None = None
        self.meters = Meters()
        self.answers: Tensor | None = None
        """Whether each tested image was classified right."""
        self.degenerate: str | None = None
        """Why the network cannot learn, where it cannot and the run goes on all the same."""
        self.untaught: str | None = None
        """Why the search learns nothing, where it is too short for that."""
        self.artefacts = Artefacts(self)
        self.stepping = Stepping(self)

    # ------------------------------------------------------------------ building

    def build(self, data: TaskData) -> None:
        """Build the search network, or the network of the given genotype where nothing is searched."""
        assert isinstance(data, NasData)
        self.data = data
        data.search_epochs = self.search_epochs
        if self.search_epochs > 0:
            self.network = build_search_network(self.settings, norm=self.norm, num_groups=self.num_groups, data=data)
            return
        if self.given_genotype is not None:
            self.genotype, self.provenance = resolve_genotype(self.given_genotype)
        elif self.settings.method == "random":
            generator = torch.Generator().manual_seed(data.seed)
            self.genotype = random_genotype(self.settings.nodes, generator=generator, name=f"random seed {data.seed}")
        else:
            raise UserError(
                "genotype must be DARTS_V1, DARTS_V2, a genotype's file or the folder of a search's run, where "
                "nothing is searched; got nothing."
            )
        self.network = self._evaluation_network(self.genotype)

    def _evaluation_network(self, genotype: Genotype) -> EvaluationNetwork:
        return build_evaluation_network(
            genotype, channels=self.channels, cells=self.cells, auxiliary=self.auxiliary_weight > 0, norm=self.norm,
            num_groups=self.num_groups, data=self.data,
        )  # fmt: skip

    @property
    def has_auxiliary(self) -> bool:
        """Whether the network that is retrained has, or will have, an auxiliary head."""
        place = auxiliary_resolution(self.data.test.resolution, num_cells=self.cells)
        return self.auxiliary_weight > 0 and place is not None

    @property
    def is_searching(self) -> bool:
        """Whether the network is the search network."""
        return isinstance(self.network, SearchNetwork)

    def example_input(self, data: TaskData) -> Tensor:
        """Return two black images: the norms of a search average over the batch even in evaluation."""
        assert isinstance(data, NasData)
        return torch.zeros(2, 3, *data.test.resolution)

    def groups_in_force(self) -> int | None:
        """Return G; None for a norm without groups."""
        return self.num_groups

    def default_groups(self) -> int | None:
        """Return the paper's G for the norm and the search."""
        narrowest = min(self.settings.channels, self.channels) if self.search_epochs > 0 else self.channels
        return protocol.num_groups(self.norm, method=self.settings.method, channels=narrowest)

    def axes(self) -> dict[str, Scalar]:
        """Return the search."""
        return {"method": self.settings.method}

    def compiled_parts(self) -> nn.ModuleList:
        """Return the cells of the search network: far fewer operations to compile at a time than all of it."""
        return self.network.cells

    def prepare_trainer(self, trainer: pl.Trainer) -> None:
        """Check what the trainer asks for, and make the searcher, which needs to know its number of steps."""
        self.stepping.check(trainer)
        self.data.has_retraining = (trainer.max_epochs or 1) > self.search_epochs
        warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")  # no validation set
        trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]  # the two phases have different batches
        if self.search_epochs > 0:
            steps = self.stepping.steps_per_epoch(trainer) * self.search_epochs
            self.searcher = build_searcher(self.settings, num_steps=steps, seed=self.data.seed)
            if isinstance(self.searcher, ManasSearch):
                self.untaught = self.searcher.untaught(steps)
        if self.data.has_retraining and self.search_epochs > 0:  # what cannot be built later is told now
            probe = random_genotype(self.settings.nodes, generator=torch.Generator().manual_seed(0))
            with torch.random.fork_rng(devices=[]):
                network = self._evaluation_network(probe)
                audit_network(
                    network, self.example_input(self.data), batch_size=self.data.retrain_batch_size, norm=self.norm
                )

    def forward(self, images: Tensor, **how: Tensor) -> Any:
        """Return the logits of normalised images."""
        return self.network(images, **how)

    # ------------------------------------------------------------------ training

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the optimiser of the weights, in a DARTS search with that of the alphas."""
        return self.stepping.optimizers()

    def on_train_start(self) -> None:
        """Set the schedules of an epoch that is gone on with, for which Lightning calls no `on_train_epoch_start`."""
        self.stepping.set_schedules()

    def on_train_epoch_start(self) -> None:
        """Go over to retraining when the search is over; set the epoch's learning rate and drop path."""
        if self.is_searching and self.current_epoch >= self.search_epochs:
            self._begin_retraining()
        self.stepping.set_schedules()

    def _begin_retraining(self) -> None:
        self._take_evaluation_network()
        self.network.train()
        self.stepping.synchronise(self.network)
        self.trainer.strategy.optimizers = self.stepping.optimizers()

    def _take_evaluation_network(self) -> None:
        """Put the network of the genotype found in the place of the search's."""
        assert self.genotype is not None
        network = self._evaluation_network(self.genotype)
        self.tested_audit = audit_network(
            network, self.example_input(self.data), batch_size=self.data.retrain_batch_size, norm=self.norm
        )
        self.network = network.to(device=self.device, dtype=self.dtype)  # type: ignore[arg-type]
        self.searcher = None
        self.shown[:] = [name for name in self.shown if name not in SHOWN_IN_SEARCH]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Make a step of the search or of retraining."""
        if batch_idx == 0 and self.current_epoch in (0, self.search_epochs):
            examine(self, batch)
        loss, logits = self._search_step(batch) if self.is_searching else self._retrain_step(batch)
        self.meters.update("train_loss", loss.detach(), len(batch.labels))
        self.meters.update("train_top1", (logits.detach().argmax(1) == batch.labels).float())
        self.log("train/loss_step", loss.detach())
        self.log("train/learning_rate", self.stepping.learning_rate)
        return loss.detach()

    def _search_step(self, batch: SearchBatch) -> tuple[Tensor, Tensor]:
        assert self.searcher is not None
        tools = self.stepping.tools()
        how = self.searcher.before_weights(tools, batch)
        logits = self(batch.images, **how)
        loss = F.cross_entropy(logits, batch.labels)
        self.stepping.step_weights(loss)
        self.searcher.after_weights(tools, batch, how)
        return loss, logits

    def _retrain_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits, auxiliary = self(batch.images)
        self.stepping.step_weights(auxiliary_loss(logits, auxiliary, batch.labels, weight=self.auxiliary_weight))
        return F.cross_entropy(logits.detach(), batch.labels), logits

    def optimizer(self, index: int = 0) -> LightningOptimizer:
        """Return the optimiser of the weights, or (1) that of the alphas."""
        found = self.optimizers()
        return found[index] if isinstance(found, list) else found

    def on_train_epoch_end(self) -> None:
        """Log the epoch; in a search, keep what it prefers, and at its end the genotype."""
        self.meters.log(self, {"train/loss": "train_loss", "train/top1": "train_top1"})
        self.stepping.synchronise(self.network, buffers_only=True)
        if self.searcher is None or not self.is_searching:
            return
        found = self.searcher.genotype(f"{self.settings.method} {self.norm} seed {self.data.seed}")
        self.log_dict(self.artefacts.watch(self.searcher, found, self.previous))
        self.previous = found
        if self.current_epoch + 1 == self.search_epochs:
            self.genotype = found
            self.provenance = self.artefacts.provenance()
            self.artefacts.keep_genotype(found, self.provenance)

    # ------------------------------------------------------------------ validation and test

    def on_validation_epoch_start(self) -> None:
        """Begin a validation of the search."""
        assert self.searcher is not None
        self.validation = Validation(self, self.searcher)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Classify images of the architecture's half."""
        self.validation.step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the validation's numbers."""
        self.validation.end()

    def on_test_epoch_start(self) -> None:
        """Make room for the answers."""
        self._answers = PerImage(len(self.data.tested_images))

    def test_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Classify test images by the retrained network, or the architecture's half by the genotype found."""
        if self.is_searching:
            assert self.genotype is not None
            path = genotype_path(self.genotype, num_cells=self.settings.cells)
            with frozen_statistics(self.network, mode="train"):
                logits = self(batch.images, paths=path)
        else:
            logits = self(batch.images)
        self._answers.add((logits.argmax(1) == batch.labels).float()[:, None], batch)

    def on_test_epoch_end(self) -> None:
        """Log the accuracy over all images."""
        self.answers = self._answers.gather(self.trainer)[:, 0].cpu()
        name = "search/derived_top1" if self.is_searching else "test/top1"
        self.log(name, 100 * self.answers.double().mean().float())

    # ------------------------------------------------------------------ record and resume

    def outcome(self, data: TaskData, history: list[dict[str, float]], tested: dict[str, float]) -> Outcome:
        """Return the accuracy of the retrained network, or of the genotype found under the search's weights."""
        assert isinstance(data, NasData)
        return nas_outcome(self, data, history, is_tested=bool(tested))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the phase and the genotypes besides what every task writes."""
        super().on_save_checkpoint(checkpoint)
        texts = {"genotype": self.genotype, "previous": self.previous}
        checkpoint["nas"] = {
            "is_searching": self.is_searching,
            "degenerate": self.degenerate,
            **{name: None if found is None else self.artefacts.text(found) for name, found in texts.items()},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go to the checkpoint's phase before its weights are loaded."""
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["nas"]
        self.degenerate = state["degenerate"]
        if state["genotype"] is not None:
            self.genotype, self.provenance = load_genotype(state["genotype"])
        if state["previous"] is not None:
            self.previous, _ = load_genotype(state["previous"])
        if self.is_searching and not state["is_searching"]:
            self._take_evaluation_network()
