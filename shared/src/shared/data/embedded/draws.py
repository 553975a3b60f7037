"""Seeded numbers for the drawn images: raw PCG64 output, whose stream NumPy never changes."""

import numpy as np
from jaxtyping import Float32, UInt8, UInt64
from numpy import ndarray

_NUM_COLUMNS = 96


class Draws:
    """The random numbers of some images of a class; image i's are the same whatever images are drawn with it.

    Args:
        images: Numbers of the images in their class.
        key: Whole numbers that name the set and the class; each key has its own numbers.
    """

    def __init__(self, images: range, *, key: tuple[int, ...]) -> None:
        self.num_images = len(images)
        self._first = images.start
        self._key = key
        self._column = 0
        self._stream = 0
        self._table = _uniform(self._raw(_NUM_COLUMNS))

    def uniform(self, low: float, high: float) -> Float32[ndarray, " N"]:
        """Return one uniform number in [low, high) per image.

        Args:
            low: Lower bound.
            high: Upper bound.
        """
        column = self._table[:, self._column]
        self._column += 1
        return low + (high - low) * column

    def bell(self, centre: float, spread: float) -> Float32[ndarray, " N"]:
        """Return one number per image near a centre: the sum of four uniform ones, scaled.

        Args:
            centre: Mean.
            spread: Standard deviation; no number is farther than 3.5 of them from the centre.
        """
        total = self.uniform(-1, 1) + self.uniform(-1, 1) + self.uniform(-1, 1) + self.uniform(-1, 1)
        return centre + spread * 0.8660254 * total

    def lattice(self, *shape: int) -> Float32[ndarray, "N ..."]:
        """Return an array of uniform numbers in [0, 1) per image.

        Args:
            shape: Shape of one image's array.
        """
        return _uniform(self._raw(int(np.prod(shape)))).reshape(self.num_images, *shape)

    def grain(self, *shape: int) -> UInt8[ndarray, "N ..."]:
        """Return an array of uniform bytes per image.

        Args:
            shape: Shape of one image's array.
        """
        size = int(np.prod(shape))
        words = self._raw(-(-size // 8)).astype("<u8", copy=False)
        return words.view(np.uint8)[:, :size].reshape(self.num_images, *shape)

    def _raw(self, words: int) -> UInt64[ndarray, "N words"]:
        """Return 64-bit words of the next stream: image i's begin at word ``i * words``."""
        generator = np.random.PCG64(np.random.SeedSequence((*self._key, self._stream)))
        generator.advance(self._first * words)
        self._stream += 1
        return generator.random_raw(self.num_images * words).reshape(self.num_images, words)


def _uniform(raw: UInt64[ndarray, "N words"]) -> Float32[ndarray, "N words"]:
    return (raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
