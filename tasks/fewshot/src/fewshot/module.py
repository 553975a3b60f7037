"""Training a cosine classifier on base classes, and imprinting its weights for new ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from fewshot import protocol
from fewshot.data import FewshotData
from fewshot.features import calibrated_copy
from fewshot.imprinting import CosineClassifier, ImprintingNetwork, episode_hits, joint_hits
from fewshot.outcome import CURVES, fewshot_outcome
from fewshot.resnet12 import ACTIVATIONS, ResNet12, resolve_widths
from norm_layers import norm_factory
from norm_layers.registry import resolve_norm
from shared.callbacks import steps_per_epoch
from shared.data.loaders import Batch
from shared.errors import UserError, choose
from shared.independence import check_independence
from shared.metrics import WeightedMean
from shared.per_image import PerImage
from shared.runs import Outcome
from shared.task import TaskData, TaskModule

CALIBRATION_IMAGES, CALIBRATION_BATCH = 2560, 64
"""Base images from which the untrained network's running statistics are estimated, whatever the run's batch size."""


class FewshotModule(TaskModule):
    """Trains ResNet-12 with a cosine classifier on the base classes, and tests imprinted weights on the novel ones.

    The checkpoint with the best accuracy on episodes of the validation classes is tested; the last one too, and the
    untrained network, with running statistics estimated from base images.

    Args:
        norm: Norm layer: bn, in, ln, gn, pn, gbgn, bgn, none, or package.module:Class of your own.
        num_groups: G of the norms with groups; None: 256 for BGN (64 with metaoptnet widths), 32 for GN and GBGN, in
            proportion to the first width where it is not 64.
        batch_size: Images per worker and step (set by data.batch_size).
        widths: Channels of the four blocks: tadam (64 to 512), metaoptnet (64 to 640), or four numbers.
        activation: leaky_relu (slope 0.1) or silu.
        scale: The classifier's learnable scale at the start.
        learning_rates: One for each stage.
        milestones: Epochs from which the next stage begins.
        weight_decay: On all parameters, the scale included.
        momentum: Nesterov's.
    """

    network: ImprintingNetwork
    monitor = "val/accuracy"
    headline = "test/accuracy_1shot"
    compared = ("test/accuracy_5shot",)
    curves = CURVES
    shown = ("train/loss", "train/accuracy", "val/accuracy")
    tested_weights = ("last", "best")

    def __init__(
        self,
        norm: str = "bgn",
        num_groups: int | None = None,
        batch_size: int = protocol.BATCH_SIZE,
        widths: str | Sequence[int] = "tadam",
        activation: Literal["leaky_relu", "silu"] = "leaky_relu",
        scale: float = protocol.SCALE,
        learning_rates: Sequence[float] = protocol.LEARNING_RATES,
        milestones: Sequence[int] = protocol.MILESTONES,
        weight_decay: float = protocol.WEIGHT_DECAY,
        momentum: float = protocol.MOMENTUM,
    ) -> None:
        super().__init__()
        spec = resolve_norm(norm)
        if num_groups is not None and not spec.has_groups:
            raise ValueError(f"num_groups must be left out for norm {norm!r}, which has no groups; got {num_groups}.")
        protocol.check_schedule(learning_rates, milestones)
        choose("activation", activation, ACTIVATIONS)
        for name, value in {"momentum": momentum, "weight_decay": weight_decay}.items():
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1); got {value}.")
        if scale <= 0:
            raise ValueError(f"scale must be above 0; got {scale}.")
        self.norm, self.batch_size, self.activation = norm, batch_size, activation
        self.widths = resolve_widths(widths)
        self.num_groups = self.default_groups() if num_groups is None else num_groups
        self.scale = scale
        self.learning_rates, self.milestones = tuple(learning_rates), tuple(milestones)
        self.weight_decay, self.momentum = weight_decay, momentum
        self.train_loss, self.train_accuracy = WeightedMean(), WeightedMean()
        self.hits: dict[str, dict[str, Tensor]] = {}
        """Right answers by weights ("untrained", "last", "best"), then by score ("1shot", "1shot_novel", …)."""

    def build(self, data: TaskData) -> None:
        """Build the network for the base classes."""
        assert isinstance(data, FewshotData)
        self.data = data
        self.build_network(data.num_classes)

    def build_network(self, num_classes: int) -> None:
        """Build the network.

        Args:
            num_classes: Number of base classes.
        """
        factory = norm_factory(self.norm, num_groups=self.num_groups, batch_size=self.batch_size)
        features = ResNet12(norm_layer=factory, widths=self.widths, activation=self.activation)
        classifier = CosineClassifier(features.embedding_size, num_classes, scale=self.scale)
        self.network = ImprintingNetwork(features, classifier)

    def example_input(self, data: TaskData) -> Tensor:
        """Return one black image."""
        assert isinstance(data, FewshotData)
        return torch.zeros(1, 3, data.image_size, data.image_size)

    def groups_in_force(self) -> int | None:
        """Return G; None for a norm without groups."""
        return self.num_groups

    def default_groups(self) -> int | None:
        """Return the G of the protocol for the norm and the widths."""
        return protocol.num_groups(self.norm, widths=self.widths)

    def compiled_parts(self) -> list[nn.Module]:
        """Return what makes embeddings of images."""
        return [self.network.features]

    def prepare_trainer(self, trainer: pl.Trainer) -> None:
        """Check that the run has batches."""
        if self.data.num_batches(trainer.world_size) < 1:
            raise UserError(
                f"batch_size × processes must be at most the {len(self.data.splits.members)} base images; "
                f"got {self.batch_size} × {trainer.world_size}."
            )
        self.steps_per_epoch = steps_per_epoch(trainer, self.data.num_batches(trainer.world_size))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of normalised images over the base classes."""
        return self.network(images)

    def on_train_start(self) -> None:
        """Score the untrained network on the test episodes."""
        if self.trainer.global_step == 0 and "untrained" not in self.hits:
            self.hits["untrained"] = self._untrained_hits()

    @torch.no_grad()
    def _untrained_hits(self) -> dict[str, Tensor]:
        data, device = self.data, self.device
        images, members = data.splits.base.images, data.splits.members
        places = torch.linspace(0, len(members) - 1, min(CALIBRATION_IMAGES, len(members))).long()
        parts = [part for part in members[places].split(CALIBRATION_BATCH) if len(part) > 1]

        def calibration() -> Iterable[Tensor]:
            for part in parts:
                yield data.normalised(images[part].to(device), dtype=self.dtype)  # type: ignore[arg-type]

        with self.trainer.precision_plugin.forward_context():
            network = calibrated_copy(self.network, calibration())
            check_independence(network.embed, next(iter(calibration()))[:4])
            embeddings = []
            for loader in data.test_dataloader():
                store = PerImage(loader.plan.num_images)
                for batch in loader:
                    store.add(network.embed(data.normalised(batch.images, dtype=self.dtype)), batch)  # type: ignore[arg-type]
                embeddings.append(store.gather(self.trainer))
        return self._score_test(*embeddings)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the mean cross-entropy over the base classes."""
        logits = self(batch.images)
        loss = F.cross_entropy(logits, batch.labels)
        self.train_loss.update(loss.detach(), len(batch.labels))
        self.train_accuracy.update((logits.argmax(1) == batch.labels).float())
        self.log("train/loss_step", loss)
        self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training loss and accuracy, over all workers, and the scale."""
        metrics = {"loss": self.train_loss.compute(), "accuracy": 100 * self.train_accuracy.compute()}
        self.log_dict({f"train/{name}": value for name, value in metrics.items()}, sync_dist=True)
        self.log("train/scale", self.network.classifier.scale.detach(), sync_dist=True)
        self.train_loss.reset()
        self.train_accuracy.reset()

    def on_validation_epoch_start(self) -> None:
        """Make room for the validation classes' embeddings."""
        self._stores = [PerImage(len(self.data.splits.val))]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Embed images of the validation classes."""
        self._stores[0].add(self.network.embed(batch.images), batch)

    def on_validation_epoch_end(self) -> None:
        """Log the accuracy on the validation episodes."""
        episodes = self.data.val_episodes
        (store,) = self._stores
        hits = episode_hits(store.gather(self.trainer), episodes.indices, shots=1)
        metric = protocol.episode_metric(hits, episodes.num_queries)
        self.log("val/accuracy", torch.tensor(metric.value, device=self.device), prog_bar=True, sync_dist=True)

    def on_test_epoch_start(self) -> None:
        """Make room for the novel classes' embeddings, and those of held-out images of base classes."""
        self._stores = [PerImage(loader.plan.num_images) for loader in self.data.test_dataloader()]

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ARG002
        """Embed test images."""
        self._stores[dataloader_idx].add(self.network.embed(batch.images), batch)

    def on_test_epoch_end(self) -> None:
        """Score all test episodes."""
        hits = self._score_test(*(store.gather(self.trainer) for store in self._stores))
        self.hits[self.testing] = hits
        if self.run_dir is not None:
            self._keep_episodes(self.run_dir)
        for shots in self.data.shots:
            metric = protocol.episode_metric(hits[f"{shots}shot"], self.data.test_episodes[shots].num_queries)
            self.log(f"test/accuracy_{shots}shot", torch.tensor(metric.value, device=self.device), sync_dist=True)

    def _keep_episodes(self, folder: Path) -> None:
        """Write episodes.npz: the image numbers of each episode, and the right answers by weights."""
        arrays = {f"images_{shots}shot": episodes.indices for shots, episodes in self.data.test_episodes.items()}
        arrays |= {f"hits_{n}_{weights}": hits for weights, scores in self.hits.items() for n, hits in scores.items()}
        temporary = folder / ".episodes.partial.npz"
        contents: dict[str, Any] = {name: array.numpy() for name, array in arrays.items()}
        np.savez_compressed(temporary, **contents)
        temporary.replace(folder / "episodes.npz")

    def _score_test(self, novel: Tensor, base: Tensor | None = None) -> dict[str, Tensor]:
        """Return the right answers in each test episode, by score."""
        data, hits = self.data, {}
        for shots, episodes in data.test_episodes.items():
            hits[f"{shots}shot"] = episode_hits(novel, episodes.indices, shots=shots)
            if base is not None:
                assert data.joint_queries is not None
                assert data.splits.base_test is not None
                hits[f"{shots}shot_novel"], hits[f"{shots}shot_base"] = joint_hits(
                    novel, episodes.indices, base, data.joint_queries, data.splits.base_test.labels,
                    self.network.classifier.weight.detach().to(novel.dtype), shots=shots,
                )  # fmt: skip
        return {name: values.cpu() for name, values in hits.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the untrained network's score for a resumed run."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["untrained_hits"] = self.hits.get("untrained", {})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the untrained network's score."""
        super().on_load_checkpoint(checkpoint)
        self.hits["untrained"] = checkpoint["untrained_hits"]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return SGD with Nesterov momentum and the learning-rate table."""
        first = self.learning_rates[0]
        optimizer = torch.optim.SGD(
            self.parameters(), lr=first, momentum=self.momentum, nesterov=self.momentum > 0,
            weight_decay=self.weight_decay,
        )  # fmt: skip
        steps = self.steps_per_epoch
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: (
                protocol.learning_rate(step // steps, rates=self.learning_rates, milestones=self.milestones) / first
            ),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def outcome(self, data: TaskData, history: list[dict[str, float]], tested: dict[str, float]) -> Outcome:
        """Return the accuracy of imprinted weights beside that of the last and the untrained weights."""
        assert isinstance(data, FewshotData)
        return fewshot_outcome(self, data, history, is_tested=bool(tested))
