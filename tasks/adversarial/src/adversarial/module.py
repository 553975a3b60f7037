"""Adversarial training: each step attacks the network as it is, and trains it on what came out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from adversarial import protocol
from adversarial.attacks import MODES, Pgd, craft, is_right, pgd_survivors
from adversarial.data import AdversarialData
from adversarial.evaluation import Evaluation, check_evaluation
from adversarial.outcome import CURVES, adversarial_outcome
from adversarial.wideresnet import WideResNet
from norm_layers import norm_factory
from norm_layers.registry import resolve_norm
from shared.callbacks import Diverged, steps_per_epoch
from shared.data.loaders import Batch
from shared.errors import UserError, choose
from shared.metrics import WeightedMean
from shared.per_image import PerImage
from shared.runs import Outcome
from shared.task import TaskData, TaskModule

CURVE_EPS = tuple(size / 255 for size in (1, 2, 4, 8, 16, 32, 64))
CHANCE_SLACK = 0.01
"""How far the training loss must be below that of guessing, in nats, to count as learning."""


class AdversarialModule(TaskModule):
    """Trains a WideResNet on PGD's images only, and tests clean, attacked as in training, and attacked harder.

    Args:
        norm: Norm layer: bn, in, ln, gn, pn, gbgn, bgn, none, or package.module:Class of your own.
        num_groups: G of the norms with groups; None: 128 for GN and BGN (in proportion to the width), 32 for
            GBGN.
        batch_size: Images per worker and step (set by data.batch_size).
        depth: Of the WideResNet, 6n + 4.
        width: Its widening factor.
        eps: Largest change of a pixel, on the scale [0, 1].
        step: Change of a pixel in a step of PGD, on the same scale.
        steps: Steps of PGD in training, validation, and the headline test.
        attack_bn_mode: Norms while crafting training images: eval (running statistics), train (the batch's, moving the
            running ones), train_frozen (the batch's, moving nothing). Validation and test always craft in eval mode.
        optimizer: adam, or sgd with Nesterov momentum 0.9.
        learning_rate: At the start.
        schedule: constant, cosine (to 0), or steps (a tenth after half and three quarters).
        weight_decay: On all parameters.
        ema_decay: If above 0, an exponential moving average of the weights with this decay is validated and tested.
        reported: Whether the last or the best weights give the headline; best are by robust accuracy on held-out
            images.
        strong_steps: Steps of the stronger PGD in the test.
        strong_restarts: Its random starts.
        strong_images: Test images that it attacks.
        square_queries: Queries an image of the black-box Square attack; 0: not run. It attacks strong_images too.
        autoattack_images: Test images that AutoAttack attacks; 0: not run.
        curve_images: Test images of the curve over eps; 0: no curve.
        curve_eps: Its values of eps, increasing, on the scale [0, 1].
        patience: Epochs in a row without learning after which a run counts as diverged, and stops; None: a tenth of
            the epochs, at least 10. One that ends with 3 such epochs has diverged, too.
    """

    epochs_without_learning: Tensor
    monitor = "val/robust_top1"
    headline = "test/robust_top1"
    compared = ("test/clean_top1", "test/pgd20_top1", "test/square_top1")
    curves = CURVES
    shown = ("train/loss", "train/robust_top1", "val/robust_top1", "val/clean_top1")

    def __init__(
        self,
        norm: str = "bgn",
        num_groups: int | None = None,
        batch_size: int = protocol.BATCH_SIZE,
        depth: int = protocol.DEPTH,
        width: int = protocol.WIDTH,
        eps: float = protocol.EPS,
        step: float = protocol.STEP,
        steps: int = protocol.STEPS,
        attack_bn_mode: Literal["eval", "train", "train_frozen"] = "eval",
        optimizer: Literal["adam", "sgd"] = "adam",
        learning_rate: float = protocol.LEARNING_RATE,
        schedule: Literal["constant", "cosine", "steps"] = "constant",
        weight_decay: float = 0.0,
        ema_decay: float = 0.0,
        reported: Literal["last", "best"] = "last",
        strong_steps: int = 20,
        strong_restarts: int = 2,
        strong_images: int = 1000,
        square_queries: int = 0,
        autoattack_images: int = 0,
        curve_images: int = 200,
        curve_eps: Sequence[float] = CURVE_EPS,
        patience: int | None = None,
    ) -> None:
        super().__init__()
        spec = resolve_norm(norm)
        if num_groups is not None and not spec.has_groups:
            raise ValueError(f"num_groups must be left out for norm {norm!r}, which has no groups; got {num_groups}.")
        choose("attack_bn_mode", attack_bn_mode, MODES)
        self.attack = Pgd(eps=eps, step=step, steps=steps)
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1); got {ema_decay}.")
        if learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0; got {learning_rate}.")
        if not 0 <= weight_decay < 1:
            raise ValueError(f"weight_decay must be in [0, 1); got {weight_decay}.")
        if patience is not None and patience < 1:
            raise ValueError(f"patience must be at least 1 epoch; got {patience}.")
        if strong_steps <= steps:
            raise ValueError(f"strong_steps must be above the training's {steps} steps; got {strong_steps}.")
        self.settings_of_test = check_evaluation(
            eps=eps, strong_steps=strong_steps, strong_restarts=strong_restarts, strong_images=strong_images,
            square_queries=square_queries, autoattack_images=autoattack_images, curve_images=curve_images,
            curve_eps=curve_eps,
        )  # fmt: skip
        self.norm, self.batch_size, self.depth, self.width = norm, batch_size, depth, width
        self.num_groups = self.default_groups() if num_groups is None else num_groups
        self.attack_bn_mode = attack_bn_mode
        self.optimizer, self.learning_rate, self.schedule = optimizer, learning_rate, schedule
        self.weight_decay, self.ema_decay, self.patience = weight_decay, ema_decay, patience
        self.reported = reported
        self.tested_weights = ("best", "last") if reported == "last" else ("last", "best")
        self.train_loss, self.train_robust = WeightedMean(), WeightedMean()
        self.val_clean, self.val_robust = WeightedMean(), WeightedMean()
        self.register_buffer("epochs_without_learning", torch.zeros((), dtype=torch.long))
        self.averaged: AveragedModel | None = None
        self.results: dict[str, dict[str, Tensor]] = {}
        """Right answers by weights ("last", "best"), then by test; one number per attacked image."""

    def build(self, data: TaskData) -> None:
        """Build the network for the data's classes and pixels."""
        assert isinstance(data, AdversarialData)
        self.data = data
        factory = norm_factory(self.norm, num_groups=self.num_groups, batch_size=self.batch_size)
        self.network = WideResNet(
            norm_layer=factory, depth=self.depth, width=self.width, num_classes=data.num_classes, mean=data.mean,
            std=data.std,
        )  # fmt: skip
        self.evaluation = Evaluation(
            self.settings_of_test, attack=self.attack, num_classes=data.num_classes, num_images=len(data.test)
        )
        if self.ema_decay > 0:
            self.averaged = AveragedModel(self.network, multi_avg_fn=self._average, use_buffers=True)
            self.averaged.requires_grad_(False)

    def _average(self, averaged: Sequence[Tensor], current: Sequence[Tensor], num_averaged: Tensor | int) -> None:  # noqa: ARG002
        """Move weights and running statistics towards the current ones; take whole numbers (counts) as they are."""
        for mean, value in zip(averaged, current):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - self.ema_decay)
            else:
                mean.copy_(value)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and tested."""
        return self.network if self.averaged is None else self.averaged.module

    def example_input(self, data: TaskData) -> Tensor:
        """Return one black image."""
        assert isinstance(data, AdversarialData)
        return torch.zeros(1, 3, *data.test.resolution)

    def groups_in_force(self) -> int | None:
        """Return G; None for a norm without groups."""
        return self.num_groups

    def default_groups(self) -> int | None:
        """Return the paper's G for the norm and the width."""
        return protocol.num_groups(self.norm, width=self.width)

    def compiled_parts(self) -> list[nn.Module]:
        """Return the network, and the one that is tested."""
        return list(dict.fromkeys([self.network, self.evaluated]))

    def prepare_trainer(self, trainer: pl.Trainer) -> None:
        """Check that the run has batches, and that its precision keeps the attacks whole."""
        if "16" in str(trainer.precision) and trainer.precision != "bf16-mixed":
            raise UserError(
                "trainer.precision must be 32-true, 64-true or bf16-mixed: in fp16 the attack's gradients vanish, and "
                f"bf16 pixels are too coarse for it; got {trainer.precision}."
            )
        if self.batch_size * trainer.world_size > len(self.data.train):
            raise UserError(
                f"batch_size × processes must be at most the {len(self.data.train)} training images; "
                f"got {self.batch_size} × {trainer.world_size}."
            )
        self.steps_per_epoch = steps_per_epoch(trainer, len(self.data.train) // (self.batch_size * trainer.world_size))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of pixels in [0, 1]."""
        return self.network(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Attack the batch, and return the mean cross-entropy of what came out."""
        key = protocol.attack_key("train", self.data.seed, self.current_epoch, batch_idx, self.global_rank)
        crafted = craft(
            self.network, batch.images, batch.labels, attack=self.attack, mode=self.attack_bn_mode, seed=key,
            check=False,
        )  # fmt: skip
        logits = self(crafted)
        loss = F.cross_entropy(logits, batch.labels)
        self.train_loss.update(loss.detach(), len(batch.labels))
        self.train_robust.update((logits.argmax(1) == batch.labels).float())
        self.log("train/loss_step", loss)
        self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Make the step, and move the average of the weights."""
        super().optimizer_step(*args, **kwargs)
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's loss and accuracy on attacked images; end a run that does not learn.

        Raises:
            Diverged: If the loss was that of guessing for `patience` epochs in a row.
        """
        loss = self.train_loss.compute()
        self.log_dict({"train/loss": loss, "train/robust_top1": 100 * self.train_robust.compute()}, sync_dist=True)
        self.train_loss.reset()
        self.train_robust.reset()
        if float(loss) < math.log(self.data.num_classes) - CHANCE_SLACK:
            self.epochs_without_learning.zero_()
        else:
            self.epochs_without_learning += 1
        num_epochs = self.trainer.max_epochs or 1
        patience = max(10, num_epochs // 10) if self.patience is None else self.patience
        if self.current_epoch + 1 == num_epochs:
            patience = min(3, patience)
        if int(self.epochs_without_learning) >= patience:
            raise Diverged(
                f"the training loss was no better than guessing's, {math.log(self.data.num_classes):.3f}, for "
                f"{int(self.epochs_without_learning)} epochs in a row"
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count right answers on held-out training images, clean and attacked."""
        network, key = self.evaluated, protocol.attack_key("val", batch_idx, self.global_rank)
        self.val_clean.update(is_right(network, batch.images, batch.labels).float(), batch.valid)
        survivors = pgd_survivors(network, batch.images, batch.labels, attack=self.attack, seed=key)
        self.val_robust.update(survivors.float(), batch.valid)

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's accuracies on held-out images."""
        for name, metric in {"robust_top1": self.val_robust, "clean_top1": self.val_clean}.items():
            self.log(f"val/{name}", 100 * metric.compute(), prog_bar=True, sync_dist=True)
            metric.reset()

    def on_test_epoch_start(self) -> None:
        """Make room for the answers."""
        self._answers = PerImage(len(self.data.test))

    def test_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Attack test images: in all ways for the reported weights, clean and as in training for the others."""
        answers = self.evaluation.answer(self.evaluated, batch, whole=self.testing == self.reported)
        self._answers.add(answers, batch)

    def on_test_epoch_end(self) -> None:
        """Log the accuracies over all images."""
        answers = self._answers.gather(self.trainer)
        self.results[self.testing] = self.evaluation.by_test(answers, whole=self.testing == self.reported)
        for name in ("robust_top1", "clean_top1"):
            self.log(f"test/{name}", 100 * self.results[self.testing][name].float().mean())

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the optimiser and the schedule, step by step."""
        settings: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        optimizer = (
            torch.optim.Adam(self.network.parameters(), **settings)
            if self.optimizer == "adam"
            else torch.optim.SGD(self.network.parameters(), momentum=0.9, nesterov=True, **settings)
        )
        total = self.steps_per_epoch * (self.trainer.max_epochs or 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: protocol.learning_rate_factor(step, total_steps=total, schedule=self.schedule),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def outcome(self, data: TaskData, history: list[dict[str, float]], tested: dict[str, float]) -> Outcome:
        """Return the robust and the clean accuracy beside those of stronger attacks."""
        assert isinstance(data, AdversarialData)
        return adversarial_outcome(self, data, history, is_tested=bool(tested))
