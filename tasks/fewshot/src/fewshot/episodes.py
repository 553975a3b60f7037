"""Episodes: which classes, which labelled images and which queries, the same for every norm and on every machine."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from shared.errors import UserError

TEST_SEED, VAL_SEED, JOINT_SEED = 0, 1, 2
"""Seeds of the draws, whatever the run's seed."""
SAMPLERS = ("auto", "learn2learn", "builtin")


@dataclass(frozen=True, eq=False)
class Episodes:
    """Episodes of a split.

    Args:
        indices: Image numbers, shape (episodes, ways, shots + queries); the first `shots` of a class are labelled.
        shots: Labelled images a class.
        sampler: What drew them.
    """

    indices: Tensor
    shots: int
    sampler: str

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def ways(self) -> int:
        """Classes of an episode."""
        return self.indices.shape[1]

    @property
    def num_queries(self) -> int:
        """Queries of an episode, over all its classes."""
        return self.ways * (self.indices.shape[2] - self.shots)

    def key(self, images: str) -> str:
        """Return the SHA-256 of the episodes on a set of images.

        Args:
            images: Checksum of the images.
        """
        digest = hashlib.sha256(f"{images}|{self.shots}|{tuple(self.indices.shape)}".encode())
        digest.update(self.indices.numpy().astype("<i8").tobytes())
        return f"sha256:{digest.hexdigest()}"


def check_request(labels: Int64[Tensor, " N"], *, ways: int, shots: int, queries: int, split: str) -> None:
    """Check that episodes can be drawn.

    Args:
        labels: Class of each image.
        ways: Classes of an episode.
        shots: Labelled images a class.
        queries: Queries a class.
        split: Name of the classes, for the message.

    Raises:
        UserError: If a number is too small, or too large for the split.
    """
    least = {"ways": (ways, 2), "shots": (shots, 1), "queries": (queries, 1)}
    for name, (value, smallest) in least.items():
        if value < smallest:
            raise UserError(f"{name} must be at least {smallest}; got {value}.")
    counts = torch.bincount(labels)
    if ways > len(counts):
        raise UserError(f"ways must be at most the {len(counts)} {split} classes; got {ways}.")
    smallest = int(counts.min())
    if shots + queries > smallest:
        raise UserError(
            f"shots + queries must be at most the {smallest} images of a {split} class; "
            f"got {shots} + {queries} = {shots + queries}. Ask for fewer shots or queries."
        )


def draw_episodes(
    labels: Int64[Tensor, " N"],
    *,
    ways: int,
    shots: int,
    queries: int,
    num_episodes: int,
    seed: int,
    sampler: str = "auto",
    cache_dir: Path | None = None,
) -> Episodes:
    """Draw episodes: classes without repeats, then images of each class without repeats, all equally likely.

    learn2learn and the built-in sampler make the same calls of Python's random generator, so they draw the same
    episodes; a test holds them to it.

    Args:
        labels: Class of each image.
        ways: Classes of an episode.
        shots: Labelled images a class.
        queries: Queries a class.
        num_episodes: Number of episodes.
        seed: Seed of the draw; global generators are not touched.
        sampler: learn2learn, builtin, or auto: learn2learn where it is installed.
        cache_dir: Where drawn episodes are kept, since importing learn2learn takes ten seconds; None: nowhere.

    Returns:
        The episodes.

    Raises:
        UserError: If learn2learn is asked for and not installed.
    """
    name = "builtin" if sampler == "builtin" or not _has_learn2learn() else "learn2learn"
    if sampler == "learn2learn" and name == "builtin":
        raise UserError("sampler must be builtin or auto where learn2learn is not installed; got 'learn2learn'.")
    key = f"{name}|{ways}|{shots}|{queries}|{num_episodes}|{seed}|".encode() + labels.numpy().tobytes()
    file = None if cache_dir is None else cache_dir / "episodes" / f"{hashlib.sha256(key).hexdigest()}.npy"
    shape = (num_episodes, ways, shots + queries)
    indices = None if file is None else _read(file, shape)
    if indices is None:
        draw = _draw_with_learn2learn if name == "learn2learn" else _draw_with_random
        try:
            drawn = draw(labels, ways=ways, images=shots + queries, num_episodes=num_episodes, seed=seed)
        except ImportError as error:  # installed, but not for this Python, or without what it needs
            if sampler == "learn2learn":
                raise UserError(
                    f"sampler must be builtin or auto where learn2learn does not work; got: {error}"
                ) from error
            request = {"ways": ways, "shots": shots, "queries": queries, "num_episodes": num_episodes, "seed": seed}
            return draw_episodes(labels, **request, sampler="builtin", cache_dir=cache_dir)
        indices = torch.tensor(drawn).view(shape)
        if file is not None:
            _write(file, indices)
    return Episodes(indices, shots, name)


def _has_learn2learn() -> bool:
    return importlib.util.find_spec("learn2learn") is not None


def draw_queries(num_images: int, *, queries: int, num_episodes: int, seed: int) -> Int64[Tensor, "episodes queries"]:
    """Draw images for each episode, without repeats within one.

    Args:
        num_images: Number of images to draw from.
        queries: Images of an episode.
        num_episodes: Number of episodes.
        seed: Seed of the draw.
    """
    generator = random.Random(seed)
    return torch.tensor([generator.sample(range(num_images), queries) for _ in range(num_episodes)])


def _images_by_class(labels: Tensor) -> dict[int, list[int]]:
    by_class: dict[int, list[int]] = {}
    for image, label in enumerate(labels.tolist()):
        by_class.setdefault(label, []).append(image)
    return by_class


def _draw_with_random(labels: Tensor, *, ways: int, images: int, num_episodes: int, seed: int) -> list[list[int]]:
    generator = random.Random(seed)
    by_class = _images_by_class(labels)
    classes = list(by_class)
    return [
        [image for label in generator.sample(classes, ways) for image in generator.sample(by_class[label], images)]
        for _ in range(num_episodes)
    ]


def _draw_with_learn2learn(labels: Tensor, *, ways: int, images: int, num_episodes: int, seed: int) -> list[list[int]]:
    with _python_generator_kept():
        with contextlib.redirect_stderr(io.StringIO()):  # gym's notice
            from learn2learn.data import MetaDataset, Taskset
            from learn2learn.data.transforms import FusedNWaysKShots
        # with the dictionary, learn2learn asks the dataset for no image
        dataset = MetaDataset(_LabelsOnly(len(labels)), indices_to_labels=dict(enumerate(labels.tolist())))
        tasks = Taskset(dataset, [FusedNWaysKShots(dataset, n=ways, k=images)], num_tasks=num_episodes)
        random.seed(seed)
        return [[image.index for image in tasks.sample_task_description()] for _ in range(num_episodes)]


class _LabelsOnly(torch.utils.data.Dataset):
    """A dataset of so many images and without any: learn2learn draws numbers only."""

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images

    def __len__(self) -> int:
        return self.num_images


@contextlib.contextmanager
def _python_generator_kept() -> Iterator[None]:
    """Put the state of Python's generator back: learn2learn draws from it, and so does its import.

    No other thread may draw meanwhile: a run opens its data before W&B starts its threads.
    """
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def _read(file: Path, shape: tuple[int, ...]) -> Tensor | None:
    try:
        indices = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return torch.from_numpy(indices) if indices.shape == shape and indices.dtype == np.int64 else None


def _write(file: Path, indices: Tensor) -> None:
    """Keep the episodes; where the folder cannot be written, they are drawn anew next time."""
    temporary = file.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as stream:
                np.save(stream, indices.numpy())
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
