"""CAN as a Lightning module: one epoch is one loop of clustering, filtering and training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from norm_layers.registry import resolve_norm
from shared.callbacks import Diverged, steps_per_epoch
from shared.data.loaders import Batch
from shared.errors import choose
from shared.independence import check_independence
from shared.metrics import WeightedMean
from shared.per_image import PerImage
from shared.runs import Outcome, Scalar
from shared.task import TaskData, TaskModule
from uda import protocol
from uda.cdd import NORMALISERS
from uda.data import UdaData
from uda.domain_norm import start_target_from_source
from uda.features import domain_features, evaluation, recalibrate_target
from uda.filtering import Kept
from uda.loaders import LoopImages, LoopLoader
from uda.loops import LoopState, mean_entropy, neighbourhood_density, start_loop
from uda.network import DomainNetwork
from uda.objective import step_loss
from uda.outcome import CURVES, UNTRAINED, uda_outcome
from uda.pictures import draw_results, save_before
from uda.sampling import LoopPlan
from uda.weights import CONVERSIONS, build_network

TRAIN_MEASURES = ("cross_entropy", "cdd", "intra", "inter")


class UdaModule(TaskModule):
    """Adapts a ResNet from a labelled source to an unlabelled target by CAN.

    An epoch is a loop: the target is clustered from the source's class centres, ambiguous images and classes are left
    out, then the network is trained on cross-entropy of the source and on the contrastive domain discrepancy. Nothing
    is chosen by target labels: the last loop's weights are tested.

    Args:
        norm: Norm layer: bn, in, ln, gn, pn, gbgn, bgn, none, or package.module:Class of your own.
        num_groups: G of the norms with groups; None: for BGN the paper's of the pair (32 for others), 32 for GN and
            GBGN.
        batch_size: Source images of a cross-entropy batch (set by data.batch_size).
        method: can; norm_branch (the same with the discrepancy's weight at 0: only the target's norms adapt); or
            source_only (cross-entropy alone, tested through the source's norms).
        backbone: resnet50, resnet18, or resnet20, resnet32, resnet56 for small images.
        stem: First layers: conv7, conv3 or conv3_stride2; None: the backbone's own.
        width: Channels of the first stage of a CIFAR ResNet; None: 16.
        weights: File with torchvision's ImageNet weights of the backbone (BatchNorm); imagenet: a download; None:
            random ones.
        conversion: How BatchNorm's state becomes the norm's: fold (same output in evaluation), repeat or fresh.
        warmup_epochs: Passes over the source before the first loop, which stand in for ImageNet weights; they count
            among trainer.max_epochs.
        warmup_learning_rate: Learning rate of these, Adam's.
        frozen_stages: 1: stem and layer1 get no gradient in adaptation, as in the official code; 0: all are trained.
        recalibrate: Whether the target's running statistics are estimated anew before the first loop (AdaBN).
        optimizer: adam or sgd (momentum 0.9).
        learning_rate: Of the backbone; the classifier's is ten times that.
        decay: What the learning rate's decay counts: loop, iteration; or inv, the official code's; or none.
        decay_rate: Factor of each decay.
        decay_step: Loops or iterations between two decays.
        weight_decay: On all parameters.
        cdd_weight: Weight of the discrepancy.
        intra_only: Whether classes are only drawn together, and not apart.
        normaliser: What the discrepancy is divided by: the classes of the data set, or the selected ones.
        threshold: D_0, largest distance to its centre at which a target image is trained on; None: 0.05 for amazon to
            dslr and webcam, 1 (all) elsewhere.
        min_images: N_0, kept target images that a class needs.
        normalise_features: Whether centres are sums of directions (the article) or of features (the official code).
        cluster_views: Which views are clustered: train (random window and flip, as in the official code) or eval.
        stop_rule: When to end before trainer.max_epochs: shift (the paper's), official or never.
        pictures: Whether confusions and both domains before and after are drawn.
    """

    network: DomainNetwork
    headline = "test/accuracy"
    compared = ("test/accuracy_before",)
    curves = CURVES
    compiles_any_size = False  # parts of one kind differ in channels, which must not be read as sizes
    further_axes = ("transfer", "method")
    shown = ("train/loss", "can/shift", "can/kept_share", "val/accuracy")

    def __init__(
        self,
        norm: str = "bgn",
        num_groups: int | None = None,
        batch_size: int = protocol.BATCH_SIZE,
        method: Literal["can", "norm_branch", "source_only"] = "can",
        backbone: str = "resnet50",
        stem: str | None = None,
        width: int | None = None,
        weights: Literal["imagenet"] | Path | None = None,
        conversion: Literal["fold", "repeat", "fresh"] = "fold",
        warmup_epochs: int = 0,
        warmup_learning_rate: float = 1e-3,
        frozen_stages: Literal[0, 1] = 1,
        recalibrate: bool = False,
        optimizer: Literal["adam", "sgd"] = "adam",
        learning_rate: float = protocol.LEARNING_RATE,
        decay: Literal["loop", "iteration", "inv", "none"] = "loop",
        decay_rate: float = protocol.DECAY_RATE,
        decay_step: int = protocol.DECAY_STEP,
        weight_decay: float = protocol.WEIGHT_DECAY,
        cdd_weight: float = protocol.CDD_WEIGHT,
        intra_only: bool = False,
        normaliser: Literal["dataset", "selected"] = "dataset",
        threshold: float | None = None,
        min_images: int = protocol.MIN_IMAGES,
        normalise_features: bool = False,
        cluster_views: Literal["train", "eval"] = "train",
        stop_rule: Literal["shift", "official", "never"] = "shift",
        pictures: bool = True,
    ) -> None:
        super().__init__()
        spec = resolve_norm(norm)
        if num_groups is not None and not spec.has_groups:
            raise ValueError(f"num_groups must be left out for norm {norm!r}, which has no groups; got {num_groups}.")
        choose("normaliser", normaliser, NORMALISERS)
        choose("conversion", conversion, CONVERSIONS)
        protocol.check_settings(
            above_zero={"learning_rate": learning_rate, "warmup_learning_rate": warmup_learning_rate},
            at_least_zero={"weight_decay": weight_decay, "cdd_weight": cdd_weight, "warmup_epochs": warmup_epochs},
            at_least_one={"decay_step": decay_step, "min_images": min_images},
            decay_rate=decay_rate, threshold=threshold,
        )  # fmt: skip
        self.norm, self.num_groups, self.batch_size, self.method = norm, num_groups, batch_size, method
        self.backbone, self.stem, self.width = backbone, stem, width
        self.weights, self.conversion = weights, conversion
        self.warmup_epochs, self.warmup_learning_rate = warmup_epochs, warmup_learning_rate
        self.frozen_stages, self.recalibrate = frozen_stages, recalibrate
        self.optimizer, self.learning_rate = optimizer, learning_rate
        self.decay, self.decay_rate, self.decay_step = decay, decay_rate, decay_step
        self.weight_decay, self.cdd_weight = weight_decay, cdd_weight
        self.intra_only, self.normaliser = intra_only, normaliser
        self.threshold, self.min_images = threshold, min_images
        self.normalise_features, self.cluster_views, self.stop_rule = normalise_features, cluster_views, stop_rule
        self.pictures = pictures
        self.train_loss = WeightedMean()
        self.train_measures = torch.nn.ModuleDict({name: WeightedMean() for name in TRAIN_MEASURES})
        self.loop_state: LoopState | None = None
        self.is_at_rest = False
        self.predictions: Tensor | None = None

    def build(self, data: TaskData) -> None:
        """Build the network for the classes of both domains."""
        assert isinstance(data, UdaData)
        self.data = data
        self.transfer = data.transfer
        if self.threshold is None:
            self.threshold = protocol.THRESHOLDS.get(self.transfer, 1.0)
        if self.num_groups is None:
            self.num_groups = self.default_groups()
        self.network = build_network(
            self.backbone, norm=self.norm, num_groups=self.num_groups, num_classes=data.num_classes,
            batch_size=self.batch_size, weights=self.weights, conversion=self.conversion, stem=self.stem,
            width=self.width,
        )  # fmt: skip

    def example_input(self, data: TaskData) -> Tensor:
        """Return one black image."""
        assert isinstance(data, UdaData)
        return torch.zeros(1, 3, data.crop_size, data.crop_size)

    def groups_in_force(self) -> int | None:
        """Return G; None for a norm without groups."""
        return self.num_groups

    def default_groups(self) -> int | None:
        """Return the paper's G for the norm and the pair."""
        return protocol.num_groups(self.norm, transfer=self.transfer)

    def axes(self) -> dict[str, Scalar]:
        """Return the pair and the method."""
        return {name: getattr(self, name) for name in self.further_axes}

    def compiled_parts(self) -> list[nn.Module]:
        """Return the stages of the backbone: with the first one frozen, it is not called as a whole."""
        return self.network.stages

    def prepare_trainer(self, trainer: Any) -> None:
        """Ask for the batches of each loop anew, and refuse what a loop cannot do."""
        protocol.check_trainer(trainer, warmup_epochs=self.warmup_epochs)
        trainer.reload_dataloaders_every_n_epochs = 1

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits through the norms of the tested branch."""
        return self.network.answer(images, domain=self.tested_domain).logits

    @property
    def is_warming_up(self) -> bool:
        """Whether the present epoch is one before the first loop."""
        return self.loop_state is None

    @property
    def tested_domain(self) -> str:
        """Whose norms the target passes through."""
        return "source" if self.method == "source_only" or self.is_warming_up else "target"

    def on_fit_start(self) -> None:
        """Refuse a norm that mixes images in eval mode; cluster for the first loop, where no warm-up comes first."""
        few = next(self.data.views(self.data.target, epoch=0, kind="eval"))[:4]
        with self.trainer.precision_plugin.forward_context(), torch.no_grad(), evaluation(self.network):
            check_independence(lambda images: self.network.answer(images, domain="target").features, few)
        if self.loop_state is None and self.warmup_epochs == 0:
            if self.weights is None:
                print(f"Note: {UNTRAINED}. Give weights=, or model.warmup_epochs.", flush=True)
            self._begin_adaptation()

    def on_train_start(self) -> None:
        """Keep a run ended that had ended by itself when it was stopped."""
        if self.is_at_rest:
            self.trainer.should_stop = True

    def _begin_adaptation(self) -> None:
        """Start the target's norms from the source's, and cluster for the first loop."""
        start_target_from_source(self.network)
        if self.recalibrate:
            with self.trainer.precision_plugin.forward_context():
                recalibrate_target(self.network, self.data.mixed_views(self.data.target))
        self._cluster(previous=None, epoch=self.trainer.current_epoch)

    def _features(self, *, epoch: int, views: str, when: str) -> tuple[Tensor, Tensor]:
        """Return the features of all source and all target images, each through its norms."""
        of_target = "source" if self.method == "source_only" else "target"
        with self.trainer.precision_plugin.forward_context():
            source, target = (
                domain_features(self.network, self.data.views(images, epoch=epoch, kind=views), domain=domain)
                for images, domain in ((self.data.source, "source"), (self.data.target, of_target))
            )
        if not (source.isfinite().all() and target.isfinite().all()):
            raise Diverged(f"features are not finite {when}")
        return source, target

    def _cluster(self, *, previous: LoopState | None, epoch: int) -> None:
        """Make the state of the next loop."""
        number = 1 if previous is None else previous.loop + 2
        source, target = self._features(epoch=epoch, views=self.cluster_views, when=f"before loop {number}")
        assert self.threshold is not None
        self.loop_state = start_loop(
            previous=previous, source_features=source, source_labels=self.data.source.labels, target_features=target,
            num_classes=self.data.num_classes, threshold=self.threshold, minimum=self.min_images,
            normalise=self.normalise_features,
        )  # fmt: skip
        if previous is None and self.run_dir is not None and self.pictures:
            save_before(source, target, folder=self.run_dir)
        if not self.loop_state.kept.classes:
            print(
                f"loop {self.loop_state.loop + 1}: no class has {self.min_images} target images near its centre; "
                "this loop trains on the source only.",
                flush=True,
            )

    def training_loader(self) -> LoopLoader:
        """Return the batches of the loop that comes next, or of a warm-up epoch."""
        data, state, epoch = self.data, self.loop_state, self.trainer.current_epoch
        nothing = Kept(torch.zeros(len(data.target), dtype=torch.bool), [])
        plan = LoopPlan(
            source_labels=data.source.labels,
            target_labels=torch.zeros(len(data.target), dtype=torch.int64) if state is None else state.labels,
            kept=nothing if state is None else state.kept, seed=data.seed, loop=epoch, batch_size=data.batch_size,
            num_selected=data.classes_per_step, source_images=data.images_per_class,
            target_images=data.images_per_class,
        )  # fmt: skip
        return LoopLoader(
            data.source, data.target, plan=plan, epoch=epoch, device=self.device,
            has_pairs=self.method != "source_only",
        )  # fmt: skip

    def on_train_batch_start(self, batch: LoopImages, batch_idx: int) -> None:  # noqa: ARG002
        """Set the learning rates, and which stages are trained."""
        base = self.warmup_learning_rate
        if self.loop_state is not None:
            warmup_steps = self.warmup_epochs * steps_per_epoch(self.trainer, len(self.data.source) // self.batch_size)
            base = self.learning_rate * protocol.learning_rate_factor(
                loop=self.loop_state.loop, iteration=self.trainer.global_step - warmup_steps,
                decay=self.decay, rate=self.decay_rate, step=self.decay_step,
            )  # fmt: skip
        self.network.frozen_stage = 0 if self.loop_state is None else self.frozen_stages
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = base * (group["factor"] if self.loop_state is not None else 1.0)

    def training_step(self, batch: LoopImages, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return cross-entropy on the source, and the weighted discrepancy of the pairs by class."""
        loss, measures = step_loss(
            self.network, batch, method=self.method, num_classes=self.data.num_classes, cdd_weight=self.cdd_weight,
            normaliser=self.normaliser, intra_only=self.intra_only,
        )  # fmt: skip
        self.train_loss.update(loss.detach(), batch.sizes[0])
        for name, value in measures.items():
            self.train_measures[name].update(value)  # type: ignore[operator]
        self.log("train/loss_step", loss)
        self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the loop, then cluster for the next one, or end."""
        self.log("train/loss", self.train_loss.compute())
        self.train_loss.reset()
        for name, mean in self.train_measures.items():
            if float(mean.weight):  # type: ignore[arg-type]
                self.log(f"train/{name}", mean.compute())  # type: ignore[operator]
            else:  # Lightning would show that of the loop before again
                self.trainer.callback_metrics.pop(f"train/{name}", None)
            mean.reset()  # type: ignore[operator]
        if self.loop_state is not None:
            self.log_dict({f"can/{name}": value for name, value in self.loop_state.measures.items()})
            right = (self.loop_state.labels == self.data.target.labels.cpu()).double().mean()
            self.log("oracle/pseudo_label_accuracy", 100 * right.float())
        next_epoch = self.trainer.current_epoch + 1
        if next_epoch == self.trainer.max_epochs or next_epoch < self.warmup_epochs:
            return
        if self.loop_state is None:
            self.trainer.optimizers[0].state.clear()  # the warm-up stands in for weights that come from elsewhere
            self._begin_adaptation()
        else:
            self._cluster(previous=self.loop_state, epoch=next_epoch)
        assert self.loop_state is not None
        if protocol.is_at_rest(self.loop_state.measures, rule=self.stop_rule):
            self.is_at_rest = self.trainer.should_stop = True
            print(
                f"loop {self.loop_state.loop + 1} is not trained: by the rule {self.stop_rule} the domains are at "
                f"rest (shift {self.loop_state.measures['shift']:.2g}).",
                flush=True,
            )

    def on_validation_epoch_start(self) -> None:
        """Make room for the target's answers."""
        self._store = PerImage(len(self.data.target))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Answer for target images."""
        self._store.add(self(batch.images).float(), batch)

    def on_validation_epoch_end(self) -> None:
        """Log the target's accuracy, which nothing is chosen by, and two scores that need no labels."""
        logits = self._store.gather(self.trainer)
        right = (logits.argmax(1).cpu() == self.data.target.labels.cpu()).double().mean()
        self.log("val/accuracy", 100 * right.float(), prog_bar=True)
        probabilities = logits.softmax(1)
        self.log("val/entropy", mean_entropy(probabilities))
        self.log("val/neighbourhood_density", neighbourhood_density(probabilities))

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Keep the answers, and draw confusions and both domains before and after."""
        logits = self._store.gather(self.trainer)
        self.predictions = logits.argmax(1).cpu()
        right = (self.predictions == self.data.target.labels.cpu()).double().mean()
        self.log("test/accuracy", 100 * right.float())
        if self.run_dir is not None and self.pictures:
            after = self._features(epoch=0, views=self.cluster_views, when="in the test")
            draw_results(self, after, folder=self.run_dir)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam or SGD, the classifier with ten times the learning rate."""
        head = list(self.network.head.parameters())
        groups = [
            {"params": list(self.network.backbone.parameters()), "factor": 1.0},
            {"params": head, "factor": protocol.HEAD_FACTOR},
        ]
        if self.optimizer == "adam":
            return torch.optim.Adam(groups, lr=self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            groups, lr=self.learning_rate, momentum=protocol.SGD_MOMENTUM, weight_decay=self.weight_decay
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the loop: centres, pseudo-labels, what was kept, and whether the run has ended by itself."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["can"] = {
            "loop": None if self.loop_state is None else self.loop_state.state_dict(),
            "is_at_rest": self.is_at_rest,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the loop."""
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["can"]
        self.loop_state = None if state["loop"] is None else LoopState.from_state_dict(state["loop"])
        self.is_at_rest = state["is_at_rest"]

    def outcome(self, data: TaskData, history: list[dict[str, float]], tested: dict[str, float]) -> Outcome:
        """Return the target's accuracy after the last loop, and what the loops were like."""
        assert isinstance(data, UdaData)
        return uda_outcome(self, data, history, is_tested=bool(tested))
