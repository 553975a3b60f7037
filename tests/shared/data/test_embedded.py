"""Drawn images: pinned pixels, independence of sizes, distinct classes, difficulty, domains, messages."""

import colorsys
import hashlib
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from shared.data.embedded import DOMAINS, MAX_CLASSES, SPLITS, class_recipe, embedded_images
from shared.data.embedded.draws import Draws
from shared.data.embedded.recipes import ARRANGEMENTS, SHAPES, TEXTURES
from shared.data.embedded.scenes import smooth_noise, turn
from shared.data.embedded.shapes import arrange, shape_distance
from shared.data.embedded.textures import Place, hue_colour, texture_share

SMALL = {"num_classes": 4, "images_per_class": 3, "image_size": 24, "seed": 5, "split": "train"}


def images_of(**change) -> torch.Tensor:
    return embedded_images(**{**SMALL, **change}).images


@pytest.mark.parametrize(
    ("domain", "checksum"),
    [
        ("photo", "01f067d0220b03ef27d77ac8c4563b3ba9cd5c6849e37d8083414f5b299db51a"),
        ("studio", "b55e553e6680552f1c3b779354b052a8996b3df0a0b19ba641cf1cf51ea65fe6"),
        ("webcam", "ed253fdbc540f4469e63511439bec4eb28b6d157612fd465e690dcffaca560a3"),
    ],
)
def test_pixels_are_pinned(domain, checksum):
    image_set = embedded_images(
        num_classes=120, images_per_class=2, image_size=32, seed=0, split="train", domain=domain
    )
    assert image_set.checksum() == checksum


def test_pixels_are_the_same_without_vector_instructions():
    code = (
        "from numpy._core._multiarray_umath import __cpu_features__ as features, __cpu_dispatch__ as dispatch\n"
        "assert not any(features[name] for name in dispatch)\n"
        "from shared.data.embedded import embedded_images\n"
        "print(embedded_images(num_classes=60, images_per_class=1, image_size=32, seed=0, split='train').checksum())"
    )
    disabled = " ".join(name for name in __cpu_dispatch__ if __cpu_features__[name])
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": disabled}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    here = embedded_images(num_classes=60, images_per_class=1, image_size=32, seed=0, split="train")
    assert done.stdout.strip() == here.checksum()


def test_draws_are_raw_pcg64():
    draws = Draws(range(2, 5), key=(7, 1))
    words = np.random.PCG64(np.random.SeedSequence((7, 1, 0))).random_raw(5 * 96).reshape(5, 96)
    expected = [low + 3 * (int(word) >> 40) / 2**24 for low, word in zip([2, 2, 2], words[2:, 0], strict=True)]
    np.testing.assert_allclose(draws.uniform(2, 5), expected, rtol=1e-6)
    lattice = np.random.PCG64(np.random.SeedSequence((7, 1, 1))).random_raw(5 * 6).reshape(5, 2, 3)
    np.testing.assert_array_equal(draws.lattice(2, 3), (lattice[2:] >> np.uint64(40)) / 2**24)
    grain = np.random.PCG64(np.random.SeedSequence((7, 1, 2))).random_raw(5 * 2).reshape(5, 2)
    expected_bytes = [
        [(int(word) >> shift) & 255 for word in row for shift in range(0, 64, 8)][:9] for row in grain[2:]
    ]
    assert draws.grain(3, 3).reshape(3, 9).tolist() == expected_bytes


def test_more_classes_or_images_change_none():
    few = images_of().view(3, 4, 3, 24, 24)
    many = images_of(num_classes=6, images_per_class=150).view(150, 6, 3, 24, 24)
    assert torch.equal(many[:3, :4], few)
    later = images_of(num_classes=2, first_class=2).view(3, 2, 3, 24, 24)
    assert torch.equal(later, few[:, 2:])


def test_labels_and_names():
    image_set = embedded_images(**SMALL)
    assert image_set.labels.tolist() == [0, 1, 2, 3] * 3
    assert image_set.classes[1] == class_recipe(1).name
    assert image_set.name == "embedded/photo/train[classes 0 to 3, seed 5]"


def test_seeds_splits_domains_and_images_differ():
    sets = [images_of(), images_of(seed=6), *(images_of(split=split) for split in SPLITS[1:])]
    sets += [images_of(domain=domain) for domain in list(DOMAINS)[1:]]
    digests = {hashlib.sha256(image.numpy().tobytes()).hexdigest() for images in sets for image in images}
    assert len(digests) == 12 * len(sets)


def test_every_class_has_its_own_recipe():
    recipes = [class_recipe(number) for number in range(MAX_CLASSES)]
    assert len({recipe.name for recipe in recipes}) == MAX_CLASSES
    first = recipes[:100]
    assert {recipe.shape for recipe in first} == set(SHAPES)
    assert {recipe.texture for recipe in first} == set(TEXTURES)
    assert {recipe.arrangement for recipe in first} == set(ARRANGEMENTS)


