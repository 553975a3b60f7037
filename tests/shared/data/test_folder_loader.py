"""The streaming loader: pixels from keys alone, whatever the workers, batches and ranks."""

import numpy as np
import pytest
import torch
from PIL import Image

from shared.data.augment import flip_mask
from shared.data.crops import resized_crop_boxes
from shared.data.folder import open_image_folder
from shared.data.folder_loader import FolderLoader


@pytest.fixture
def folders(make_folder):
    return open_image_folder(make_folder({"train/a": 6, "train/b": 5, "val/a": 2, "val/b": 3}, size=(50, 40)))


def pixels_by_image(loader) -> dict[int, torch.Tensor]:
    return {
        int(index): image
        for batch in loader
        for image, index, counts in zip(batch.images, batch.indices, batch.valid, strict=True)
        if counts
    }


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(image, second[index]) for index, image in first.items())


def test_training_pixels_equal_pillow(folders):
    train = folders[0]
    loader = FolderLoader(train, batch_size=4, image_size=12, train=True, seed=3)
    loader.set_epoch(2)
    for index, image in pixels_by_image(loader).items():
        box = resized_crop_boxes(torch.tensor([index]), height=40, width=50, seed=3, epoch=2)[0].tolist()
        top, left, height, width = box
        original = Image.open(train.root / train.files[index]).convert("RGB")
        expected = original.crop((left, top, left + width, top + height)).resize((12, 12), Image.Resampling.BILINEAR)
        expected = np.asarray(expected).transpose(2, 0, 1)
        if flip_mask(torch.tensor([index]), seed=3, epoch=2).item():
            expected = expected[:, :, ::-1]
        assert np.array_equal(image.numpy(), expected)


def test_evaluation_pixels_are_the_centre(folders):
    val = folders[1]
    images = pixels_by_image(FolderLoader(val, batch_size=2, image_size=28, train=False, seed=0))
    assert list(images) == list(range(5))
    for index, image in images.items():
        original = Image.open(val.root / val.files[index]).convert("RGB")
        expected = original.resize((40, 32), Image.Resampling.BILINEAR)  # 28 × 256 / 224 = 32
        assert np.array_equal(image.numpy(), np.asarray(expected)[2:30, 6:34].transpose(2, 0, 1))


def test_workers_and_batch_size_change_nothing(folders):
    make = {"image_size": 10, "train": True, "seed": 1}
    alone = FolderLoader(folders[0], batch_size=4, **make)
    alone.set_epoch(1)
    reference = list(alone)
    workers = FolderLoader(folders[0], batch_size=4, num_workers=2, **make)
    workers.set_epoch(1)
    for first, second in zip(reference, workers, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    large = FolderLoader(folders[0], batch_size=7, **make)
    large.set_epoch(1)
    assert_same(pixels_by_image(large), pixels_by_image(alone))


def test_ranks_share_the_images(folders):
    make = {"image_size": 10, "train": True, "seed": 1, "batch_size": 2}
    one = pixels_by_image(FolderLoader(folders[0], **make))
    loaders = [FolderLoader(folders[0], rank=rank, world_size=4, **make) for rank in range(4)]
    parts = [pixels_by_image(loader) for loader in loaders]
    assert sum(len(part) for part in parts) == 11
    assert_same({index: image for part in parts for index, image in sorted(part.items())}, one)
    assert {len(list(loader)) for loader in loaders} == {2}


def test_epochs_differ(folders):
    loader = FolderLoader(folders[0], batch_size=11, image_size=10, train=True, seed=1)
    first = pixels_by_image(loader)
    loader.set_epoch(1)
    assert not any(torch.equal(image, first[index]) for index, image in pixels_by_image(loader).items())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumes_at_the_next_batch(folders, num_workers):
    make = {"batch_size": 3, "image_size": 8, "train": True, "seed": 0, "num_workers": num_workers}
    loader = FolderLoader(folders[0], **make)
    loader.set_epoch(4)
    expected = list(loader)
    iterator = iter(loader)
    next(iterator)
    next(iterator)
    resumed = FolderLoader(folders[0], **make)
    resumed.load_state_dict(loader.state_dict())
    resumed.set_epoch(4)
    rest = list(resumed)
    assert len(rest) == len(expected) - 2
    assert all(torch.equal(a.images, b.images) for a, b in zip(rest, expected[2:], strict=True))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_global_generators_are_untouched(folders, num_workers):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(FolderLoader(folders[0], batch_size=4, image_size=8, train=True, seed=0, num_workers=num_workers))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


def test_damaged_file_is_named(folders):
    train = folders[0]
    path = train.root / train.files[3]
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"a/003.jpg must be a complete image; got: image file is truncated"):
        list(FolderLoader(train, batch_size=4, image_size=8, train=False, seed=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 0}, "image_size must be at least 1; got 0."),
        ({"num_workers": -1}, "num_workers must be at least 0; got -1."),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0."),
    ],
)
def test_messages(folders, change, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared below
        FolderLoader(folders[0], **{"batch_size": 4, "image_size": 8, "train": True, "seed": 0, **change})
    assert str(caught.value) == message
