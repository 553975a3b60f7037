"""Augmentation of whole batches of uint8 images, on the device where they are.

Every draw is keyed by (seed, epoch, image index, name of the draw), so an image is augmented in the same way
whatever batch, rank or worker it lands in, and torch's global generators are never touched.

Shapes: ``images`` is (N, C, H, W); ``indices`` (N,) holds each image's number in its set.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from torch import Tensor

from shared.data.random import hash_uniform

PADDING_MODES = ("zeros", "reflect")


def random_flip(
    images: Shaped[Tensor, "N C H W"], *, indices: Int64[Tensor, " N"], seed: int, epoch: int
) -> Shaped[Tensor, "N C H W"]:
    """Mirror each image left to right with probability one half.

    Args:
        images: A batch of any dtype.
        indices: Each image's number in its set, on the device of the images.
        seed: Seed of the run.
        epoch: Epoch number.

    Returns:
        A new batch of the same dtype.
    """
    return flip_where(images, flip_mask(indices, seed=seed, epoch=epoch))


def random_crop_flip(
    images: Shaped[Tensor, "N C H W"],
    *,
    indices: Int64[Tensor, " N"],
    seed: int,
    epoch: int,
    padding: int = 4,
    padding_mode: str = "zeros",
    size: int | None = None,
) -> Shaped[Tensor, "N C Y X"]:
    """Pad, crop a window at a uniform place, and mirror with probability one half.

    ``out[n, :, y, x] = padded[n, :, y + dy_n, x + dx_n]`` with dy uniform on ``{0 … H + 2 * padding - size}``, dx
    likewise.

    Args:
        images: A batch, before normalisation (the padding is black).
        indices: Each image's number in its set, on the device of the images.
        seed: Seed of the run.
        epoch: Epoch number.
        padding: Pixels added on each side.
        padding_mode: ``"zeros"``, or ``"reflect"``: the image mirrored at its border, without repeating it.
        size: Side of the window in pixels. None: a window of the old size.

    Returns:
        A new batch of the same dtype.

    Raises:
        ValueError: ``padding`` is negative, or not below the image's side where it reflects; an unknown mode; a window
            larger than the padded image.

    Source: He et al. 2016, "Deep Residual Learning", section 4.2 (padding 4 at 32 pixels).
    """
    if padding < 0:
        raise ValueError(f"padding must be at least 0 pixels; got {padding}.")
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {', '.join(PADDING_MODES)}; got {padding_mode!r}.")
    height, width = images.shape[-2:]
    if padding_mode == "reflect" and padding >= min(height, width):
        raise ValueError(f"padding must be below the side of {min(height, width)} pixels to reflect; got {padding}.")
    window = (height, width) if size is None else (size, size)
    places_y, places_x = height + 2 * padding - window[0] + 1, width + 2 * padding - window[1] + 1
    if min(*window, places_y, places_x) < 1:
        raise ValueError(
            f"size must be from 1 to the padded side of {min(height, width) + 2 * padding} pixels; got {size}."
        )
    offset_y = (hash_uniform(indices, seed=seed, epoch=epoch, stream="crop_y") * places_y).long()
    offset_x = (hash_uniform(indices, seed=seed, epoch=epoch, stream="crop_x") * places_x).long()
    if padding_mode == "reflect":
        rows, columns = (_reflected(size, padding, images.device) for size in (height, width))
        padded = images[:, :, rows][:, :, :, columns]
    else:
        padded = F.pad(images, (padding, padding, padding, padding))
    windows = padded.unfold(2, window[0], 1).unfold(3, window[1], 1)  # (N, C, places, places, H, W), a view
    cropped = windows[torch.arange(len(images), device=images.device), :, offset_y, offset_x]
    return flip_where(cropped, flip_mask(indices, seed=seed, epoch=epoch))


def centre_crop(images: Shaped[Tensor, "N C H W"], size: int) -> Shaped[Tensor, "N C size size"]:
    """Cut the central square out of each image.

    Args:
        images: A batch of any dtype.
        size: Side of the square in pixels.

    Raises:
        ValueError: The square is larger than the image, or smaller than a pixel.
    """
    height, width = images.shape[-2:]
    if not 1 <= size <= min(height, width):
        raise ValueError(f"size must be from 1 to the side of {min(height, width)} pixels; got {size}.")
    top, left = (height - size) // 2, (width - size) // 2
    return images[:, :, top : top + size, left : left + size]


def cutout(
    images: Shaped[Tensor, "N C H W"], *, length: int, indices: Int64[Tensor, " N"], seed: int, epoch: int
) -> Shaped[Tensor, "N C H W"]:
    """Set a square of ``length`` pixels around a uniform centre to zero; the border of the image cuts it off.

    Rows ``[cy - length // 2, cy + length // 2)``, clipped to the image, and columns likewise, with the centre
    (cy, cx) uniform over the pixels.

    Args:
        images: A batch; after `normalise`, zero is the mean colour, as in the source.
        length: Side of the square in pixels, at least 1.
        indices: Each image's number in its set, on the device of the images.
        seed: Seed of the run.
        epoch: Epoch number.

    Returns:
        A new batch of the same dtype.

    Raises:
        ValueError: ``length`` is below 1.

    Source: DeVries and Taylor 2017, "Improved Regularization of CNNs with Cutout"; as in DARTS' ``Cutout``.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1 pixel; got {length}.")
    height, width = images.shape[-2:]
    centre_y = (hash_uniform(indices, seed=seed, epoch=epoch, stream="cutout_y") * height).long()
    centre_x = (hash_uniform(indices, seed=seed, epoch=epoch, stream="cutout_x") * width).long()
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    half = length // 2
    in_rows = (rows >= centre_y[:, None] - half) & (rows < centre_y[:, None] + half)
    in_columns = (columns >= centre_x[:, None] - half) & (columns < centre_x[:, None] + half)
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0)


