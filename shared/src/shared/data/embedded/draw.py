"""Drawing a set of images: classes, splits and domains."""

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray

from shared.data.embedded.draws import Draws
from shared.data.embedded.recipes import MAX_CLASSES, Recipe, class_recipe
from shared.data.embedded.scenes import DOMAINS, Domain, background, distractor, paint, photograph, smooth_noise, turn
from shared.data.embedded.shapes import arrange, shape_distance
from shared.data.embedded.textures import Place, hue_colour, related_colour, texture_share
from shared.data.sets import ImageSet

SPLITS = ("train", "val", "test")

_SMALLEST_IMAGE = 16
_PIXELS_AT_ONCE = 1 << 16  # so that the planes of a block stay in a processor's cache


def embedded_images(
    *,
    num_classes: int,
    images_per_class: int,
    image_size: int,
    seed: int,
    split: str,
    first_class: int = 0,
    domain: str = "photo",
) -> ImageSet:
    """Draw a labelled set of images.

    A class is a shape, a texture, a relation of two colours and an arrangement of copies (`Recipe`); place, size,
    angle, stretch, colours, light, clutter, blur and grain vary from image to image. Class c looks the same under
    every seed. Image i of a class does not depend on the other arguments' sizes: more classes or more images per
    class add images and change none.

    Args:
        num_classes: Number of classes.
        images_per_class: Images of each class.
        image_size: Side in pixels, at least 16.
        seed: Seed of the images, at least 0.
        split: ``"train"``, ``"val"`` or ``"test"``: disjoint draws of the same classes.
        first_class: Number of the first class; base and novel classes are ranges that do not overlap.
        domain: ``"photo"`` (cluttered, coloured background), ``"studio"`` (plain bright background, clear colours)
            or ``"webcam"`` (dim, blurred, noisy, with a colour cast).

    Returns:
        The set: image n is image ``n // num_classes`` of class ``n % num_classes``.

    Raises:
        ValueError: A number outside its range, or an unknown split or domain.
    """
    _check(num_classes, images_per_class, image_size, seed, split, first_class, domain)
    recipes = [class_recipe(first_class + number) for number in range(num_classes)]
    images = np.empty((images_per_class, num_classes, 3, image_size, image_size), np.uint8)
    for number, recipe in enumerate(recipes):
        key = (seed, SPLITS.index(split), list(DOMAINS).index(domain), first_class + number)
        for block in _blocks(images_per_class, image_size):
            images[block.start : block.stop, number] = _draw(
                recipe, DOMAINS[domain], Draws(block, key=key), image_size
            )
    return ImageSet(
        torch.from_numpy(images.reshape(-1, 3, image_size, image_size)),
        torch.arange(num_classes).repeat(images_per_class),
        tuple(recipe.name for recipe in recipes),
        f"embedded/{domain}/{split}[classes {first_class} to {first_class + num_classes - 1}, seed {seed}]",
    )


def _check(
    num_classes: int, images_per_class: int, image_size: int, seed: int, split: str, first_class: int, domain: str
) -> None:
    for name, value, least in (
        ("num_classes", num_classes, 1),
        ("images_per_class", images_per_class, 1),
        ("image_size", image_size, _SMALLEST_IMAGE),
        ("seed", seed, 0),
        ("first_class", first_class, 0),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}.")
    if first_class + num_classes > MAX_CLASSES:
        raise ValueError(
            f"first_class + num_classes must be at most {MAX_CLASSES}, the embedded classes; "
            f"got {first_class} + {num_classes}."
        )
    for name, choice, choices in (("split", split, SPLITS), ("domain", domain, tuple(DOMAINS))):
        if choice not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}; got {choice}.")


def _blocks(num_images: int, size: int) -> list[range]:
    step = max(1, _PIXELS_AT_ONCE // size**2)
    return [range(start, min(start + step, num_images)) for start in range(0, num_images, step)]


def _draw(recipe: Recipe, domain: Domain, draws: Draws, size: int) -> UInt8[ndarray, "N 3 H W"]:
    centres = ((np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / size) - 1).reshape(1, 1, -1)
    columns = np.broadcast_to(centres, (draws.num_images, size, size))
    rows = columns.transpose(0, 2, 1)
    pixel = 2 / size

    picture = background(draws, domain, size=size)
    num_behind = domain.num_distractors - domain.num_distractors // 2
    for _ in range(num_behind):
        paint(picture, *distractor(draws, columns, rows, edge=pixel))

    scale = draws.uniform(*domain.size)[:, None, None]
    x, y = columns - draws.uniform(-0.35, 0.35)[:, None, None], rows - draws.uniform(-0.35, 0.35)[:, None, None]
    x, y = turn(x, y, draws, most=domain.tilt)
    stretch = draws.uniform(0.8, 1.25)[:, None, None]
    x, y = x / scale * stretch, y / scale
    x, y, unit = arrange(recipe.arrangement, x, y)
    edge = pixel / (scale * unit)

    hue = draws.bell(recipe.hue, 0.15)
    saturation, value = draws.uniform(*domain.saturation), draws.uniform(*domain.value)
    first, second = hue_colour(hue, saturation, value), related_colour(recipe.relation, hue, saturation, value)
    blotches = smooth_noise(draws.lattice(8, 8), size)
    distance = shape_distance(recipe.shape, x, y)
    phase = draws.uniform(0, 1)[:, None, None]
    share = texture_share(recipe.texture, Place(x, y, distance, phase, blotches))
    cover = np.clip(0.5 - distance / edge, 0, 1)
    if recipe.arrangement == "nested":
        # a copy of 2/5 the size with the colours exchanged
        inner = np.clip(0.5 - shape_distance(recipe.shape, x / 0.4, y / 0.4) * 0.4 / edge, 0, 1)
        share = share + (1 - 2 * share) * inner
    paint(picture, first, cover)
    paint(picture, second, cover * share)

    for _ in range(domain.num_distractors - num_behind):
        paint(picture, *distractor(draws, columns, rows, edge=pixel))
    return photograph(picture, draws, domain)
