"""The images of one split before they are stored: files to decode, or an array to turn around."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray
from PIL import Image

from fewshot.miniimagenet.protocol import Listing
from shared.data.folder import decode_image
from shared.data.folder_memory import square_pixels

_BLOCK_BYTES = 4 << 20  # so that a second copy of a split is never made


@dataclass(frozen=True)
class SplitImages(ABC):
    """The images of one split, sorted by class, then by name.

    Args:
        listing: Classes and counts.
    """

    listing: Listing

    @abstractmethod
    def square(self, position: int, image_size: int) -> UInt8[ndarray, "3 S S"]:
        """Return one image as the central square of ``image_size`` pixels.

        Args:
            position: The image's number in the split.
            image_size: Side S in pixels.
        """

    def blocks(self, image_size: int) -> Iterator[UInt8[ndarray, "B 3 S S"]]:
        """Yield all images in order, in blocks of some megabytes.

        Args:
            image_size: Side S in pixels; an image that already is a square of this size keeps its pixels.
        """
        step = max(1, _BLOCK_BYTES // (3 * image_size**2))
        for start in range(0, self.listing.num_images, step):
            stop = min(start + step, self.listing.num_images)
            block = np.empty((stop - start, 3, image_size, image_size), np.uint8)
            for position in range(start, stop):
                block[position - start] = self.square(position, image_size)
            yield block


@dataclass(frozen=True)
class ImageFiles(SplitImages):
    """Image files.

    Args:
        listing: Classes and counts.
        paths: One file per image, in order.
    """

    paths: tuple[Path, ...]

    def square(self, position: int, image_size: int) -> UInt8[ndarray, "3 S S"]:
        """Decode one file; see `SplitImages.square`.

        Args:
            position: The image's number in the split.
            image_size: Side S in pixels.

        Raises:
            UserError: The file is not a complete image.
        """
        return square_pixels(decode_image(self.paths[position]), image_size)

    @classmethod
    def sorted(cls, class_names: Sequence[str], paths: Sequence[Path]) -> "ImageFiles":
        """Put files in order.

        Args:
            class_names: Class of each file.
            paths: The files, in any order.
        """
        ordered = sorted(zip(class_names, paths), key=lambda entry: (entry[0], entry[1].name, str(entry[1])))
        return cls(Listing.of(list(class_names)), tuple(path for _, path in ordered))


@dataclass(frozen=True)
class ImageArray(SplitImages):
    """An array in memory, as pickles hold it.

    Args:
        listing: Classes and counts.
        pixels: uint8, shape (M, H, W, 3).
        order: Position in ``pixels`` of each image of the split.
    """

    pixels: UInt8[ndarray, "M H W 3"]
    order: Int64[ndarray, " N"]

    def square(self, position: int, image_size: int) -> UInt8[ndarray, "3 S S"]:
        """Turn one image around; see `SplitImages.square`.

        Args:
            position: The image's number in the split.
            image_size: Side S in pixels.
        """
        pixels = self.pixels[self.order[position]]
        if pixels.shape[:2] == (image_size, image_size):
            return pixels.transpose(2, 0, 1)
        return square_pixels(Image.fromarray(pixels), image_size)
