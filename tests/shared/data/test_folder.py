"""Image folders: listing, every message, decoding into memory, the cache."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from shared.data.folder import open_image_folder
from shared.data.folder_memory import load_into_memory, memory_bytes

GOOD = {"train/cat": 3, "train/dog": 2, "val/cat": 1, "val/dog": 2}


def message_of(call) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared by the caller
        call()
    return str(caught.value)


def test_lists_files_by_class_and_name(make_folder):
    root = make_folder(GOOD)
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    train, val = open_image_folder(root, num_classes=2, image_size=30)
    assert train.files == ("cat/000.jpg", "cat/001.jpg", "cat/002.jpg", "dog/000.jpg", "dog/001.jpg")
    assert train.labels.tolist() == [0, 0, 0, 1, 1]
    assert (train.classes, train.name, val.name) == (("cat", "dog"), "pictures/train", "pictures/val")
    facts = val.describe()
    assert facts["num_images"] == 3
    assert facts["checksum"].startswith("listing:")


def test_takes_test_in_place_of_val_and_prefers_val(make_folder):
    assert open_image_folder(make_folder({"train/a": 1, "test/a": 1}))[1].name == "pictures/test"
    assert open_image_folder(make_folder({"val/a": 1}))[1].name == "pictures/val"


def test_checksum_follows_the_listing(make_folder):
    root = make_folder(GOOD)
    before = open_image_folder(root)[0].checksum()
    assert open_image_folder(root)[0].checksum() == before
    (root / "train/dog/000.jpg").rename(root / "train/dog/007.jpg")
    assert open_image_folder(root)[0].checksum() != before


def test_message_for_another_data_set(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert message_of(lambda: open_image_folder(tmp_path)) == (
        f"data_dir must hold train/<class>/*.jpg and val/<class>/*.jpg (or test/…); got {tmp_path}, which holds "
        "cifar-10-batches-py. Give the folder above the splits."
    )


@pytest.mark.parametrize(
    ("prepare", "found"),
    [
        (lambda _: None, "does not exist"),
        (lambda path: path.mkdir(), "is empty"),
        (lambda path: path.write_text("x"), "is a file"),
        (lambda path: (path / "train" / "a").mkdir(parents=True), "holds train"),
        (lambda path: [(path / name).mkdir(parents=True) for name in "abcdefg"], "holds a, b, c, d, e and 2 more"),
    ],
)
def test_message_says_what_was_found(tmp_path, prepare, found):
    path = tmp_path / "given"
    prepare(path)
    assert f"got {path}, which {found}. Give" in message_of(lambda: open_image_folder(path))


def test_message_for_an_empty_split(make_folder):
    root = make_folder({"train/cat": 1})
    (root / "val").mkdir()
    assert message_of(lambda: open_image_folder(root)) == (
        f"{root / 'val'} must hold one folder per class; got a folder that is empty."
    )


def test_message_for_a_class_without_images(make_folder):
    root = make_folder({**GOOD, "train/emu": 0, "val/emu": 1})
    assert message_of(lambda: open_image_folder(root)) == (
        f"{root / 'train' / 'emu'} must hold images (.jpg, .jpeg, .png, .webp, .bmp, .ppm); got a folder that is "
        "empty. Add the images or remove the folder."
    )


def test_message_for_splits_that_differ(make_folder):
    root = make_folder({**GOOD, "train/emu": 1, **{f"val/x{number}": 1 for number in range(5)}})
    assert message_of(lambda: open_image_folder(root)) == (
        f"val must have the class folders of train; got emu only in train; x0, x1, x2 and 2 more only in val in "
        f"{root}. Copy the missing folders or remove the others."
    )


def test_message_for_a_wrong_number_of_classes(make_folder):
    root = make_folder(GOOD)
    assert message_of(lambda: open_image_folder(root, num_classes=1000)) == (
        f"data_dir must hold 1000 classes; got 2 in {root}. "
        "Give the complete set, or leave num_classes out for a subset."
    )


def test_message_for_small_images(make_folder):
    root = make_folder(GOOD)
    assert message_of(lambda: open_image_folder(root, image_size=224)) == (
        f"image_size must be at most the images' shorter side, 30 pixels in {root / 'train'}; got 224. "
        "Set image_size=30, or give larger images."
    )


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda _: b"no image"])
def test_message_for_a_damaged_file(make_folder, damage):
    root = make_folder(GOOD)
    path = root / "train/dog/001.jpg"
    path.write_bytes(damage(path.read_bytes()))
    train = open_image_folder(root)[0]
    message = message_of(lambda: load_into_memory(train, 16))
    assert message.startswith(f"{path} must be a complete image; got: ")
    assert message.endswith(". Copy the file again.")
    assert "\n" not in message


def test_memory_holds_resized_central_squares(make_folder):
    train = open_image_folder(make_folder(GOOD, size=(60, 40)))[0]
    image_set = load_into_memory(train, 20)
    assert image_set.describe()["resolution"] == [20, 20]
    assert memory_bytes(train, size=20) == image_set.images.numel()
    assert torch.equal(image_set.labels, train.labels)
    for position, file in enumerate(train.files):
        image = Image.open(train.root / file).convert("RGB").resize((30, 20), Image.Resampling.BILINEAR)
        expected = np.asarray(image)[:, 5:25].transpose(2, 0, 1)
        assert np.array_equal(image_set.images[position].numpy(), expected)


def test_images_of_the_right_size_are_not_resampled(make_folder):
    train = open_image_folder(make_folder(GOOD, size=(24, 24)))[0]
    image_set = load_into_memory(train, 24)
    expected = np.asarray(Image.open(train.root / train.files[2]).convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(image_set.images[2].numpy(), expected)


def test_cache_is_used_follows_the_content_and_heals(make_folder, tmp_path, caplog):
    root, cache = make_folder(GOOD), tmp_path / "cache"
    train = open_image_folder(root)[0]
    first = load_into_memory(train, 16, cache_dir=cache)
    (stored,) = cache.iterdir()
    # what is stored is what comes back: change it to see it used
    np.savez(stored, images=255 - first.images.numpy())
    assert torch.equal(load_into_memory(train, 16, cache_dir=cache).images, 255 - first.images)
    stored.write_bytes(stored.read_bytes()[:200])
    with caplog.at_level(logging.WARNING):
        assert torch.equal(load_into_memory(train, 16, cache_dir=cache).images, first.images)
    assert "is damaged" in caplog.text
    assert torch.equal(load_into_memory(train, 16, cache_dir=cache).images, first.images)
    load_into_memory(train, 12, cache_dir=cache)
    Image.new("RGB", (40, 30), (9, 9, 9)).save(root / "train/cat/000.jpg")
    changed = load_into_memory(train, 16, cache_dir=cache)
    assert not torch.equal(changed.images, first.images)
    assert len(list(cache.iterdir())) == 3


def test_cache_runs_no_pickle(make_folder, tmp_path):
    train = open_image_folder(make_folder(GOOD))[0]
    cache = tmp_path / "cache"
    first = load_into_memory(train, 16, cache_dir=cache)
    (stored,) = cache.iterdir()
    np.savez(stored, images=np.array([object()], dtype=object), allow_pickle=True)
    assert torch.equal(load_into_memory(train, 16, cache_dir=cache).images, first.images)


def test_size_message(make_folder):
    train = open_image_folder(make_folder(GOOD))[0]
    assert message_of(lambda: load_into_memory(train, 0)) == "size must be at least 1 pixel; got 0."


@pytest.mark.real_data
def test_real_imagenet_subset(imagenet20_dir):
    train, val = open_image_folder(imagenet20_dir, num_classes=20, image_size=64)
    assert (len(train), len(val)) == (6400, 1600)
    assert torch.bincount(val.labels).tolist() == [80] * 20
    images = load_into_memory(val, 64).images
    expected = np.asarray(Image.open(val.root / val.files[777]).convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(images[777].numpy(), expected)
