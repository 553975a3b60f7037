"""Random resized crops: the boxes, drawn from keys, and their use on batches of small images.

The boxes follow torchvision's ``RandomResizedCrop``: an area share uniform on ``scale``, an aspect ratio
log-uniform on ``ratio``, ten tries to fit, then the largest central box of a permitted ratio.
"""

import math

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from shared.data.augment import flip_mask, flip_where
from shared.data.random import hash_uniform

_NUM_TRIES = 10
_RATIO = (3 / 4, 4 / 3)


def resized_crop_boxes(
    indices: Int64[Tensor, " N"],
    *,
    height: int,
    width: int,
    seed: int,
    epoch: int,
    scale: tuple[float, float] = (0.08, 1.0),
) -> Int64[Tensor, "N 4"]:
    """Draw one crop box per image.

    Args:
        indices: Each image's number in its set.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        seed: Seed of the run.
        epoch: Epoch number.
        scale: Least and greatest share of the image's area.

    Returns:
        Top, left, height and width of each box in pixels, inside the image.

    Raises:
        ValueError: ``scale`` is not increasing inside (0, 1].

    Source: Szegedy et al. 2015, "Going Deeper with Convolutions", section 6; details as in torchvision.
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"scale must be two increasing shares in (0, 1]; got {scale}.")
    tries = indices[:, None] * _NUM_TRIES + torch.arange(_NUM_TRIES, device=indices.device)

    def draw(counters: Tensor, name: str) -> Tensor:
        return hash_uniform(counters, seed=seed, epoch=epoch, stream=f"resized_crop_{name}").double()

    area = height * width * (scale[0] + (scale[1] - scale[0]) * draw(tries, "area"))
    low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
    ratio = torch.exp(low + (high - low) * draw(tries, "ratio"))
    box_width, box_height = torch.round(torch.sqrt(area * ratio)), torch.round(torch.sqrt(area / ratio))
    fits = (box_width > 0) & (box_width <= width) & (box_height > 0) & (box_height <= height)
    first = fits.int().argmax(dim=1, keepdim=True)  # of the fitting tries; the first try where none fits
    found = fits.any(dim=1)
    fallback_height, fallback_width = _central_box(height, width)
    box_height = torch.where(found, box_height.gather(1, first)[:, 0], fallback_height)
    box_width = torch.where(found, box_width.gather(1, first)[:, 0], fallback_width)
    top = torch.floor(draw(indices, "top") * (height - box_height + 1))
    left = torch.floor(draw(indices, "left") * (width - box_width + 1))
    top = torch.where(found, top, (height - fallback_height) // 2)
    left = torch.where(found, left, (width - fallback_width) // 2)
    return torch.stack([top, left, box_height, box_width], dim=1).long()


def random_resized_crop_flip(
    images: UInt8[Tensor, "N C H W"],
    *,
    indices: Int64[Tensor, " N"],
    seed: int,
    epoch: int,
    scale: tuple[float, float] = (0.08, 1.0),
) -> UInt8[Tensor, "N C H W"]:
    """Enlarge a random box of each image to the full size, and mirror with probability one half.

    Bilinear interpolation inside the box, with pixel centres at half-integers; a box is never larger than the
    image, so no anti-aliasing is needed.

    Args:
        images: A uint8 batch.
        indices: Each image's number in its set, on the device of the images.
        seed: Seed of the run.
        epoch: Epoch number.
        scale: Least and greatest share of the image's area.

    Returns:
        A new batch of the same size.

    Raises:
        ValueError: ``scale`` is not increasing inside (0, 1].
    """
    height, width = images.shape[-2:]
    boxes = resized_crop_boxes(indices, height=height, width=width, seed=seed, epoch=epoch, scale=scale)
    top, left, box_height, box_width = boxes.unbind(1)
    pixels = _interpolate(images.to(torch.float32), start=top, extent=box_height, dim=2)
    pixels = _interpolate(pixels, start=left, extent=box_width, dim=3)
    cropped = pixels.round().clamp(0, 255).to(torch.uint8)
    return flip_where(cropped, flip_mask(indices, seed=seed, epoch=epoch))


def _interpolate(pixels: Float[Tensor, "N C H W"], *, start: Tensor, extent: Tensor, dim: int) -> Tensor:
    """Resample ``[start, start + extent)`` of each image to the full length along one dimension."""
    length = pixels.shape[dim]
    centres = (torch.arange(length, device=pixels.device) + 0.5) * (extent[:, None] / length) - 0.5
    place = centres.clamp(min=0).minimum(extent[:, None] - 1.0)
    low = place.floor()
    high = (low + 1).minimum(extent[:, None] - 1.0)

    def spread(values: Tensor) -> Tensor:
        shape = [len(pixels), 1, 1, 1]
        shape[dim] = length
        return values.reshape(shape)

    def take(offsets: Tensor) -> Tensor:
        size = list(pixels.shape)
        size[dim] = length
        return pixels.gather(dim, spread(start[:, None] + offsets.long()).expand(size))

    return torch.lerp(take(low), take(high), spread(place - low).to(pixels.dtype))


def _central_box(height: int, width: int) -> tuple[int, int]:
    if width / height < _RATIO[0]:
        return round(width / _RATIO[0]), width
    if width / height > _RATIO[1]:
        return height, round(height * _RATIO[1])
    return height, width
