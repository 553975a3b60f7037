"""What is around the object, and what a camera makes of the scene: the three domains."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from shared.data.embedded.draws import Draws
from shared.data.embedded.shapes import Plane
from shared.data.embedded.textures import Colour, hue_colour

Picture = Float32[ndarray, "N 3 H W"]


@dataclass(frozen=True)
class Domain:
    """How scenes look and are photographed in one domain. Ranges are (low, high) of a uniform draw per image.

    Attributes:
        background_value: Brightness of the background.
        background_saturation: Saturation of the background.
        background_relief: Contrast of the background's blotches.
        saturation: Saturation of the object's first colour.
        value: Brightness of the object's first colour.
    size: Half the side of the object; the picture's is 1.
    tilt: Most that the object is turned: the tangent of half the angle, so 1 is a right angle to either side.
    num_distractors: Things beside or in front of the object.
        contrast: Contrast of the photograph.
        brightness: Brightness added to the photograph.
        cast: Strength of the colour cast.
        blur: Share of the fully blurred picture in the photograph.
        grain: Standard deviation of the noise in a channel.
    """

    background_value: tuple[float, float]
    background_saturation: tuple[float, float]
    background_relief: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]
    size: tuple[float, float]
    tilt: float
    num_distractors: int
    contrast: tuple[float, float]
    brightness: tuple[float, float]
    cast: tuple[float, float]
    blur: tuple[float, float]
    grain: tuple[float, float]


DOMAINS: dict[str, Domain] = {
    "photo": Domain(
        background_value=(0.15, 0.85),
        background_saturation=(0.1, 0.7),
        background_relief=(0.2, 0.8),
        saturation=(0.4, 1.0),
        value=(0.5, 1.0),
        size=(0.38, 0.8),
        tilt=0.35,
        num_distractors=3,
        contrast=(0.6, 1.1),
        brightness=(-0.15, 0.15),
        cast=(0.0, 0.15),
        blur=(0.0, 0.4),
        grain=(0.01, 0.05),
    ),
    "studio": Domain(
        background_value=(0.85, 1.0),
        background_saturation=(0.0, 0.05),
        background_relief=(0.0, 0.1),
        saturation=(0.1, 0.7),
        value=(0.7, 1.0),
        size=(0.42, 0.95),
        tilt=1.0,
        num_distractors=4,
        contrast=(0.9, 1.15),
        brightness=(-0.03, 0.06),
        cast=(0.0, 0.03),
        blur=(0.0, 0.5),
        grain=(0.0, 0.03),
    ),
    "webcam": Domain(
        background_value=(0.2, 0.7),
        background_saturation=(0.0, 0.4),
        background_relief=(0.1, 0.4),
        saturation=(0.3, 0.8),
        value=(0.5, 1.0),
        size=(0.38, 0.8),
        tilt=0.35,
        num_distractors=2,
        contrast=(0.45, 0.8),
        brightness=(-0.15, 0.1),
        cast=(0.1, 0.45),
        blur=(0.2, 0.9),
        grain=(0.01, 0.05),
    ),
}


def smooth_noise(lattice: Float32[ndarray, "... cells cells"], size: int) -> Float32[ndarray, "... size size"]:
    """Enlarge a lattice of numbers to a picture by bilinear interpolation with eased weights.

    Args:
        lattice: Values at the nodes, which span the picture from edge to edge.
        size: Side of the picture in pixels.
    """
    place = (np.arange(size, dtype=np.float32) + 0.5) * ((lattice.shape[-1] - 1) / size)
    low = np.floor(place).astype(np.int64)
    share = (place - low).astype(np.float32)
    share = share * share * (3 - 2 * share)
    rows = lattice[..., low, :] * (1 - share)[:, None] + lattice[..., low + 1, :] * share[:, None]
    return rows[..., low] * (1 - share) + rows[..., low + 1] * share


def paint(picture: Picture, colour: Colour | Picture, cover: Plane) -> None:
    """Lay a colour over a picture, in place.

    Args:
        picture: The picture.
        colour: One colour per image, or one per pixel.
        cover: Share of the colour at each pixel, in [0, 1].
    """
    over = colour[:, :, None, None] if colour.ndim == 2 else colour
    picture += (over - picture) * cover[:, None]


def background(draws: Draws, domain: Domain, *, size: int) -> Picture:
    """Draw the backgrounds: a colour, a slope of light and blotches of other colours.

    Args:
        draws: The images' numbers.
        domain: The domain.
        size: Side of the picture in pixels.
    """
    value = draws.uniform(*domain.background_value)
    colour = hue_colour(draws.uniform(0, 1), draws.uniform(*domain.background_saturation), value)
    relief = draws.uniform(*domain.background_relief)[:, None, None, None]
    coarse = smooth_noise(draws.lattice(3, 4, 4), size)
    fine = smooth_noise(draws.lattice(1, 9, 9), size)
    return colour[:, :, None, None] + relief * (0.7 * coarse + 0.5 * fine - 0.6)


def distractor(draws: Draws, x: Plane, y: Plane, *, edge: float) -> tuple[Colour, Plane]:
    """Draw one thing that says nothing of the class: a turned box, disc or something between.

    Args:
        draws: The images' numbers.
        x: Horizontal coordinate of each pixel, -1 to 1.
        y: Vertical coordinate.
        edge: Side of a pixel in these coordinates, for a soft edge.

    Returns:
        Its colour and its cover.
    """
    colour = hue_colour(draws.uniform(0, 1), draws.uniform(0, 1), draws.uniform(0.1, 1))
    x, y = turn(
        x - draws.uniform(-1.1, 1.1)[:, None, None], y - draws.uniform(-1.1, 1.1)[:, None, None], draws, most=1
    )
    x = x * draws.uniform(0.5, 1.5)[:, None, None]
    roundness = draws.uniform(0, 1)[:, None, None]
    box = np.maximum(np.abs(x), np.abs(y))
    distance = box + roundness * (np.sqrt(x * x + y * y) - box) - draws.uniform(0.08, 0.3)[:, None, None]
    return colour, np.clip(0.5 - distance / edge, 0, 1)


def turn(x: Plane, y: Plane, draws: Draws, *, most: float) -> tuple[Plane, Plane]:
    """Turn the plane by a random angle per image.

    ``cos = (1 - t²) / (1 + t²)``, ``sin = 2 t / (1 + t²)`` with t uniform: an angle of at most 2 atan(most).

    Args:
        x: Horizontal coordinate.
        y: Vertical coordinate.
        draws: The images' numbers.
        most: Largest t; 1 turns by up to a right angle to either side.
    """
    tangent = draws.uniform(-most, most)[:, None, None]
    square = tangent * tangent
    cosine, sine = (1 - square) / (1 + square), 2 * tangent / (1 + square)
    return cosine * x + sine * y, cosine * y - sine * x


def photograph(picture: Picture, draws: Draws, domain: Domain) -> UInt8[ndarray, "N 3 H W"]:
    """Turn a scene into pixels: blur, contrast, light, colour cast, grain, rounding.

    Args:
        picture: The scene, about in [0, 1].
        draws: The images' numbers.
        domain: The domain.
    """
    size = picture.shape[-1]
    blurred = picture
    for _ in range(max(1, size // 32)):
        blurred = _box_blur(blurred)
    picture = picture + draws.uniform(*domain.blur)[:, None, None, None] * (blurred - picture)
    contrast = draws.uniform(*domain.contrast)[:, None, None, None]
    picture = 0.5 + contrast * (picture - 0.5) + draws.uniform(*domain.brightness)[:, None, None, None]
    cast = hue_colour(draws.uniform(0, 1), draws.uniform(*domain.cast), np.ones(draws.num_images, np.float32))
    picture = picture * cast[:, :, None, None]
    # the sum of two bytes has mean 255 and standard deviation 104.5
    grain = draws.grain(3, size, size).astype(np.float32) + draws.grain(3, size, size) - 255
    picture = picture + grain * (draws.uniform(*domain.grain) / 104.5)[:, None, None, None]
    return np.clip(np.floor(picture * 255 + 0.5), 0, 255).astype(np.uint8)


def _box_blur(picture: Picture) -> Picture:
    padded = np.pad(picture, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    rows = (padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]) * np.float32(1 / 3)
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) * np.float32(1 / 3)
