"""The images of search and retraining: CIFAR-10 or embedded ones, halved for the search."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from nas import protocol
from shared.data.augment import cutout, normalise, random_crop_flip
from shared.data.loaders import ArrayLoader, Batch, ResumableLoader
from shared.data.sets import ImageSet
from shared.data.small import SUBSET_SEED, SmallSet, channel_statistics, open_cifar10, open_embedded
from shared.errors import UserError
from shared.runs import Scalar
from shared.task import TaskData

ALPHA_SEED_OFFSET = 1_000_003
"""Added to the seed for the order of the alphas' images, so that the two halves are not dealt alike."""


class SearchBatch(NamedTuple):
    """A batch of each half.

    Attributes:
        images: For the weights; like the next three, as in `Batch`.
        labels: Of them.
        indices: Of them.
        valid: Of them.
        alpha_images: For the architecture; like the next three, as in `Batch`.
        alpha_labels: Of them.
        alpha_indices: Of them.
        alpha_valid: Of them.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    valid: Tensor
    alpha_images: Tensor
    alpha_labels: Tensor
    alpha_indices: Tensor
    alpha_valid: Tensor


class SearchLoader(ResumableLoader):
    """Batches of both halves, side by side; its position is that of both.

    Args:
        weights: Loader of the half for the weights.
        alphas: Loader of the half for the architecture, of the same length.
    """

    def __init__(self, weights: ArrayLoader, alphas: ArrayLoader) -> None:
        super().__init__(weights.plan)
        self.weights, self.alphas = weights, alphas

    def _draw(self, *, epoch: int, start: int) -> Iterator[Batch]:
        for loader in (self.weights, self.alphas):
            loader.seek(epoch=epoch, batch=start)
        for pair in zip(self.weights, self.alphas):
            yield SearchBatch(*pair[0], *pair[1])


class NasData(TaskData):
    """Two halves of the training images for a search, all of them for retraining, and the test images.

    Args:
        dataset: embedded (procedural images, nothing to download) or cifar10.
        data_dir: Folder with CIFAR-10; None for the embedded images.
        batch_size: Images per worker and step: in a search of each half; in retraining if retrain_batch_size is None.
        retrain_batch_size: Images per worker and step of retraining; None: batch_size.
        num_classes: Classes of the embedded images; None: 10. CIFAR-10 has 10.
        image_size: Side of the embedded images in pixels, a multiple of 4; None: 32, as CIFAR-10's.
        train_images: Size of a class-balanced subset of the training images, even; None: all (embedded: 4,000).
        test_images: Size of a class-balanced subset of the test images; None: all (embedded: 2,000).
        val_images: Images of the architecture's half on which a search is validated; None: all of that half.
        crop_padding: Pixels of padding for the random crop.
        cutout: Side of the square that retraining cuts out of its images, in pixels; 0: none.
        download: Whether torchvision downloads CIFAR-10 into data_dir.
        eval_batch_size: Images per worker and step in validation and test.
        seed: Seed of order and augmentation.
    """

    def __init__(
        self,
        dataset: Literal["embedded", "cifar10"] = "embedded",
        data_dir: Path | None = None,
        batch_size: int = protocol.SEARCH_BATCH_SIZE,
        retrain_batch_size: int | None = None,
        num_classes: int | None = None,
        image_size: int | None = None,
        train_images: int | None = None,
        test_images: int | None = None,
        val_images: int | None = None,
        crop_padding: int = protocol.CROP_PADDING,
        cutout: int = protocol.CUTOUT,
        download: bool = False,
        eval_batch_size: int = 250,
        seed: int = 0,
    ) -> None:
        super().__init__()
        retrain_batch_size = batch_size if retrain_batch_size is None else retrain_batch_size
        sizes = {
            "batch_size": batch_size, "retrain_batch_size": retrain_batch_size, "eval_batch_size": eval_batch_size
        }  # fmt: skip
        for name, value in sizes.items():
            if value < 1:
                raise UserError(f"{name} must be at least 1; got {value}.")
        for name, value in {"crop_padding": crop_padding, "cutout": cutout}.items():
            if value < 0:
                raise UserError(f"{name} must be at least 0 pixels; got {value}.")
        if dataset != "embedded" and data_dir is None:
            raise UserError(f"data_dir must name the folder with {dataset}; got nothing. Set data_dir= or DATA_DIR.")
        for name, given in {"num_classes": num_classes, "image_size": image_size}.items():
            if given is not None and dataset != "embedded":
                raise UserError(f"{name} must be left out for {dataset}, which has its own; got {given}.")
        self.dataset, self.data_dir, self.batch_size = dataset, data_dir, batch_size
        self.retrain_batch_size = retrain_batch_size
        self.wanted_classes = 10 if num_classes is None else num_classes
        self.image_size = 32 if image_size is None else image_size
        if self.wanted_classes < 2:
            raise UserError(f"num_classes must be at least 2; got {num_classes}.")
        if self.image_size < 4 or self.image_size % 4:
            raise UserError(
                f"image_size must be a multiple of 4, since two cells halve the map; got {self.image_size}."
            )
        self.train_images, self.test_images, self.val_images = train_images, test_images, val_images
        self.crop_padding, self.cutout, self.download = crop_padding, cutout, download
        self.eval_batch_size, self.seed = eval_batch_size, seed
        self.mean, self.std = channel_statistics(dataset)
        self.search_epochs = 0
        """Epochs of search, after which come those of retraining; set by the module."""
        self.has_retraining = True
        """Whether there are any; set by the module."""
        self._opened: SmallSet | None = None
        self._halves: tuple[ImageSet, ImageSet] | None = None
        self._loaders: dict[str, ResumableLoader] = {}

    def open(self) -> None:
        """Find, check and load the images, and halve the training images, each class in proportion.

        The halves are the same whatever the seed, so that all norms and seeds see the same images.

        Raises:
            ValueError: If they are not there, not as they should be, or fewer than asked for.
        """
        if self.dataset == "embedded":
            found = open_embedded(
                num_classes=self.wanted_classes, image_size=self.image_size, train_images=self.train_images,
                test_images=self.test_images,
            )  # fmt: skip
        else:
            assert self.data_dir is not None
            found = open_cifar10(
                self.data_dir, download=self.download, train_images=self.train_images, test_images=self.test_images
            )
        num_images = len(found.train)
        if num_images % 2:
            raise UserError(f"train_images must be even, since a search halves them; got {num_images}.")
        if self.val_images is not None and not 1 <= self.val_images <= num_images // 2:
            raise UserError(
                f"val_images must be from 1 to half of the {num_images} training images; got {self.val_images}."
            )
        self._opened = found
        self._halves = found.train.split(num_images // 2, seed=SUBSET_SEED)

    @property
    def train(self) -> ImageSet:
        """All training images, once open."""
        assert self._opened is not None, "open() comes first"
        return self._opened.train

    @property
    def test(self) -> ImageSet:
        """The test images, once open."""
        assert self._opened is not None, "open() comes first"
        return self._opened.test

    @property
    def weight_images(self) -> ImageSet:
        """The half on which a search trains the weights, once open."""
        assert self._halves is not None, "open() comes first"
        return self._halves[0]

    @property
    def alpha_images(self) -> ImageSet:
        """The half on which a search trains the architecture, once open."""
        assert self._halves is not None, "open() comes first"
        return self._halves[1]

    @property
    def validated_images(self) -> ImageSet:
        """The images of the architecture's half on which a search is validated."""
        half = self.alpha_images
        return half if self.val_images is None else half.subset(self.val_images, seed=SUBSET_SEED)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.test.classes)

    @property
    def tested_images(self) -> ImageSet:
        """What the run is tested on: the test images after retraining, else the architecture's half."""
        return self.test if self.has_retraining else self.alpha_images

    def _loader(self, images: ImageSet, *, batch_size: int, is_training: bool, seed: int | None = None) -> ArrayLoader:
        trainer = self.trainer
        assert trainer is not None
        ranks = trainer.world_size
        single_left = len(images) % batch_size == 1  # whose batch statistics would be those of one image
        return ArrayLoader(
            images, batch_size=batch_size, shuffle=is_training, seed=self.seed if seed is None else seed,
            rank=trainer.global_rank, world_size=ranks, drop_last=is_training and (ranks > 1 or single_left),
            device=trainer.strategy.root_device,
        )  # fmt: skip

    def _make(self, name: str) -> ResumableLoader:
        if name == "search":
            return SearchLoader(
                self._loader(self.weight_images, batch_size=self.batch_size, is_training=True),
                self._loader(
                    self.alpha_images, batch_size=self.batch_size, is_training=True,
                    seed=self.seed + ALPHA_SEED_OFFSET,
                ),
            )  # fmt: skip
        if name == "retrain":
            return self._loader(self.train, batch_size=self.retrain_batch_size, is_training=True)
        images = self.tested_images if name == "test" else self.validated_images
        return self._loader(images, batch_size=self.eval_batch_size, is_training=False)

    def _get(self, name: str) -> ResumableLoader:
        """Return a loader, made once, since Lightning asks for it again at every epoch."""
        if name not in self._loaders:
            self._loaders[name] = self._make(name)
        return self._loaders[name]

    @property
    def is_searching(self) -> bool:
        """Whether the trainer's present epoch is one of search."""
        assert self.trainer is not None
        return self.trainer.current_epoch < self.search_epochs

    def train_dataloader(self) -> ResumableLoader:
        """Return the batches of the present epoch: of both halves in a search, else of all training images."""
        return self._get("search" if self.is_searching else "retrain")

    def val_dataloader(self) -> ResumableLoader | list[ResumableLoader]:
        """Return the images on which a search is validated; none in retraining, which chooses nothing."""
        return self._get("val") if self.is_searching else []

    def test_dataloader(self) -> ResumableLoader:
        """Return what the run is tested on, each image once over all ranks."""
        return self._get("test")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
        """Augment training images, and normalise all, on the device."""
        assert self.trainer is not None
        if isinstance(batch, SearchBatch):
            return batch._replace(
                images=self._prepared(batch.images, batch.indices, with_cutout=False),
                alpha_images=self._prepared(batch.alpha_images, batch.alpha_indices, with_cutout=False),
            )
        return batch._replace(images=self._prepared(batch.images, batch.indices, with_cutout=self.cutout > 0))

    def _prepared(self, images: Tensor, indices: Tensor, *, with_cutout: bool) -> Tensor:
        trainer = self.trainer
        assert trainer is not None
        keys: dict[str, Any] = {"indices": indices, "seed": self.seed, "epoch": trainer.current_epoch}
        if trainer.training:
            images = random_crop_flip(images, **keys, padding=self.crop_padding)
        dtype: torch.dtype = trainer.lightning_module.dtype  # type: ignore[assignment]
        images = normalise(images, mean=self.mean, std=self.std, dtype=dtype)
        return cutout(images, length=self.cutout, **keys) if trainer.training and with_cutout else images

    def describe(self) -> dict[str, Any]:
        """Return the record's dataset entry."""
        assert self._opened is not None, "open() comes first"
        subsets = self._opened.subsets
        notes = ["procedural images"] if self.dataset == "embedded" else list(subsets)
        checksums = "".join(images.checksum() for images in (self.train, self.test))
        return {
            "name": self.dataset, "train": len(self.train), "test": len(self.test),
            "full": self.dataset == "cifar10" and not subsets, "resolution": self.test.resolution[0],
            "num_classes": self.num_classes, "checksum": "sha256:" + hashlib.sha256(checksums.encode()).hexdigest(),
            "note": ", ".join(notes),
        }  # fmt: skip

    def settings(self) -> dict[str, Scalar]:
        """Return the settings of the data that two runs of one table share."""
        return {
            "augmentation": f"random crop with padding {self.crop_padding}, flip",
            "cutout": f"{self.cutout} pixels" if self.has_retraining and self.cutout else "none",
        }

    def differences_from_paper(self, *, retraining: bool = True) -> list[str]:
        """Return in words how the data differ from the paper's: CIFAR-10, whole.

        Args:
            retraining: Whether what only retraining does to its images counts.
        """
        differences = []
        if not self.describe()["full"]:
            subsets = ", ".join(self._opened.subsets) if self._opened else ""
            name = "embedded images" if self.dataset == "embedded" else f"CIFAR-10 ({subsets})"
            differences.append(f"{name}, not the whole of CIFAR-10")
        if self.crop_padding != protocol.CROP_PADDING:
            differences.append(f"crop padding {self.crop_padding}, not {protocol.CROP_PADDING}")
        if retraining and self.cutout != protocol.CUTOUT:
            differences.append(f"cutout {self.cutout}, not {protocol.CUTOUT}")
        return differences
