"""Two domains with the same classes: Office-31, any two folders, or embedded stand-ins."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared.data.augment import centre_crop, normalise, random_crop_flip
from shared.data.embedded import embedded_images
from shared.data.folder import IMAGENET_MEAN, IMAGENET_STD
from shared.data.loaders import ArrayLoader, Batch, ResumableLoader
from shared.data.random import epoch_permutation
from shared.data.sets import ImageSet
from shared.data.small import EMBEDDED_MEAN, EMBEDDED_STD
from shared.errors import UserError, choose
from shared.runs import Scalar
from shared.task import TaskData
from uda import protocol
from uda.domains import Dataset, check_domain, dataset_of, domain_folder
from uda.loaders import LoopImages
from uda.office31 import open_folder_pair, open_office31

EMBEDDED_LOOKS = {"amazon": "studio", "dslr": "photo", "webcam": "webcam"}
"""The embedded domain that stands in for each of Office-31."""
DATA_SEED = 0
"""Embedded images are drawn with this seed whatever the run's."""


class UdaData(TaskData):
    """The labelled source and the target, whose labels serve evaluation only, on the device that trains.

    Args:
        dataset: embedded (procedural images in three looks, nothing to download), office31, or folders (any two
            folders with one folder a class; taken by itself where source and target are folders).
        source: Labelled domain: amazon, dslr or webcam; or a folder, relative to data_dir where given.
        target: The other domain, likewise.
        transfer: Both by the paper's letters (ad, da, wa, aw, dw, wd) instead; None: source and target as given.
        data_dir: Folder with the real images; None for the embedded ones.
        batch_size: Source images of a cross-entropy batch.
        image_size: Side in pixels to which images are resized; None: 256, 36 for the embedded ones, and for folders
            8/7 of crop_size where that is given.
        crop_size: Side of the random window (in evaluation the central one) that the network sees; None: 7/8 of
            image_size.
        embedded_classes: Classes of the embedded domains.
        embedded_images: Images a class of the embedded source and of the embedded target.
        classes_per_step: Classes of a class-aware batch.
        images_per_class: Images a class and domain of a class-aware batch.
        check: Whether Office-31 must have its 31 classes and published numbers of images.
        cache_dir: Where decoded images are kept; None: NORM_SUITE_CACHE, else the user's cache folder.
        download: No domain is downloaded; true is refused.
        eval_batch_size: Images per step of clustering, validation and test.
        seed: Seed of order and augmentation.
    """

    def __init__(
        self,
        dataset: Dataset = "embedded",
        source: str = "dslr",
        target: str = "webcam",
        transfer: str | None = None,
        data_dir: Path | None = None,
        batch_size: int = protocol.BATCH_SIZE,
        image_size: int | None = None,
        crop_size: int | None = None,
        embedded_classes: int = 10,
        embedded_images: tuple[int, int] = (60, 40),
        classes_per_step: int = protocol.CLASSES_PER_STEP,
        images_per_class: int = protocol.IMAGES_PER_CLASS,
        check: bool = True,
        cache_dir: Path | None = None,
        download: bool = False,
        eval_batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__()
        base = data_dir or Path()
        if transfer is None:
            dataset = dataset_of(dataset, source=source, target=target, base=base)
        usual_size = 36 if dataset == "embedded" else protocol.IMAGE_SIZE
        if dataset == "folders" and crop_size is not None:
            usual_size = crop_size * protocol.IMAGE_SIZE // protocol.CROP_SIZE
        self.image_size = usual_size if image_size is None else image_size
        usual_crop = self.image_size * protocol.CROP_SIZE // protocol.IMAGE_SIZE
        self.crop_size = usual_crop if crop_size is None else crop_size
        numbers = {
            "batch_size": batch_size, "eval_batch_size": eval_batch_size, "classes_per_step": classes_per_step,
            "images_per_class": images_per_class, "image_size": self.image_size, "crop_size": self.crop_size,
        }  # fmt: skip
        for name, value in numbers.items():
            if value < 1:
                raise UserError(f"{name} must be at least 1; got {value}.")
        if self.crop_size > self.image_size:
            raise UserError(f"crop_size must be at most the image_size of {self.image_size}; got {self.crop_size}.")
        if download:
            raise UserError("download must be false: Office-31 has no official download. Give data_dir=.")
        if dataset == "office31" and data_dir is None:
            raise UserError("data_dir must name the folder with Office-31; got nothing. Set data_dir= or DATA_DIR.")
        if transfer is not None:
            choose("transfer", transfer, protocol.GROUPS)
            if dataset == "folders":
                raise UserError(f"transfer must be left out for folders; got {transfer}. Give source and target.")
            source, target = protocol.domains_of(transfer)
        if dataset != "folders":
            check_domain("source", source, base=base)
            check_domain("target", target, base=base)
        if source == target:
            raise UserError(f"source and target must be different domains; got {source} for both.")
        self.dataset, self.source_name, self.target_name = dataset, source, target
        self.data_dir, self.batch_size, self.check, self.cache_dir = data_dir, batch_size, check, cache_dir
        self.embedded_classes, self.embedded_images = embedded_classes, embedded_images
        self.classes_per_step, self.images_per_class = classes_per_step, images_per_class
        self.eval_batch_size, self.seed = eval_batch_size, seed
        is_embedded = dataset == "embedded"
        self.mean, self.std = (EMBEDDED_MEAN, EMBEDDED_STD) if is_embedded else (IMAGENET_MEAN, IMAGENET_STD)
        self._sets: tuple[ImageSet, ImageSet] | None = None

    def open(self) -> None:
        """Find, check and load both domains.

        Raises:
            ValueError: If a domain is not there or not as it should be, or the classes differ.
        """
        if self.dataset == "embedded":
            self._sets = self._draw_domains()
        elif self.dataset == "office31":
            assert self.data_dir is not None
            domains = open_office31(
                self.data_dir, domains=(self.source_name, self.target_name), image_size=self.image_size,
                cache_dir=self.cache_dir, check=self.check,
            )  # fmt: skip
            self._sets = (domains[self.source_name], domains[self.target_name])
        else:
            base = self.data_dir or Path()
            self._sets = open_folder_pair(
                domain_folder(base, self.source_name), domain_folder(base, self.target_name),
                image_size=self.image_size, cache_dir=self.cache_dir,
            )  # fmt: skip
        if len(self.source) < self.batch_size:
            raise UserError(f"batch_size must be at most the {len(self.source)} source images; got {self.batch_size}.")

    def _draw_domains(self) -> tuple[ImageSet, ImageSet]:
        def draw(name: str, images: int, split: str) -> ImageSet:
            return embedded_images(
                num_classes=self.embedded_classes, images_per_class=images, image_size=self.image_size,
                seed=DATA_SEED, split=split, domain=EMBEDDED_LOOKS[name],
            )  # fmt: skip

        of_source, of_target = self.embedded_images
        return draw(self.source_name, of_source, "train"), draw(self.target_name, of_target, "test")

    @property
    def source(self) -> ImageSet:
        """The labelled domain, once open."""
        assert self._sets is not None, "open() comes first"
        return self._sets[0]

    @property
    def target(self) -> ImageSet:
        """The other domain, once open."""
        assert self._sets is not None, "open() comes first"
        return self._sets[1]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.source.num_classes

    @property
    def transfer(self) -> str:
        """The paper's name of the pair; of folders "source-target" by their names, whatever these are."""
        if self.dataset == "folders":
            return f"{Path(self.source_name).name}-{Path(self.target_name).name}"
        return protocol.transfer_name(self.source_name, self.target_name)

    def in_order(self, images: ImageSet) -> ArrayLoader:
        """Return all images of a domain in their order.

        Args:
            images: The domain.
        """
        assert self.trainer is not None
        return ArrayLoader(
            images, batch_size=self.eval_batch_size, shuffle=False, seed=self.seed,
            device=self.trainer.strategy.root_device,
        )  # fmt: skip

    def train_dataloader(self) -> ResumableLoader:
        """Return the batches of the loop that the module stands before."""
        assert self.trainer is not None
        return self.trainer.lightning_module.training_loader()  # type: ignore[operator]

    def val_dataloader(self) -> ResumableLoader:
        """Return the target."""
        return self.in_order(self.target)

    def test_dataloader(self) -> ResumableLoader:
        """Return the target."""
        return self.in_order(self.target)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:  # noqa: ARG002
        """Leave the batch: images are made on the device, and labels of pairs belong on the CPU."""
        return batch

    def on_after_batch_transfer(self, batch: Batch | LoopImages, dataloader_idx: int) -> Batch | LoopImages:  # noqa: ARG002
        """Augment a training batch, take the central window of any other, and normalise."""
        trainer = self.trainer
        assert trainer is not None
        images = (
            self.augmented(batch.images, batch.indices, epoch=trainer.current_epoch, stream="train")
            if trainer.training
            else centre_crop(batch.images, self.crop_size)
        )
        return batch._replace(images=self.normalised(images, dtype=trainer.lightning_module.dtype))  # type: ignore[arg-type]

    def augmented(self, images: Tensor, indices: Tensor, *, epoch: int, stream: str) -> Tensor:
        """Cut a random window out of each image and mirror half of them.

        Args:
            images: uint8 pixels.
            indices: Key of each.
            epoch: Lightning's epoch.
            stream: "train", or "cluster" for the views that are clustered, which are others.
        """
        keys = indices.to(images.device) * 2 + (stream == "cluster")
        return random_crop_flip(images, indices=keys, seed=self.seed, epoch=epoch, padding=0, size=self.crop_size)

    def views(self, images: ImageSet, *, epoch: int, kind: str) -> Iterator[Tensor]:
        """Yield normalised views of all images of a domain, in their order.

        Args:
            images: The source or the target.
            epoch: Lightning's epoch.
            kind: "train" (random window and flip) or "eval" (central window).
        """
        assert self.trainer is not None
        dtype: torch.dtype = self.trainer.lightning_module.dtype  # type: ignore[assignment]
        offset = len(self.source) if images is self.target else 0
        for batch in self.in_order(images):
            pixels = (
                self.augmented(batch.images, batch.indices + offset, epoch=epoch, stream="cluster")
                if kind == "train"
                else centre_crop(batch.images, self.crop_size)
            )
            yield self.normalised(pixels, dtype=dtype)

    def mixed_views(self, images: ImageSet) -> Iterator[Tensor]:
        """Yield normalised central windows of all images of a domain, shuffled, in batches of nearly one size.

        In their own order images lie class by class, so that statistics of a batch would be those of a class.

        Args:
            images: The source or the target.
        """
        assert self.trainer is not None
        dtype: torch.dtype = self.trainer.lightning_module.dtype  # type: ignore[assignment]
        order = epoch_permutation(len(images), seed=self.seed, epoch=0)
        for part in order.tensor_split(-(-len(images) // self.eval_batch_size)):
            pixels = images.images[part.to(images.images.device)].to(self.trainer.strategy.root_device)
            yield self.normalised(centre_crop(pixels, self.crop_size), dtype=dtype)

    def normalised(self, images: Tensor, *, dtype: torch.dtype) -> Tensor:
        """Return pixels as the network takes them.

        Args:
            images: uint8 pixels.
            dtype: Of the result.
        """
        return normalise(images, mean=self.mean, std=self.std, dtype=dtype)

    def describe(self) -> dict[str, Any]:
        """Return the record's dataset entry."""
        special = {"embedded": ["procedural images"], "office31": [], "folders": ["folders of the user"]}[self.dataset]
        if self.image_size != protocol.IMAGE_SIZE:
            special = [*special, f"{self.image_size} px, windows of {self.crop_size}"]
        checksums = self.source.checksum() + self.target.checksum()
        is_whole = self.dataset == "office31" and self.check
        return {
            "name": self.dataset, "train": len(self.source), "test": len(self.target), "full": is_whole,
            "resolution": self.image_size, "num_classes": self.num_classes,
            "checksum": "sha256:" + hashlib.sha256(checksums.encode()).hexdigest(), "note": ", ".join(special),
        }  # fmt: skip

    def settings(self) -> dict[str, Scalar]:
        """Return the settings of the data that two runs of one table share."""
        return {
            "augmentation": f"random window of {self.crop_size} in {self.image_size} px, flip",
            "class-aware batch": f"{self.classes_per_step} classes, {self.images_per_class} images a domain",
        }

    def differences_from_paper(self) -> list[str]:
        """Return in words how the data differ from the paper's: Office-31, windows of 224 px."""
        differences = []
        if not self.describe()["full"]:
            names = {"embedded": "embedded images", "office31": "a part of Office-31", "folders": "other folders"}
            differences.append(f"{names[self.dataset]}, not Office-31")
        pairs = {
            "window": (f"{self.crop_size} px in {self.image_size}", f"{protocol.CROP_SIZE} in {protocol.IMAGE_SIZE}"),
            "classes a step": (self.classes_per_step, protocol.CLASSES_PER_STEP),
            "images a class": (self.images_per_class, protocol.IMAGES_PER_CLASS),
            "source batch": (self.batch_size, protocol.BATCH_SIZE),
        }
        differences += [f"{name} {ours}, not {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs]
        return differences
