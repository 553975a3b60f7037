"""The images of a classification run: embedded ones, CIFAR-10, or a folder in ImageNet's layout."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from shared.data.augment import normalise, random_crop_flip
from shared.data.folder import IMAGENET_MEAN, IMAGENET_STD, ImageFolder, open_image_folder
from shared.data.folder_loader import FolderLoader
from shared.data.folder_memory import load_into_memory
from shared.data.loaders import ArrayLoader, Batch, ResumableLoader
from shared.data.sets import ImageSet
from shared.data.small import SmallSet, channel_statistics, open_cifar10, open_embedded, take_subsets
from shared.errors import UserError
from shared.runs import Scalar
from shared.task import TaskData

IMAGENET_SIZES = (1000, 1_281_167, 50_000)
"""Classes, training images and test images."""


class ClassificationData(TaskData):
    """Training and test images, augmented in batches on the device that trains.

    Args:
        dataset: embedded (procedural images, nothing to download), cifar10, or imagefolder (train/ and val/ with one
            folder a class).
        data_dir: Folder with the real images; None for the embedded ones.
        batch_size: Images per worker and step; norm statistics are over these.
        image_size: Side in pixels; None: 32, and 224 for imagefolder.
        num_classes: Classes of the embedded images (None: 10), or that an imagefolder must have (None: any).
        train_images: Size of a class-balanced subset of the training images; None: all (embedded: 4,000).
        test_images: Size of a class-balanced subset of the test images; None: all (embedded: 2,000).
        in_memory: Whether an imagefolder is decoded once into memory, as central squares of image_size, and augmented
            by crop and flip; if not, it is streamed with RandomResizedCrop and flip, and tested on the central crop.
        crop_padding: Pixels of padding for the random crop of images in memory.
        download: Whether torchvision downloads CIFAR-10 into data_dir.
        num_workers: Processes that decode streamed images.
        eval_batch_size: Test images per step.
        seed: Seed of order and augmentation.
    """

    def __init__(
        self,
        dataset: Literal["embedded", "cifar10", "imagefolder"] = "embedded",
        data_dir: Path | None = None,
        batch_size: int = 16,
        image_size: int | None = None,
        num_classes: int | None = None,
        train_images: int | None = None,
        test_images: int | None = None,
        in_memory: bool = False,
        crop_padding: int = 4,
        download: bool = False,
        num_workers: int = 2,
        eval_batch_size: int = 250,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in {"batch_size": batch_size, "eval_batch_size": eval_batch_size}.items():
            if value < 1:
                raise UserError(f"{name} must be at least 1; got {value}.")
        for name, size in {"image_size": image_size, "num_classes": num_classes}.items():
            if size is not None and dataset == "cifar10":
                raise UserError(f"{name} must be left out for cifar10, which has its own; got {size}.")
            if size is not None and size < 2:
                raise UserError(f"{name} must be at least 2; got {size}.")
        if in_memory and dataset != "imagefolder":
            raise UserError(f"in_memory must be left out for {dataset}, which is in memory anyway; got true.")
        if download and dataset != "cifar10":
            raise UserError(f"download must be false for {dataset}: CIFAR-10 alone can be downloaded; got true.")
        if num_workers < 0:
            raise UserError(f"num_workers must be at least 0; got {num_workers}.")
        if dataset != "embedded" and data_dir is None:
            raise UserError(
                f"data_dir must name the folder with the images of {dataset}; got nothing. Set data_dir= or DATA_DIR."
            )
        self.dataset = dataset
        self.data_dir = data_dir
        self.batch_size = batch_size
        default_size = 224 if dataset == "imagefolder" else 32
        self.image_size = default_size if image_size is None else image_size
        if not 0 <= crop_padding < self.image_size:
            raise UserError(
                f"crop_padding must be at least 0 and below the image's {self.image_size} pixels; got {crop_padding}."
            )
        self.wanted_classes = num_classes
        self.train_images = train_images
        self.test_images = test_images
        self.in_memory = in_memory
        self.crop_padding = crop_padding
        self.download = download
        self.num_workers = num_workers
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        is_folder = dataset == "imagefolder"
        self.mean, self.std = (IMAGENET_MEAN, IMAGENET_STD) if is_folder else channel_statistics(dataset)
        self.splits: tuple[ImageSet, ImageSet] | tuple[ImageFolder, ImageFolder] | None = None
        self.full_sizes: dict[str, int] = {}

    @property
    def is_streamed(self) -> bool:
        """Whether images are decoded anew each epoch."""
        return self.dataset == "imagefolder" and not self.in_memory

    def open(self) -> None:
        """Find, check and load the images.

        Raises:
            ValueError: If they are not there, not as they should be, or fewer than asked for.
        """
        if self.is_streamed:
            if self.train_images is not None or self.test_images is not None:
                raise UserError(
                    "train_images and test_images must be left out for a streamed imagefolder; "
                    "set in_memory=true for a subset."
                )
            assert self.data_dir is not None
            self.splits = open_image_folder(self.data_dir, num_classes=self.wanted_classes)
        else:
            found = self._open_in_memory()
            self.splits, self.full_sizes = (found.train, found.test), found.full_sizes

    def _open_in_memory(self) -> SmallSet:
        sizes = {"train_images": self.train_images, "test_images": self.test_images}
        if self.dataset == "embedded":
            return open_embedded(num_classes=self.wanted_classes or 10, image_size=self.image_size, **sizes)
        assert self.data_dir is not None
        if self.dataset == "cifar10":
            return open_cifar10(self.data_dir, download=self.download, **sizes)
        folders = open_image_folder(self.data_dir, num_classes=self.wanted_classes, image_size=self.image_size)
        train, test = (load_into_memory(folder, self.image_size) for folder in folders)
        return take_subsets(train, test, **sizes)

    @property
    def train(self) -> ImageSet | ImageFolder:
        """The training images, once open."""
        assert self.splits is not None, "open() comes first"
        return self.splits[0]

    @property
    def test(self) -> ImageSet | ImageFolder:
        """The test images, once open."""
        assert self.splits is not None, "open() comes first"
        return self.splits[1]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.test.classes)

    @property
    def num_test_images(self) -> int:
        """Number of test images."""
        return len(self.test)

    def _loader(self, images: ImageSet | ImageFolder, *, is_training: bool) -> ResumableLoader:
        trainer = self.trainer
        assert trainer is not None
        workers: int = trainer.lightning_module.virtual_workers  # type: ignore[assignment]
        settings: dict[str, Any] = {
            "batch_size": self.batch_size * workers if is_training else self.eval_batch_size,
            "seed": self.seed,
            "rank": trainer.global_rank,
            "world_size": trainer.world_size,
            "drop_last": is_training,
        }
        if isinstance(images, ImageFolder):
            return FolderLoader(
                images, image_size=self.image_size, train=is_training, num_workers=self.num_workers,
                pin_memory=trainer.strategy.root_device.type == "cuda", **settings,
            )  # fmt: skip
        return ArrayLoader(images, shuffle=is_training, device=trainer.strategy.root_device, **settings)

    def train_dataloader(self) -> ResumableLoader:
        """Return the training batches: batch_size × virtual_workers images each."""
        return self._loader(self.train, is_training=True)

    def val_dataloader(self) -> ResumableLoader:
        """Return the test images, each exactly once over all ranks."""
        return self._loader(self.test, is_training=False)

    def test_dataloader(self) -> ResumableLoader:
        """Return the test images, each exactly once over all ranks."""
        return self._loader(self.test, is_training=False)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:  # noqa: ARG002
        """Augment a training batch (streamed ones are augmented already) and normalise any batch, on the device."""
        trainer = self.trainer
        assert trainer is not None
        images: Tensor = batch.images
        if trainer.training and not self.is_streamed:
            images = random_crop_flip(
                images, indices=batch.indices, seed=self.seed, epoch=trainer.current_epoch, padding=self.crop_padding
            )
        dtype: torch.dtype = trainer.lightning_module.dtype  # type: ignore[assignment]
        return batch._replace(images=normalise(images, mean=self.mean, std=self.std, dtype=dtype))

    def describe(self) -> dict[str, Any]:
        """Return the record's dataset entry."""
        sizes = {"train": len(self.train), "test": len(self.test)}
        subsets = [f"{sizes[s]:,} of {n:,} {s} images" for s, n in self.full_sizes.items() if sizes[s] != n]
        name = f"imagefolder-{self.num_classes}" if self.dataset == "imagefolder" else self.dataset
        is_full = self.dataset == "cifar10" and not subsets
        note = "procedural images" if self.dataset == "embedded" else ", ".join(subsets)
        if self.dataset == "imagefolder" and self.in_memory:
            note = ", ".join([f"squares of {self.image_size} px", *subsets])
        return {
            "name": name, **sizes, "full": is_full, "resolution": self.image_size, "num_classes": self.num_classes,
            "checksum": "sha256:" + self.checksum(), "note": note,
        }  # fmt: skip

    def checksum(self) -> str:
        """Return a hash over both splits (of a streamed folder: over its listing)."""
        return hashlib.sha256((self.train.checksum() + self.test.checksum()).encode()).hexdigest()

    def settings(self) -> dict[str, Scalar]:
        """Return the settings of the data that two runs of one table share."""
        crop = "random resized crop" if self.is_streamed else f"random crop with padding {self.crop_padding}"
        return {"augmentation": f"{crop}, flip", "image size": self.image_size}

    def differences_from_paper(self) -> list[str]:
        """Return in words how the data differ from the paper's: ImageNet, whole, at 224 px."""
        is_imagenet = self.is_streamed and (self.num_classes, len(self.train), len(self.test)) == IMAGENET_SIZES
        differences = []
        if not is_imagenet:
            data = self.describe()
            differences.append(f"{data['name']}" + (f" ({data['note']})" if data["note"] else "") + ", not ImageNet")
        if self.image_size != 224:
            differences.append(f"{self.image_size} px, not 224")
        return differences
