"""Classification: a training step beside torchvision's reference loop, and the loader beside torchvision's.

    python -m benchmarks.classification

The step: the default config under Lightning, with its loader, augmentation, logging and callbacks, beside the loop of
torchvision's references (`references/classification/train.py`, commit 017e9b99), written plainly, on the same network
and the same batches, which the loop gets ready made. Once more with the loader that the loop has in torchvision.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10

from benchmarks.beside import Beside, compare, fit_beside
from benchmarks.rows import Row, main, timed_row, version
from shared.catalog import default_data_dir
from shared.data.augment import normalise, random_crop_flip
from shared.data.cifar10 import FOLDER, MEAN, STD, load_cifar10
from shared.data.loaders import ArrayLoader
from shared.data.sets import ImageSet

BATCH_SIZE = 128
REFERENCE = "torchvision's loop, written plainly (references/classification, 017e9b99)"


class PlainLoop:
    """A step as in torchvision's `train_one_epoch`: also its accuracies and its meters.

    Args:
        network: The network.
        optimizer: Its optimiser.
        batches: Where batches come from; None: they are given.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterator[Any] | None) -> None:
        self.network, self.optimizer, self.batches = network.train(), optimizer, batches
        self.criterion = nn.CrossEntropyLoss()
        self.meters: dict[str, list[float]] = {"loss": [], "acc1": [], "acc5": [], "img/s": []}

    def step(self, given: Any) -> None:
        """Make a step on the given batch, or on the next of its own."""
        start = time.time()
        image, target = given[:2] if self.batches is None else next(self.batches)
        output = self.network(image)
        loss = self.criterion(output, target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        acc1, acc5 = accuracy(output, target)
        values = (loss.item(), acc1.item(), acc5.item(), len(image) / max(time.time() - start, 1e-9))
        for meter, value in zip(self.meters.values(), values):
            meter.append(value)


@torch.inference_mode()
def accuracy(output: Tensor, target: Tensor) -> list[Tensor]:
    """Return the accuracies among the first and the first five, in percent, as torchvision's `utils.accuracy`."""
    ranks = min(5, output.shape[1])
    _, predicted = output.topk(ranks, 1, True, True)
    correct = predicted.t().eq(target[None])
    return [correct[:k].flatten().sum(dtype=torch.float32) * (100.0 / len(target)) for k in (1, ranks)]


class MemoryCifar10(CIFAR10):
    """torchvision's CIFAR10 around images that are in memory already.

    Args:
        images: uint8 (N, 32, 32, 3).
        labels: Their classes.
        transform: What is done to each image.
    """

    def __init__(self, images: np.ndarray, labels: list[int], transform: Callable[[Image.Image], Tensor]) -> None:
        self.data, self.targets = images, labels
        self.transform, self.target_transform = transform, None


def torchvision_loader(images: ImageSet, *, batch_size: int, mean: Any = MEAN, std: Any = STD) -> DataLoader:
    """Return torch's DataLoader over torchvision's CIFAR10 with its usual transforms, in this process.

    Args:
        images: The images.
        batch_size: Images of a batch.
        mean: Of each channel; None: pixels stay in [0, 1].
        std: Of each channel.
    """
    steps = [
        transforms.RandomCrop(images.resolution[0], padding=4),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        *([] if mean is None else [transforms.Normalize(mean, std)]),
    ]
    arrays = images.images.permute(0, 2, 3, 1).contiguous().numpy()
    dataset = MemoryCifar10(arrays, images.labels.tolist(), transforms.Compose(steps))
    return DataLoader(dataset, batch_size=batch_size, shuffle=True, drop_last=True)


def endless(loader: DataLoader) -> Iterator[Any]:
    """Yield batches for ever."""
    while True:
        yield from loader


def cifar10_images(*, tiny: bool) -> tuple[ImageSet, str]:
    """Return CIFAR-10's training images where DATA_DIR has them, else random pixels of their size, and which."""
    folder = default_data_dir()
    if folder is not None and (Path(folder) / FOLDER).is_dir() and not tiny:
        return load_cifar10(folder)[0], "CIFAR-10's training images"
    number = 600 if tiny else 50_000
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (number, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.arange(number) % 10
    images = ImageSet(pixels, labels, tuple("0123456789"), "random")
    return images, "random pixels of CIFAR-10's size: DATA_DIR does not hold CIFAR-10"


def loader_row(*, pairs: int, tiny: bool) -> Row:
    """Measure images a second of both loaders, to normalised float32 batches."""
    images, source = cifar10_images(tiny=tiny)
    ours = ArrayLoader(images, batch_size=BATCH_SIZE, shuffle=True, seed=0, drop_last=True)
    theirs = torchvision_loader(images, batch_size=BATCH_SIZE)
    batches = 2 if tiny else 20

    def our_batches() -> None:
        for _, batch in zip(range(batches), ours):
            crops = random_crop_flip(batch.images, indices=batch.indices, seed=0, epoch=0)
            normalise(crops, mean=MEAN, std=STD)

    def their_batches() -> None:
        for _ in zip(range(batches), theirs):
            pass

    turns = compare(our_batches, their_batches, pairs=pairs, wanted=3)
    return timed_row(
        turns, rate_of=batches * BATCH_SIZE, task="classification",
        what=f"loader with crop, flip and normalisation, 32 px, batches of {BATCH_SIZE}, with the shuffle of an epoch",
        reference=f"CIFAR10 and transforms of {version('torchvision')} in torch's DataLoader, 0 workers",
        at_least=3, note=source,
    )  # fmt: skip


def step_row(*, pairs: int, tiny: bool, own_loader: bool) -> Row:
    """Measure a training step."""

    def begin(module: Any) -> Callable[[Any], object]:
        network = copy.deepcopy(module.network)
        rate, wd = module.trainer.optimizers[0].param_groups[0]["lr"], module.weight_decay
        optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=module.momentum, weight_decay=wd)
        data = module.trainer.datamodule
        size = data.batch_size * module.virtual_workers
        loader = torchvision_loader(data.train, batch_size=size, mean=data.mean, std=data.std)
        return PlainLoop(network, optimizer, endless(loader) if own_loader else None).step

    steps = 1 if tiny else 4
    beside = Beside(begin, steps=steps, pairs=pairs, wanted=1)
    config = "smoke" if tiny else "default"
    turns, run = fit_beside("classification", "--model.norm=bn", config=config, beside=beside)
    module: Any = run.module
    sizes = f"{module.backbone}, BN, {run.data.batch_size * module.virtual_workers} images of 32 px"
    how = "with its own DataLoader and transforms" if own_loader else "on our ready batches"
    return timed_row(
        turns, task="classification", what=f"training step, {config} config ({sizes}), loading and logging included",
        reference=f"{REFERENCE}, {how}", at_least=1,
        note="" if own_loader else "our time includes drawing and augmenting the batch, theirs does not",
    )  # fmt: skip


def measure(*, pairs: int = 9, tiny: bool = False) -> list[Row]:
    """Measure everything about classification."""
    return [
        step_row(pairs=pairs, tiny=tiny, own_loader=False),
        step_row(pairs=pairs, tiny=tiny, own_loader=True),
        loader_row(pairs=pairs, tiny=tiny),
    ]


if __name__ == "__main__":
    raise SystemExit(main(["benchmarks.classification"], name="classification"))
