"""A layout found on disk: which files it consists of, and how each split is read from them."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fewshot.miniimagenet.images import ImageFiles, SplitImages
from fewshot.miniimagenet.protocol import Listing
from shared.errors import UserError


@dataclass(frozen=True)
class Source(ABC):
    """A complete set of files in one of the layouts.

    Args:
        layout: Name of the layout.
        root: Folder that holds the files.
    """

    layout: str
    root: Path

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The splits that there are: base, val and novel, and base_test with some layouts."""

    @property
    @abstractmethod
    def listings(self) -> Mapping[str, Listing]:
        """What is known of the splits before they are read."""

    @abstractmethod
    def files(self) -> Iterable[Path]:
        """Return every file that the images or labels come from."""

    @abstractmethod
    def read(self, split: str) -> SplitImages:
        """Return the images of one split.

        Args:
            split: One of `splits`.

        Raises:
            UserError: A file is damaged or does not hold what it must.
        """

    def fingerprint(self) -> str:
        """Return the SHA-256 over layout, and name, size and time of change of every file.

        Raises:
            UserError: A file is absent.
        """
        digest = hashlib.sha256(self.layout.encode())
        for path in self.files():
            name = path.relative_to(self.root) if path.is_relative_to(self.root) else path
            try:
                facts = path.stat()
            except OSError as error:
                raise UserError(f"{path} must be a file that can be read; got: {error.strerror}.") from error
            digest.update(f"\0{name}\0{facts.st_size}\0{facts.st_mtime_ns}".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class FileSource(Source):
    """A layout whose images are files of their own, listed when it is opened.

    Args:
        layout: Name of the layout.
        root: Folder that holds the files.
        images: The files of each split.
        lists: Files that say what belongs where.
    """

    images: Mapping[str, ImageFiles]
    lists: tuple[Path, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are."""
        return tuple(self.images)

    @property
    def listings(self) -> Mapping[str, Listing]:
        """Every split is known."""
        return {split: images.listing for split, images in self.images.items()}

    def files(self) -> Iterable[Path]:
        """Return the lists and every image file."""
        yield from self.lists
        for images in self.images.values():
            yield from images.paths

    def read(self, split: str) -> SplitImages:
        """Return the files of one split; they are decoded as their blocks are drawn.

        Args:
            split: One of `splits`.
        """
        return self.images[split]