def grid(size: int = 200) -> tuple[np.ndarray, np.ndarray]:
    line = (np.arange(size, dtype=np.float32) + 0.5) * (2.4 / size) - 1.2
    x = np.broadcast_to(line, (1, size, size))
    return x, x.transpose(0, 2, 1)


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("disc", math.pi * 0.85**2),
        ("square", 1.5**2),
        ("triangle", 3 * math.sqrt(3) * 0.5**2),
        # a pentagram of inner pentagon with apothem a: that pentagon and five isosceles triangles on its sides
        ("star", 0.33**2 * (5 * math.tan(math.pi / 5) + 5 * math.tan(math.pi / 5) ** 2 * math.tan(math.radians(72)))),
        ("ring", math.pi * (0.9**2 - 0.46**2)),
        ("cross", 4 * 0.95 * 2 * 0.28 - (2 * 0.28) ** 2),
    ],
)
def test_shapes_have_their_area(shape, area):
    x, y = grid(800)
    measured = float((shape_distance(shape, x, y) < 0).mean()) * 2.4**2
    assert measured == pytest.approx(area, rel=0.01)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_lie_in_the_unit_square_and_differ(shape):
    x, y = grid()
    inside = shape_distance(shape, x, y) < 0
    assert 0.08 < float(inside.mean()) < 0.6
    assert not inside[(np.abs(x) > 1.1) | (np.abs(y) > 1.1)].any()
    for other in SHAPES:
        overlap = (inside & (shape_distance(other, x, y) < 0)).sum() / (
            inside | (shape_distance(other, x, y) < 0)
        ).sum()
        assert overlap == 1 or other != shape
        assert overlap < 0.95 or other == shape


@pytest.mark.parametrize(("arrangement", "copies"), [("pair", 2), ("row", 3), ("grid", 4), ("wheel", 6)])
def test_arrangements_have_their_copies(arrangement, copies):
    x, y = grid(800)
    folded_x, folded_y, unit = arrange(arrangement, x, y)
    area = float((shape_distance("disc", folded_x, folded_y) < 0).mean()) * 2.4**2
    assert area == pytest.approx(copies * math.pi * (0.85 * unit) ** 2, rel=0.02)


def test_textures_differ_and_use_both_colours():
    x, y = (plane * np.float32(1.0) for plane in grid())
    phase = np.full((1, 1, 1), 0.2, np.float32)
    blotches = smooth_noise(Draws(range(1), key=(0,)).lattice(8, 8), x.shape[-1])
    place = Place(x, y, shape_distance("disc", x, y), phase, blotches)
    inside = place.distance < 0
    shares = {texture: texture_share(texture, place)[inside] for texture in TEXTURES}
    for texture, share in shares.items():
        assert 0.15 < float(share.mean()) < 0.85
        assert 0 <= float(share.min()) < 0.3 < 0.7 < float(share.max()) <= 1
        assert all(np.abs(share - other).mean() > 0.1 for name, other in shares.items() if name != texture)


def test_hue_colour_equals_colorsys():
    generator = np.random.default_rng(0)
    hue, saturation, value = (generator.random(200, dtype=np.float32) for _ in range(3))
    expected = [colorsys.hsv_to_rgb(*map(float, colour)) for colour in zip(hue, saturation, value, strict=True)]
    np.testing.assert_allclose(hue_colour(hue, saturation, value), expected, atol=2e-6)
    np.testing.assert_allclose(hue_colour(hue - 2, saturation, value), expected, atol=1e-5)


def test_turn_keeps_lengths():
    x, y = grid(16)
    x, y = (np.repeat(plane, 5, axis=0) for plane in (x, y))
    turned_x, turned_y = turn(x, y, Draws(range(5), key=(1,)), most=1)
    np.testing.assert_allclose(turned_x**2 + turned_y**2, x**2 + y**2, rtol=1e-5)


def test_no_pixel_statistic_gives_the_class_away():
    # nearest class mean on coarse pixels stays far below what a network reaches: place, colour and light vary
    make = {"num_classes": 10, "image_size": 32, "seed": 0}
    train = embedded_images(images_per_class=100, split="train", **make)
    test = embedded_images(images_per_class=40, split="test", **make)
    features = [torch.nn.functional.avg_pool2d(part.images.float(), 4).flatten(1) for part in (train, test)]
    means = torch.stack([features[0][train.labels == label].mean(0) for label in range(10)])
    accuracy = float((torch.cdist(features[1], means).argmin(1) == test.labels).float().mean())
    assert accuracy < 0.35


def test_domains_differ_in_their_pixels():
    facts = {}
    for domain in DOMAINS:
        images = images_of(domain=domain, images_per_class=40, image_size=32).double() / 255
        steps = (images[..., 1:] - images[..., :-1]).abs().mean()
        facts[domain] = (float(images.mean()), float(images.std((1, 2, 3)).mean()), float(steps))
    assert facts["studio"][0] > max(facts["photo"][0], facts["webcam"][0]) + 0.2
    assert facts["webcam"][1] < min(facts["photo"][1], facts["studio"][1]) - 0.03


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1; got 0."),
        ({"images_per_class": 0}, "images_per_class must be at least 1; got 0."),
        ({"image_size": 8}, "image_size must be at least 16; got 8."),
        ({"seed": -1}, "seed must be at least 0; got -1."),
        ({"first_class": -1}, "first_class must be at least 0; got -1."),
        (
            {"first_class": 2399},
            "first_class + num_classes must be at most 2400, the embedded classes; got 2399 + 4.",
        ),
        ({"split": "novel"}, "split must be one of train, val, test; got novel."),
        ({"domain": "sketch"}, "domain must be one of photo, studio, webcam; got sketch."),
    ],
)
def test_messages(change, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared below
        images_of(**change)
    assert str(caught.value) == message


def test_recipe_message():
    with pytest.raises(ValueError, match=r"^number must be in \[0, 2400\), the embedded classes; got 2400.$"):
        class_recipe(2400)
