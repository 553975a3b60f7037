"""Batches from a folder too large for memory: decoded, cropped and resized by worker processes."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from shared.data.augment import flip_mask
from shared.data.crops import resized_crop_boxes
from shared.data.folder import ImageFolder, decode_image
from shared.data.folder_memory import square_pixels
from shared.data.loaders import Batch, ResumableLoader
from shared.data.plan import BatchPlan


class _Key(NamedTuple):
    """One image to decode: everything that its pixels depend on besides the loader's settings."""

    epoch: int
    image: int
    valid: bool


class FolderLoader(ResumableLoader):
    """Batches from an `ImageFolder`, decoded anew each epoch.

    Training: a random box of 8 % to 100 % of the area, resized to ``image_size``, mirrored with probability one
    half. Evaluation: shorter side to ``image_size × 256 / 224``, central square. Bilinear, anti-aliased. The pixels
    depend on (seed, epoch, image) alone, not on the number of workers or the batch, and no global generator moves.

    Args:
        folder: The files.
        batch_size: Images per rank and batch.
        image_size: Side of the images in pixels.
        train: Whether to shuffle and augment.
        seed: Seed of order and augmentation.
        rank: This process's number.
        world_size: Number of processes; see `BatchPlan` for how they share the images.
        drop_last: Whether a short last global batch is left out.
        num_workers: Processes that decode, started anew for each pass. 0: this one does.
        pin_memory: Whether batches are put in page-locked memory, which speeds up copies to a GPU.

    Raises:
        ValueError: A number outside its range; as `BatchPlan`.
    """

    def __init__(
        self,
        folder: ImageFolder,
        *,
        batch_size: int,
        image_size: int,
        train: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        for name, value, least in (("image_size", image_size, 1), ("num_workers", num_workers, 0)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}; got {value}.")
        super().__init__(
            BatchPlan(
                num_images=len(folder),
                batch_size=batch_size,
                shuffle=train,
                seed=seed,
                rank=rank,
                world_size=world_size,
                drop_last=drop_last,
            )
        )
        self._keys = _KeyBatches(self.plan)
        self._loader = DataLoader(
            _Decoder(folder, image_size=image_size, train=train, seed=seed),
            batch_sampler=self._keys,
            num_workers=num_workers,
            collate_fn=_collate,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # else the workers' seed would be drawn from the global generator
        )

    def _draw(self, *, epoch: int, start: int) -> Iterator[Batch]:
        self._keys.epoch, self._keys.start = epoch, start
        yield from self._loader


class _KeyBatches(Sampler[list[_Key]]):
    """The keys of one epoch's batches from a given one on."""

    def __init__(self, plan: BatchPlan) -> None:
        self.plan = plan
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return len(self.plan) - self.start

    def __iter__(self) -> Iterator[list[_Key]]:
        epoch, order = self.epoch, self.plan.order(self.epoch)
        for number in range(self.start, len(self.plan)):
            indices, valid = self.plan.deal(order, batch=number)
            yield [_Key(epoch, image, counts) for image, counts in zip(indices.tolist(), valid.tolist())]


class _Decoder(Dataset[tuple[ndarray, int, int, bool]]):
    """From a key to pixels."""

    def __init__(self, folder: ImageFolder, *, image_size: int, train: bool, seed: int) -> None:
        self.folder = folder
        self.image_size = image_size
        self.train = train
        self.seed = seed

    def __getitem__(self, key: _Key) -> tuple[ndarray, int, int, bool]:
        image = decode_image(self.folder.root / self.folder.files[key.image])
        if self.train:
            pixels = self._augmented(image, key)
        else:
            pixels = square_pixels(image, self.image_size, short_side=round(self.image_size * 256 / 224))
        return pixels, int(self.folder.labels[key.image]), key.image, key.valid

    def _augmented(self, image: Image.Image, key: _Key) -> ndarray:
        index = torch.tensor([key.image])
        width, height = image.size
        box = resized_crop_boxes(index, height=height, width=width, seed=self.seed, epoch=key.epoch)
        top, left, box_height, box_width = box[0].tolist()
        image = image.crop((left, top, left + box_width, top + box_height))
        image = image.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)
        pixels = np.asarray(image).transpose(2, 0, 1)
        return pixels[:, :, ::-1] if flip_mask(index, seed=self.seed, epoch=key.epoch).item() else pixels


def _collate(items: list[tuple[ndarray, int, int, bool]]) -> Batch:
    pixels, labels, indices, valid = zip(*items)
    images: Tensor = torch.from_numpy(np.stack(pixels))
    return Batch(images, torch.tensor(labels), torch.tensor(indices), torch.tensor(valid))
