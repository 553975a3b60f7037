"""The images of adversarial training: CIFAR-10 or embedded ones, some training images kept out."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from adversarial import protocol
from shared.data.augment import random_crop_flip
from shared.data.loaders import ArrayLoader, Batch, ResumableLoader
from shared.data.sets import ImageSet
from shared.data.small import SUBSET_SEED, SmallSet, channel_statistics, open_cifar10, open_embedded
from shared.errors import UserError
from shared.runs import Scalar
from shared.task import TaskData

HELD_OUT = 1000
CROP_PADDING = 4
"""Not stated; as usual on CIFAR-10."""


class AdversarialData(TaskData):
    """Training, held-out and test images as pixels in [0, 1], on the device that trains.

    Args:
        dataset: embedded (procedural images, nothing to download) or cifar10.
        data_dir: Folder with CIFAR-10; None for the embedded images.
        batch_size: Images per worker and step.
        num_classes: Classes of the embedded images; None: 10. CIFAR-10 has 10.
        image_size: Side of the embedded images in pixels; None: 32, as CIFAR-10's.
        train_images: Size of a class-balanced subset of the training images; None: all (embedded: 4,000).
        val_images: Training images that are kept out, to choose the best checkpoint.
        test_images: Size of a class-balanced subset of the test images; None: all (embedded: 2,000).
        crop_padding: Pixels of padding for the random crop.
        download: Whether torchvision downloads CIFAR-10 into data_dir.
        eval_batch_size: Images that are attacked at once in validation and test.
        seed: Seed of order and augmentation.
    """

    def __init__(
        self,
        dataset: Literal["embedded", "cifar10"] = "embedded",
        data_dir: Path | None = None,
        batch_size: int = protocol.BATCH_SIZE,
        num_classes: int | None = None,
        image_size: int | None = None,
        train_images: int | None = None,
        val_images: int = HELD_OUT,
        test_images: int | None = None,
        crop_padding: int = CROP_PADDING,
        download: bool = False,
        eval_batch_size: int = 250,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "val_images": val_images}
        for name, value in sizes.items():
            if value < 1:
                raise UserError(f"{name} must be at least 1; got {value}.")
        if dataset != "embedded" and data_dir is None:
            raise UserError(f"data_dir must name the folder with {dataset}; got nothing. Set data_dir= or DATA_DIR.")
        self.dataset, self.data_dir, self.batch_size = dataset, data_dir, batch_size
        for name, given in {"num_classes": num_classes, "image_size": image_size}.items():
            if given is not None and dataset != "embedded":
                raise UserError(f"{name} must be left out for {dataset}, which has its own; got {given}.")
        self.wanted_classes = 10 if num_classes is None else num_classes
        self.image_size = 32 if image_size is None else image_size
        if self.wanted_classes < 2:
            raise UserError(f"num_classes must be at least 2; got {num_classes}.")
        if self.image_size < 2:
            raise UserError(f"image_size must be at least 2 pixels; got {image_size}.")
        if not 0 <= crop_padding < self.image_size:
            raise UserError(
                f"crop_padding must be at least 0 and below the image's {self.image_size} pixels; got {crop_padding}."
            )
        self.train_images, self.val_images, self.test_images = train_images, val_images, test_images
        self.crop_padding, self.download = crop_padding, download
        self.eval_batch_size, self.seed = eval_batch_size, seed
        self.mean, self.std = channel_statistics(dataset)
        self._sets: tuple[ImageSet, ImageSet, SmallSet] | None = None

    def open(self) -> None:
        """Find, check and load the images, and keep some training images out.

        Raises:
            ValueError: If they are not there, not as they should be, or fewer than asked for.
        """
        train_images, test_images = self.train_images, self.test_images
        if self.dataset == "embedded":
            found = open_embedded(
                num_classes=self.wanted_classes, image_size=self.image_size, train_images=train_images,
                test_images=test_images,
            )  # fmt: skip
        else:
            assert self.data_dir is not None
            found = open_cifar10(
                self.data_dir, download=self.download, train_images=train_images, test_images=test_images
            )
        if self.val_images >= len(found.train):
            raise UserError(f"val_images must be below the {len(found.train)} training images; got {self.val_images}.")
        val, train = found.train.split(self.val_images, seed=SUBSET_SEED)
        self._sets = (train, val, found)

    @property
    def train(self) -> ImageSet:
        """The images that are trained on, once open."""
        assert self._sets is not None, "open() comes first"
        return self._sets[0]

    @property
    def val(self) -> ImageSet:
        """The training images that are kept out, once open."""
        assert self._sets is not None, "open() comes first"
        return self._sets[1]

    @property
    def test(self) -> ImageSet:
        """The test images, once open."""
        assert self._sets is not None, "open() comes first"
        return self._sets[2].test

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.test.classes)

    def _loader(self, images: ImageSet, *, is_training: bool) -> ResumableLoader:
        trainer = self.trainer
        assert trainer is not None
        return ArrayLoader(
            images, batch_size=self.batch_size if is_training else self.eval_batch_size, shuffle=is_training,
            seed=self.seed, rank=trainer.global_rank, world_size=trainer.world_size, drop_last=is_training,
            device=trainer.strategy.root_device,
        )  # fmt: skip

    def train_dataloader(self) -> ResumableLoader:
        """Return the training batches."""
        return self._loader(self.train, is_training=True)

    def val_dataloader(self) -> ResumableLoader:
        """Return the held-out images, each once over all ranks."""
        return self._loader(self.val, is_training=False)

    def test_dataloader(self) -> ResumableLoader:
        """Return the test images, each once over all ranks."""
        return self._loader(self.test, is_training=False)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:  # noqa: ARG002
        """Augment a training batch, and make pixels in [0, 1] of any batch, on the device."""
        trainer = self.trainer
        assert trainer is not None
        images: Tensor = batch.images
        if trainer.training:
            images = random_crop_flip(
                images, indices=batch.indices, seed=self.seed, epoch=trainer.current_epoch, padding=self.crop_padding
            )
        dtype: torch.dtype = trainer.lightning_module.dtype  # type: ignore[assignment]
        return batch._replace(images=images.to(dtype) / 255)

    def describe(self) -> dict[str, Any]:
        """Return the record's dataset entry."""
        assert self._sets is not None, "open() comes first"
        subsets = self._sets[2].subsets
        notes = ["procedural images"] if self.dataset == "embedded" else subsets
        notes = [*notes, f"{len(self.val):,} training images kept out to choose a checkpoint"]
        checksums = "".join(images.checksum() for images in (self.train, self.val, self.test))
        return {
            "name": self.dataset, "train": len(self.train), "val": len(self.val), "test": len(self.test),
            "full": self.dataset == "cifar10" and not subsets, "resolution": self.test.resolution[0],
            "num_classes": self.num_classes, "checksum": "sha256:" + hashlib.sha256(checksums.encode()).hexdigest(),
            "note": ", ".join(notes),
        }  # fmt: skip

    def settings(self) -> dict[str, Scalar]:
        """Return the settings of the data that two runs of one table share."""
        return {
            "augmentation": f"random crop with padding {self.crop_padding}, flip",
            "held-out images": self.val_images,
        }

    def differences_from_paper(self) -> list[str]:
        """Return in words how the data differ from the paper's: CIFAR-10, whole."""
        differences = []
        if not self.describe()["full"]:
            subsets = ", ".join(self._sets[2].subsets) if self._sets else ""
            name = "embedded images" if self.dataset == "embedded" else f"CIFAR-10 ({subsets})"
            differences.append(f"{name}, not the whole of CIFAR-10")
        elif self.val_images > HELD_OUT:
            differences.append(f"{self.val_images:,} training images kept out, not {HELD_OUT:,}")
        if self.crop_padding != CROP_PADDING:
            differences.append(f"crop padding {self.crop_padding}, not {CROP_PADDING}")
        return differences
