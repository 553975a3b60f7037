"""Any two folders with the same classes."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def open_pair(tmp_path):
    from uda.office31 import open_folder_pair

    def open_it(source, target, *, image_size=4):
        return open_folder_pair(source, target, image_size=image_size, cache_dir=tmp_path / "cache")

    return open_it


@pytest.fixture
def draw(tmp_path):
    """A function that writes images of the given classes and returns the folder and the pixels in order."""

    def write(name, counts):
        generator = np.random.default_rng(len(name))
        drawn = {}
        for class_name, count in counts.items():
            (tmp_path / name / class_name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / class_name / f"{9 - number}.png")
                drawn[class_name, f"{9 - number}.png"] = pixels.transpose(2, 0, 1)
        return tmp_path / name, np.stack([drawn[key] for key in sorted(drawn)])

    return write


def test_both_are_read_in_order(open_pair, draw):
    source_dir, source_pixels = draw("photos", {"zebra": 2, "Cat": 1, "a dog": 3})
    target_dir, target_pixels = draw("drawings", {"a dog": 1, "zebra": 2, "Cat": 2})
    (source_dir / "a dog" / "._9.png").write_bytes(b"x")
    (source_dir / "readme.txt").write_text("x")
    source, target = open_pair(source_dir, target_dir)
    assert (source.name, target.name) == ("photos[4 px]", "drawings[4 px]")
    assert source.classes == target.classes == ("Cat", "a dog", "zebra")
    assert source.labels.tolist() == [0, 1, 1, 1, 2, 2]
    assert target.labels.tolist() == [0, 0, 1, 2, 2]
    assert np.array_equal(source.images.numpy(), source_pixels)
    assert np.array_equal(target.images.numpy(), target_pixels)


def test_names_are_taken_as_they_are(open_pair, draw):
    """The spellings of Office-31 are its own: elsewhere backpack and back_pack may be two classes."""
    source, _ = open_pair(
        draw("a", {"backpack": 1, "back_pack": 1})[0], draw("bb", {"backpack": 1, "back_pack": 1})[0]
    )
    assert source.classes == ("back_pack", "backpack")


def test_domains_of_office31_are_a_pair(open_pair, write, open_small, few):
    root = write("CAN", of=few)
    source, target = open_pair(root / "dslr", root / "webcam")
    found = open_small(root, check=False)
    assert np.array_equal(source.images.numpy(), found["dslr"].images.numpy())
    assert np.array_equal(target.images.numpy(), found["webcam"].images.numpy())


@pytest.mark.parametrize(
    ("source", "target", "wanted"),
    [
        (["mug", "pen"], ["mug"], "pen only in source_dir {source}"),
        (["mug"], ["mug", "pen"], "pen only in target_dir {target}"),
        (["a", "b", "c", "d", "e", "z"], ["u", "v", "w", "x", "z"],
         "a, b, c and 2 more only in source_dir {source}; u, v, w and 1 more only in target_dir {target}"),
        (["Mug"], ["mug"], "Mug only in source_dir {source}; mug only in target_dir {target}"),
    ],
)  # fmt: skip
def test_other_classes(source, target, wanted, open_pair, draw, message_of):
    source_dir, _ = draw("photos", dict.fromkeys(source, 1))
    target_dir, _ = draw("drawings", dict.fromkeys(target, 1))
    assert message_of(source_dir, target_dir, opener=open_pair) == (
        f"source_dir and target_dir must have class folders of the same names; got "
        f"{wanted.format(source=source_dir, target=target_dir)}. Copy the missing folders, or rename or remove the "
        "others."
    )


def test_the_same_folder_twice(open_pair, draw, message_of, tmp_path):
    folder, _ = draw("photos", {"mug": 1})
    (tmp_path / "link").symlink_to(folder)
    for other in (folder, tmp_path / "link", folder / ".." / "photos"):
        assert message_of(folder, other, opener=open_pair) == (
            f"source_dir and target_dir must be different folders; got {folder} for both. Give two domains."
        )


def test_an_empty_class(open_pair, draw, message_of):
    source_dir, _ = draw("photos", {"mug": 1, "pen": 1})
    target_dir, _ = draw("drawings", {"mug": 1, "pen": 0})
    assert message_of(source_dir, target_dir, opener=open_pair) == (
        f"{target_dir / 'pen'} must hold images (.jpg, .jpeg, .png, .webp, .bmp, .ppm); got a folder that is empty. "
        "Add the images or remove the folder."
    )


def test_folders_that_are_none(open_pair, draw, message_of, tmp_path):
    folder, _ = draw("photos", {"mug": 1})
    wanted = "{} must be a folder that holds one folder per class; got {}. Give the folder above the class folders."
    gone, file = tmp_path / "gone", folder / "mug" / "9.png"
    assert message_of(gone, folder, opener=open_pair) == wanted.format("source_dir", f"{gone}, which does not exist")
    assert message_of(folder, file, opener=open_pair) == wanted.format("target_dir", f"{file}, which is a file")
    assert message_of(folder, folder / "mug", opener=open_pair) == (
        f"{folder / 'mug'} must hold one folder per class; got a folder that holds 9.png."
    )


def test_a_damaged_image_and_no_pixels(open_pair, draw, message_of):
    source_dir, _ = draw("photos", {"mug": 1})
    target_dir, _ = draw("drawings", {"mug": 1})
    assert message_of(source_dir, target_dir, opener=open_pair, image_size=0) == (
        "image_size must be at least 1 pixel; got 0."
    )
    (target_dir / "mug" / "9.png").write_bytes(b"<html>")
    message = message_of(source_dir, target_dir, opener=open_pair)
    assert message.startswith(f"{target_dir / 'mug' / '9.png'} must be a complete image; got: ")