def normalise(
    images: UInt8[Tensor, "N C H W"],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "N C H W"]:
    """Scale uint8 pixels to [0, 1], then standardise each channel: ``(pixel / 255 - mean_c) / std_c``.

    Args:
        images: A uint8 batch.
        mean: Mean of each channel, on the scale [0, 1].
        std: Standard deviation of each channel, on the scale [0, 1], above 0.
        dtype: Floating dtype of the result.

    Returns:
        The standardised batch.

    Raises:
        TypeError: ``images`` is not uint8.
        ValueError: ``mean`` or ``std`` does not have one value per channel, or a ``std`` is not positive.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be a uint8 tensor; got {images.dtype}.")
    channels = images.shape[1]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(f"mean and std must have one value per channel ({channels}); got {mean} and {std}.")
    if min(std) <= 0:
        raise ValueError(f"std must be above 0; got {std}.")
    scale = torch.tensor([1 / (255 * value) for value in std], device=images.device).view(-1, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std)], device=images.device).view(-1, 1, 1)
    return torch.addcmul(shift, images.to(torch.float32), scale).to(dtype)


def flip_mask(indices: Int64[Tensor, " N"], *, seed: int, epoch: int) -> Bool[Tensor, " N"]:
    """Say which images are mirrored in an epoch.

    Args:
        indices: Each image's number in its set.
        seed: Seed of the run.
        epoch: Epoch number.
    """
    return hash_uniform(indices, seed=seed, epoch=epoch, stream="flip") < 0.5


def flip_where(images: Shaped[Tensor, "N C H W"], flipped: Bool[Tensor, " N"]) -> Shaped[Tensor, "N C H W"]:
    """Mirror some images left to right.

    Args:
        images: A batch of any dtype.
        flipped: Which to mirror.
    """
    return torch.where(flipped[:, None, None, None], images.flip(-1), images)


def _reflected(size: int, padding: int, device: torch.device) -> Int64[Tensor, " padded"]:
    """Return the positions 0 … size - 1 with `padding` mirrored ones on each side; torch pads no uint8 this way."""
    positions = torch.arange(-padding, size + padding, device=device).abs()
    return (size - 1) - ((size - 1) - positions).abs()
