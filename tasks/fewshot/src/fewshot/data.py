"""The images and the episodes of a few-shot run: base classes to train on, classes to validate and to test on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fewshot import protocol
from fewshot.episodes import (
    JOINT_SEED,
    SAMPLERS,
    TEST_SEED,
    VAL_SEED,
    Episodes,
    check_request,
    draw_episodes,
    draw_queries,
)
from fewshot.loaders import BaseLoader
from fewshot.miniimagenet import open_miniimagenet
from shared.data.augment import normalise, random_crop_flip
from shared.data.cache import cache_directory
from shared.data.embedded import embedded_images
from shared.data.loaders import ArrayLoader, Batch, ResumableLoader
from shared.data.random import epoch_permutation
from shared.data.sets import ImageSet
from shared.errors import UserError, choose
from shared.runs import Scalar
from shared.task import TaskData

EMBEDDED_CLASSES = {"base": 32, "validation": 16, "novel": 20}
EMBEDDED_IMAGES = {"base": 100, "validation": 60, "novel": 60}
EMBEDDED_MEAN, EMBEDDED_STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
DATA_SEED = 0
"""Embedded images and held-out images are drawn with this seed whatever the run's."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The opened images.

    Args:
        base: Images of the base classes.
        members: Numbers of those that are trained on.
        val: Images of the validation classes.
        novel: Images of the test classes.
        base_test: Images of the base classes that are not trained on; None where there are none.
    """

    base: ImageSet
    members: Tensor
    val: ImageSet
    novel: ImageSet
    base_test: ImageSet | None


class FewshotData(TaskData):
    """Base, validation and novel classes, and the episodes on the latter two.

    Args:
        dataset: embedded (procedural images, nothing to download) or miniimagenet (any of six layouts).
        data_dir: Folder with miniImageNet; None for the embedded images.
        batch_size: Images per worker and step.
        image_size: Side in pixels; None: 84, and 32 for the embedded images.
        images_per_class: Images that each class of miniImageNet must have; 600 for the whole set.
        iterations_per_epoch: None: an epoch is a pass over the base images; 1000: what the published code calls one.
        ways: Classes of an episode.
        shots: Labelled images a class: one number, or several, each of which is tested.
        queries: Queries a class.
        episodes: Test episodes for each number of shots.
        val_episodes: 1-shot episodes of the validation classes that choose the checkpoint.
        joint_images: Images of each base class that are kept out of training, to score base and novel classes
            together; 0: not scored, unless the layout brings such images of its own.
        crop_padding: Pixels of padding for the random crop; None: 8 at 84 pixels, in proportion elsewhere.
        padding_mode: zeros (black), or reflect.
        sampler: What draws the episodes: learn2learn, builtin, or auto (learn2learn where it is installed); both draw
            the same ones.
        embedded_classes: Base, validation and novel classes of the embedded images.
        embedded_images: Images of each such class.
        cache_dir: Folder for decoded images and drawn episodes; None: NORM_SUITE_CACHE, else the user's cache folder.
        download: Must be false: no working public link is known.
        eval_batch_size: Images per step of feature extraction.
        seed: Seed of order and augmentation.
    """

    def __init__(
        self,
        dataset: Literal["embedded", "miniimagenet"] = "embedded",
        data_dir: Path | None = None,
        batch_size: int = protocol.BATCH_SIZE,
        image_size: int | None = None,
        images_per_class: int = 600,
        iterations_per_epoch: int | None = None,
        ways: int = protocol.WAYS,
        shots: int | Sequence[int] = protocol.SHOTS,
        queries: int = protocol.QUERIES,
        episodes: int = protocol.EPISODES,
        val_episodes: int = protocol.VAL_EPISODES,
        joint_images: int = 0,
        crop_padding: int | None = None,
        padding_mode: Literal["zeros", "reflect"] = "zeros",
        sampler: Literal["auto", "learn2learn", "builtin"] = "auto",
        embedded_classes: Sequence[int] = tuple(EMBEDDED_CLASSES.values()),
        embedded_images: Sequence[int] = tuple(EMBEDDED_IMAGES.values()),
        cache_dir: Path | None = None,
        download: bool = False,
        eval_batch_size: int = 250,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.shots = tuple(sorted({shots} if isinstance(shots, int) else set(shots)))
        positive = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "images_per_class": images_per_class}
        positive |= {} if iterations_per_epoch is None else {"iterations_per_epoch": iterations_per_epoch}
        for name, value in positive.items():
            if value < 1:
                raise UserError(f"{name} must be at least 1; got {value}.")
        if not self.shots:
            raise UserError("shots must be one number or several; got none.")
        for name, sizes in {"embedded_classes": embedded_classes, "embedded_images": embedded_images}.items():
            if len(sizes) != 3:
                raise UserError(f"{name} must be three numbers, for base, validation and novel; got {list(sizes)}.")
        if dataset == "miniimagenet" and data_dir is None:
            raise UserError("data_dir must name the folder with miniImageNet; got nothing. Set data_dir= or DATA_DIR.")
        if download:
            raise UserError(
                "download must be false: no public link to miniImageNet is known to last; got true. "
                "Get one of the layouts that the task's README names, and set data_dir=."
            )
        choose("sampler", sampler, SAMPLERS)
        self.dataset, self.data_dir, self.batch_size = dataset, data_dir, batch_size
        default_size = protocol.IMAGE_SIZE if dataset == "miniimagenet" else 32
        self.image_size = default_size if image_size is None else image_size
        if self.image_size < 16:
            raise UserError(f"image_size must be at least 16 pixels, for four poolings; got {self.image_size}.")
        self.images_per_class, self.iterations_per_epoch = images_per_class, iterations_per_epoch
        self.ways, self.queries, self.num_episodes, self.num_val_episodes = ways, queries, episodes, val_episodes
        self.joint_images = joint_images
        self.crop_padding = protocol.crop_padding(self.image_size) if crop_padding is None else crop_padding
        if not 0 <= self.crop_padding < self.image_size:
            raise UserError(
                f"crop_padding must be at least 0 and below the image's {self.image_size} pixels; "
                f"got {self.crop_padding}."
            )
        self.padding_mode, self.sampler = padding_mode, sampler
        self.embedded_classes, self.embedded_images = tuple(embedded_classes), tuple(embedded_images)
        self.cache_dir, self.eval_batch_size, self.seed = cache_dir, eval_batch_size, seed
        self.mean, self.std = (EMBEDDED_MEAN, EMBEDDED_STD) if dataset == "embedded" else (protocol.MEAN, protocol.STD)
        self.layout = "embedded"
        self._splits: Splits | None = None

    def open(self) -> None:
        """Find, check and load the images, and draw the episodes.

        Raises:
            ValueError: If images are not there or not as they should be, or the episodes ask for more than there is.
        """
        splits, self._checksum = self._draw() if self.dataset == "embedded" else self._load()
        self._splits = splits
        ways = min(self.ways, splits.val.num_classes)
        for name, value in {"episodes": self.num_episodes, "val_episodes": self.num_val_episodes}.items():
            if value < 2:
                raise UserError(f"{name} must be at least 2, for an interval; got {value}.")
        for shots in self.shots:
            check_request(splits.novel.labels, ways=self.ways, shots=shots, queries=self.queries, split="novel")
        check_request(splits.val.labels, ways=ways, shots=1, queries=self.queries, split="validation")
        if splits.base_test is not None and len(splits.base_test) < self.ways * self.queries:
            raise UserError(
                f"joint_images must give at least ways × queries = {self.ways * self.queries} images over all base "
                f"classes; got {len(splits.base_test)}."
            )
        self.val_episodes = self._draw_episodes(
            splits.val, ways=ways, shots=1, episodes=self.num_val_episodes, seed=VAL_SEED
        )
        self.test_episodes = {
            shots: self._draw_episodes(
                splits.novel, ways=self.ways, shots=shots, episodes=self.num_episodes, seed=TEST_SEED
            )
            for shots in self.shots
        }
        self.joint_queries: Tensor | None = None
        if splits.base_test is not None:
            self.joint_queries = draw_queries(
                len(splits.base_test), queries=self.ways * self.queries, num_episodes=self.num_episodes,
                seed=JOINT_SEED,
            )  # fmt: skip

    def _draw_episodes(self, images: ImageSet, *, ways: int, shots: int, episodes: int, seed: int) -> Episodes:
        return draw_episodes(
            images.labels, ways=ways, shots=shots, queries=self.queries, num_episodes=episodes, seed=seed,
            sampler=self.sampler, cache_dir=cache_directory(self.cache_dir),
        )  # fmt: skip

    def _draw(self) -> tuple[Splits, str]:
        sets, first = [], 0
        for number, images in zip(self.embedded_classes, self.embedded_images):
            sets.append(self._embedded(number, images, first_class=first, split="train"))
            first += number
        base, val, novel = sets
        held_out = None
        if self.joint_images:
            held_out = self._embedded(base.num_classes, self.joint_images, first_class=0, split="test")
        checksum = hashlib.sha256("".join(images.checksum() for images in sets).encode()).hexdigest()
        members = torch.arange(len(base))
        return Splits(base=base, members=members, val=val, novel=novel, base_test=held_out), checksum

    def _embedded(self, num_classes: int, images: int, *, first_class: int, split: str) -> ImageSet:
        return embedded_images(
            num_classes=num_classes, images_per_class=images, image_size=self.image_size, seed=DATA_SEED, split=split,
            first_class=first_class,
        )  # fmt: skip

    def _load(self) -> tuple[Splits, str]:
        assert self.data_dir is not None
        found = open_miniimagenet(
            self.data_dir, image_size=self.image_size, images_per_class=self.images_per_class,
            cache_dir=self.cache_dir,
        )  # fmt: skip
        self.layout = found.layout
        members, held_out = torch.arange(len(found.base)), found.base_test
        if self.joint_images and held_out is None:
            members, kept_out = self._hold_out(found.base.labels)
            held_out = found.base.select(kept_out, name=f"{found.base.name}[held out]")
        splits = Splits(base=found.base, members=members, val=found.val, novel=found.novel, base_test=held_out)
        return splits, found.checksum

    def _hold_out(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers of the images to train on, and of `joint_images` of each class that are kept out."""
        smallest = int(torch.bincount(labels).min())
        if not 0 < self.joint_images < smallest:
            raise UserError(
                f"joint_images must leave each base class an image of its {smallest} to train on; "
                f"got {self.joint_images}."
            )
        order = epoch_permutation(len(labels), seed=DATA_SEED, epoch=0)
        by_class = order[torch.argsort(labels[order], stable=True)]
        parts = by_class.split(torch.bincount(labels).tolist())
        kept_out = torch.cat([part[: self.joint_images] for part in parts]).sort().values
        members = torch.cat([part[self.joint_images :] for part in parts]).sort().values
        return members, kept_out

    @property
    def splits(self) -> Splits:
        """The images, once open."""
        assert self._splits is not None, "open() comes first"
        return self._splits

    @property
    def num_classes(self) -> int:
        """Number of base classes."""
        return self.splits.base.num_classes

    def num_batches(self, world_size: int) -> int:
        """Return the training batches of an epoch on each process.

        Args:
            world_size: Number of processes.
        """
        return self.iterations_per_epoch or len(self.splits.members) // (self.batch_size * world_size)

    def _place(self) -> dict[str, Any]:
        trainer = self.trainer
        assert trainer is not None
        return {
            "rank": trainer.global_rank, "world_size": trainer.world_size, "device": trainer.strategy.root_device,
            "seed": self.seed,
        }  # fmt: skip

    def train_dataloader(self) -> ResumableLoader:
        """Return the batches of base images."""
        return BaseLoader(
            self.splits.base, members=self.splits.members, batch_size=self.batch_size,
            iterations=self.iterations_per_epoch, **self._place(),
        )  # fmt: skip

    def _eval_loader(self, images: ImageSet) -> ResumableLoader:
        return ArrayLoader(images, shuffle=False, batch_size=self.eval_batch_size, **self._place())

    def val_dataloader(self) -> ResumableLoader:
        """Return the images of the validation classes, each once over all ranks."""
        return self._eval_loader(self.splits.val)

    def test_dataloader(self) -> list[ResumableLoader]:
        """Return the images of the novel classes, and those of the base classes that were kept out, if any."""
        held_out = self.splits.base_test
        return [self._eval_loader(images) for images in (self.splits.novel, held_out) if images is not None]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:  # noqa: ARG002
        """Augment a training batch and normalise any batch, on the device."""
        trainer = self.trainer
        assert trainer is not None
        images: Tensor = batch.images
        if trainer.training:
            images = random_crop_flip(
                images, indices=batch.indices, seed=self.seed, epoch=trainer.current_epoch, padding=self.crop_padding,
                padding_mode=self.padding_mode,
            )  # fmt: skip
        dtype: torch.dtype = trainer.lightning_module.dtype  # type: ignore[assignment]
        return batch._replace(images=self.normalised(images, dtype=dtype))

    def normalised(self, images: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return uint8 images as the network takes them."""
        return normalise(images, mean=self.mean, std=self.std, dtype=dtype)

    def episodes_key(self, shots: int) -> str:
        """Return the SHA-256 of the test episodes on these images."""
        return self.test_episodes[shots].key(self._checksum)

    def describe(self) -> dict[str, Any]:
        """Return the record's dataset entry."""
        splits, is_full = self.splits, self.dataset == "miniimagenet" and self.images_per_class == 600
        held_out = len(splits.base) - len(splits.members)
        notes = ["procedural images"] if self.dataset == "embedded" else []
        if self.dataset == "miniimagenet" and not is_full:
            notes.append(f"{self.images_per_class} of 600 images a class")
        if self.dataset == "miniimagenet" and self.image_size != protocol.IMAGE_SIZE:
            notes.append(f"resized to {self.image_size} px")
        if held_out:
            notes.append(f"{held_out:,} base images kept out of training")
        return {
            "name": self.dataset, "train": len(splits.members), "val": len(splits.val), "test": len(splits.novel),
            "full": is_full, "resolution": self.image_size,
            "num_classes": splits.base.num_classes + splits.val.num_classes + splits.novel.num_classes,
            "checksum": "sha256:" + self._checksum, "note": ", ".join(notes), "layout": self.layout,
            "classes": [splits.base.num_classes, splits.val.num_classes, splits.novel.num_classes],
            "episode_sampler": self.val_episodes.sampler,
            "episodes": {str(shots): self.episodes_key(shots) for shots in self.shots},
        }  # fmt: skip

    def settings(self) -> dict[str, Scalar]:
        """Return the settings of the data that two runs of one table share."""
        length = f"{self.iterations_per_epoch} iterations" if self.iterations_per_epoch else "a pass over the data"
        return {
            "augmentation": f"random crop with padding {self.crop_padding} ({self.padding_mode}), flip",
            "image size": self.image_size,
            "epoch": length,
            "ways": self.ways,
            "queries": self.queries,
            "episodes": self.num_episodes,
            "shots": ", ".join(map(str, self.shots)),
            "base images held out": self.joint_images,
        }

    def differences_from_paper(self) -> list[str]:
        """Return in words how the data differ from the paper's: miniImageNet, whole, at 84 px."""
        differences = []
        facts = self.describe()
        if not facts["full"] or len(self.splits.members) != len(self.splits.base):
            name = "miniImageNet" if self.dataset == "miniimagenet" else "embedded images"
            differences.append(f"{name} ({facts['note']}), not the whole of miniImageNet")
        pairs = {
            "image size": (self.image_size, protocol.IMAGE_SIZE),
            "crop padding": (self.crop_padding, protocol.crop_padding(self.image_size)),
            "padding": (self.padding_mode, "zeros"),
            "episodes": (self.num_episodes, protocol.EPISODES),
        }
        differences += [f"{name} {ours}, not {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs]
        return differences
