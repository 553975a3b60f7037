"""ResNet classification with any norm layer, under the paper's protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from classification import protocol
from classification.data import ClassificationData
from norm_layers import frozen_statistics, norm_factory
from norm_layers.registry import default_num_groups, resolve_norm
from shared.backbones import build_backbone, resolve_backbone
from shared.backbones.layout import fast_layout
from shared.callbacks import steps_per_epoch
from shared.data.loaders import Batch
from shared.errors import UserError
from shared.metrics import WeightedMean
from shared.runs import Metric, Outcome, PaperCell, Scalar, accuracy_metric
from shared.task import TaskData, TaskModule


class ClassificationModule(TaskModule):
    """Trains a ResNet with SGD and reports the median test accuracy of the last five epochs.

    Gradients are averaged over `total_workers` workers and norm statistics are taken within each, as in the paper. A
    process plays `virtual_workers` of them at once; what is missing is made up by accumulating gradients over
    micro-batches, of which only the first moves the running statistics, since DDP keeps the buffers of rank 0.

    Args:
        norm: Norm layer: bn, in, ln, gn, pn, gbgn, bgn, none, or package.module:Class of your own.
        num_groups: G of the norms with groups; None: the paper's (GN and GBGN 32, BGN by batch size).
        batch_size: Images per worker and step (set by data.batch_size).
        backbone: resnet18, resnet50, resnet20, resnet32 or resnet56.
        width: Channels of the first stage of a CIFAR ResNet; None: 16.
        stem: conv7 (7×7, stride 2, max-pool), conv3 or conv3_stride2; None: the backbone's own.
        zero_init_residual: Whether the last norm of each block starts at gamma 0; the paper says all start at 1.
        total_workers: Workers over which one optimiser step averages.
        virtual_workers: Workers that one process plays at once, each with its own norm statistics.
        learning_rate: Initial learning rate; None: 0.1 × total batch / 256.
        milestones: Epochs from which the rate is ten times smaller.
        warmup_epochs: Epochs of linear warm-up; the paper has none.
        weight_decay: On all parameters.
        momentum: Of SGD, without Nesterov.
        label_smoothing: Of the cross-entropy; the paper has none.
        shard_workers: If set, also report the accuracy on every n-th test image, as one of n workers would see it; the
            paper's numbers are multiples of 1/6250, one of 8 workers' share.
    """

    monitor = "val/top1"
    headline = "test/top1"
    compared = ("test/top5", "test/top1_best")
    curves = ("val/top1", "train/top1", "train/loss")
    shown = ("train/loss", "train/top1", "val/top1")

    def __init__(
        self,
        norm: str = "bgn",
        num_groups: int | None = None,
        batch_size: int = 32,
        backbone: str = "resnet50",
        width: int | None = None,
        stem: str | None = None,
        zero_init_residual: bool = False,
        total_workers: int = protocol.NUM_WORKERS,
        virtual_workers: int = 1,
        learning_rate: float | None = None,
        milestones: Sequence[int] = protocol.MILESTONES,
        warmup_epochs: int = 0,
        weight_decay: float = protocol.WEIGHT_DECAY,
        momentum: float = protocol.MOMENTUM,
        label_smoothing: float = 0.0,
        shard_workers: int | None = None,
    ) -> None:
        super().__init__()
        counts = {"total_workers": total_workers, "virtual_workers": virtual_workers, "shard_workers": shard_workers}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ValueError(f"{name} must be at least 1; got {count}.")
        if learning_rate is not None and learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0; got {learning_rate}.")
        if warmup_epochs < 0:
            raise ValueError(f"warmup_epochs must be at least 0; got {warmup_epochs}.")
        shares = {"momentum": momentum, "weight_decay": weight_decay, "label_smoothing": label_smoothing}
        for name, share in shares.items():
            if not 0 <= share < 1:
                raise ValueError(f"{name} must be in [0, 1); got {share}.")
        resolve_backbone(backbone)
        spec = resolve_norm(norm)
        if num_groups is not None and not spec.has_groups:
            raise ValueError(f"num_groups must be left out for norm {norm!r}, which has no groups; got {num_groups}.")
        protocol.accumulation(total_workers=total_workers, world_size=1, virtual_workers=virtual_workers)
        self.norm = norm
        self.num_groups = num_groups if num_groups is not None else default_num_groups(norm, batch_size=batch_size)
        self.batch_size = batch_size
        self.backbone, self.width, self.stem, self.zero_init_residual = backbone, width, stem, zero_init_residual
        self.total_workers, self.virtual_workers = total_workers, virtual_workers
        self.learning_rate = learning_rate
        self.milestones, self.warmup_epochs = tuple(milestones), warmup_epochs
        self.weight_decay, self.momentum, self.label_smoothing = weight_decay, momentum, label_smoothing
        self.shard_workers = shard_workers
        self.train_loss, self.train_top1 = WeightedMean(), WeightedMean()
        self.top1, self.top5, self.shard_top1 = WeightedMean(), WeightedMean(), WeightedMean()

    def build(self, data: TaskData) -> None:
        """Build the network for the data's classes."""
        assert isinstance(data, ClassificationData)
        self.num_batches = len(data.train) // (self.batch_size * self.virtual_workers)
        step_images = self.total_workers * self.batch_size
        if step_images > len(data.train):
            raise ValueError(
                f"batch_size × total_workers must be at most the {len(data.train)} training images; "
                f"got {self.batch_size} × {self.total_workers} = {step_images}."
            )
        if self.shard_workers and data.dataset == "embedded" and math.gcd(self.shard_workers, data.num_classes) > 1:
            raise ValueError(
                f"shard_workers must have no factor in common with the {data.num_classes} classes of embedded images, "
                f"which take turns: a share would lack some of them; got {self.shard_workers}."
            )
        factory = norm_factory(
            self.norm, num_groups=self.num_groups, batch_size=self.batch_size, virtual_workers=self.virtual_workers
        )
        self.network = build_backbone(
            self.backbone, num_classes=data.num_classes, norm_layer=factory, width=self.width, stem=self.stem,
            zero_init_residual=self.zero_init_residual,
        )  # fmt: skip

    def example_input(self, data: TaskData) -> Tensor:
        """Return one black image for each virtual worker."""
        assert isinstance(data, ClassificationData)
        return torch.zeros(self.virtual_workers, 3, data.image_size, data.image_size)

    def groups_in_force(self) -> int | None:
        """Return G; None for a norm without groups."""
        return self.num_groups

    def default_groups(self) -> int | None:
        """Return the paper's G for the norm and the batch size."""
        return default_num_groups(self.norm, batch_size=self.batch_size)

    def prepare_trainer(self, trainer: pl.Trainer) -> None:
        """Accumulate gradients over the workers that are not there, in whole steps only."""
        accumulate = protocol.accumulation(
            total_workers=self.total_workers, world_size=trainer.world_size, virtual_workers=self.virtual_workers
        )
        if trainer.accumulate_grad_batches != 1:
            raise UserError(
                "trainer.accumulate_grad_batches must be left out: it follows from model.total_workers; "
                f"got {trainer.accumulate_grad_batches}."
            )
        if trainer.check_val_every_n_epoch != 1:
            raise UserError(
                "trainer.check_val_every_n_epoch must be 1: the headline is the median of the last five epochs; got "
                f"{trainer.check_val_every_n_epoch}."
            )
        trainer.accumulate_grad_batches = accumulate
        self.num_batches_per_process = self.num_batches // trainer.world_size // accumulate * accumulate
        self.steps_per_epoch = steps_per_epoch(trainer, self.num_batches_per_process)
        if accumulate > 1:
            trainer.limit_train_batches = self.steps_per_epoch * accumulate

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of normalised images of shape (N, 3, H, W)."""
        return self.network(fast_layout(images))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of one device's batch."""
        is_first_micro_batch = batch_idx % self.trainer.accumulate_grad_batches == 0
        if is_first_micro_batch:
            logits = self(batch.images)
        else:
            with frozen_statistics(self.network, mode="train"):
                logits = self(batch.images)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        self.train_loss.update(loss.detach(), len(batch.labels))
        self.train_top1.update((logits.argmax(1) == batch.labels).float())
        self.log("train/loss_step", loss)
        self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training loss and accuracy, over all workers."""
        metrics = {"loss": self.train_loss.compute(), "top1": 100 * self.train_top1.compute()}
        self.log_dict({f"train/{name}": value for name, value in metrics.items()}, sync_dist=True)
        self.train_loss.reset()
        self.train_top1.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Count hits on the test images."""
        self._count(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Count hits on the test images."""
        self._count(batch)

    def _count(self, batch: Batch) -> None:
        ranked = self(batch.images).topk(min(5, self._num_classes()), dim=1).indices == batch.labels[:, None]
        weight = batch.valid
        hit = ranked[:, 0].float()
        self.top1.update(hit, weight)
        self.top5.update(ranked.any(1).float(), weight)
        if self.shard_workers:
            self.shard_top1.update(hit, weight & (batch.indices % self.shard_workers == 0))

    def _num_classes(self) -> int:
        return self.network.fc.out_features  # type: ignore[union-attr, return-value]

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's accuracy over all test images of all ranks."""
        self._log_accuracy("val")

    def on_test_epoch_end(self) -> None:
        """Log the last weights' accuracy."""
        self._log_accuracy("test")

    def _log_accuracy(self, stage: str) -> None:
        metrics = {"top1": self.top1, "top5": self.top5}
        if self.shard_workers:
            metrics["top1_shard"] = self.shard_top1
        for name, metric in metrics.items():
            self.log(f"{stage}/{name}", 100 * metric.compute(), prog_bar=name == "top1", sync_dist=True)
            metric.reset()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return SGD and the step schedule."""
        total_batch_size = self.total_workers * self.batch_size
        rate = protocol.learning_rate(total_batch_size) if self.learning_rate is None else self.learning_rate
        optimizer = torch.optim.SGD(self.parameters(), lr=rate, momentum=self.momentum, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: protocol.learning_rate_factor(
                step,
                steps_per_epoch=self.steps_per_epoch,
                milestones=self.milestones,
                warmup_epochs=self.warmup_epochs,
            ),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def settings(self) -> dict[str, Scalar]:
        """Return the settings that two runs of one table share."""
        rate = "0.1 × total batch / 256" if self.learning_rate is None else self.learning_rate
        return {
            "epochs": self.trainer.max_epochs,
            "milestones": ", ".join(map(str, self.milestones)),
            "learning rate": rate,
            "warm-up epochs": self.warmup_epochs,
            "weight decay": self.weight_decay,
            "momentum": self.momentum,
            "label smoothing": self.label_smoothing,
            "workers": self.total_workers,
            "width": self.width,
            "stem": self.stem or resolve_backbone(self.backbone).stem,
            "zero-init residual": self.zero_init_residual,
            "precision": str(self.trainer.precision),
        }

    def outcome(self, data: TaskData, history: list[dict[str, float]], tested: dict[str, float]) -> Outcome:
        """Return the headline accuracy beside the last and the best epoch's, and the paper's cell."""
        assert isinstance(data, ClassificationData)
        n = data.num_test_images
        metrics: dict[str, Metric] = {}
        warnings: list[str] = []
        last = min(self.trainer.max_epochs or 1, protocol.LAST_EPOCHS)
        if tested:
            names = ["top1", "top5"] + (["top1_shard"] if self.shard_workers else [])
            for name in names:
                each = [epoch[f"val/{name}"] for epoch in history if f"val/{name}" in epoch]
                count = n if name != "top1_shard" else -(-n // (self.shard_workers or 1))
                metrics[f"test/{name}"] = accuracy_metric(protocol.headline_accuracy(each), count)
                metrics[f"test/{name}_last"] = accuracy_metric(tested[f"test/{name}"], count)
                metrics[f"test/{name}_best"] = accuracy_metric(max(each), count)
            metrics["train/top1"] = Metric(value=history[-1]["train/top1"])
            metrics["train/loss"] = Metric(value=history[-1]["train/loss"], unit="")
            is_guess = metrics["test/top1"].value <= 100 / data.num_classes + 1
            warnings += ["test accuracy is no better than guessing's"] if is_guess else []
        curves = {name: [(int(e["epoch"]), e[name]) for e in history if name in e] for name in self.curves}
        return Outcome(
            headline=self.headline, metrics=metrics, selection=f"median of the last {last} epochs",
            model=self.backbone, protocol=self.settings() | data.settings(),
            paper=self._paper_cells(data), readings=self._readings(), curves=curves,
            warnings=warnings,
        )  # fmt: skip

    def _paper_cells(self, data: ClassificationData) -> list[PaperCell]:
        groups = default_num_groups(self.norm, batch_size=self.batch_size)
        is_sweep = self.norm == "bgn" and self.num_groups != groups
        if self.batch_size not in (protocol.SWEEP_BATCH_SIZES if is_sweep else protocol.LEARNING_RATES):
            return []
        setting: dict[str, Scalar] = {"batch_size": self.batch_size}
        if is_sweep:
            setting["num_groups"] = self.num_groups
        differences = self._differences(data)
        if not is_sweep and self.num_groups != groups:
            differences.append(f"G = {self.num_groups}, not {groups}")
        return [
            PaperCell(
                table=1 if is_sweep else 2, setting=setting, metric="top1", record_metric="test/top1",
                comparable=not differences, why="; ".join(differences),
            )
        ]  # fmt: skip

    def _differences(self, data: ClassificationData) -> list[str]:
        """Return in words how the run differs from the paper's protocol."""
        trainer = self.trainer
        pairs: dict[str, tuple[object, object]] = {
            "network": (self.backbone, "resnet50"),
            "stem": (self.stem or "conv7", "conv7"),
            "epochs": (trainer.max_epochs, protocol.EPOCHS),
            "milestones": (self.milestones, protocol.MILESTONES),
            "workers": (self.total_workers, protocol.NUM_WORKERS),
            "weight decay": (self.weight_decay, protocol.WEIGHT_DECAY),
            "momentum": (self.momentum, protocol.MOMENTUM),
            "warm-up epochs": (self.warmup_epochs, 0),
            "label smoothing": (self.label_smoothing, 0.0),
            "zero-init residual": (self.zero_init_residual, False),
            "precision": (str(trainer.precision), "32-true"),
            "share of the training batches": (
                self.steps_per_epoch * trainer.accumulate_grad_batches,
                self.num_batches_per_process,
            ),
            "gradient clipping": (trainer.gradient_clip_val, None),
        }
        differences = data.differences_from_paper()
        differences += [f"{name} {ours}, not {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs]
        if self.learning_rate is not None:
            differences.append("its own learning rate")
        return differences

    def _readings(self) -> list[str]:
        readings = ["SGD momentum 0.9 without Nesterov (not stated)"] if self.momentum == protocol.MOMENTUM else []
        if self.norm == "bgn":
            readings.append("S = D/G; running variance unbiased, as in torch")
        if self.norm == "gbgn":
            readings.append("GBGN is 32 channel groups over the whole batch")
        if self.norm == "gn":
            readings.append("where G does not divide C, GN's groups are flat over C·H·W")
        return readings
