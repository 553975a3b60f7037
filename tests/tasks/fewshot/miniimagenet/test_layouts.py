"""Six layouts, one content: the same pixels in the same order, whichever the set came in."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

SPLITS = ("base", "val", "novel")
LAYOUTS = ("folders", "pkl-cache", "gidaris-pickle", "csv-flat", "csv-class-dirs", "json")


def expected(classes):
    """Pixels, labels and classes by explicit loops: sorted by class, then by file name."""
    pixels, labels = [], []
    for label, name in enumerate(sorted(classes)):
        for file in sorted(classes[name]):
            pixels.append(classes[name][file].transpose(2, 0, 1))
            labels.append(label)
    return np.stack(pixels), labels, tuple(sorted(classes))


def assert_holds(found, content):
    for split in SPLITS:
        pixels, labels, classes = expected(content[split])
        image_set = getattr(found, split)
        assert np.array_equal(image_set.images.numpy(), pixels)
        assert image_set.labels.tolist() == labels
        assert image_set.classes == classes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images(layout, write, open_small, content):
    found = open_small(write(layout))
    assert (found.layout, found.images_per_class, found.base_test) == (layout, 3, None)
    assert found.base.name == "miniimagenet/base[3 a class, 8 px]"
    assert found.base.images.dtype == torch.uint8
    assert_holds(found, content)


def test_the_checksum_is_of_the_content(write, open_small, make_content, layouts):
    sums = {open_small(write(layout, name=layout)).checksum for layout in layouts}
    assert len(sums) == 1
    other = open_small(write("folders", name="other", images=make_content(size=8, images_per_class=3, seed=1)))
    assert {other.checksum}.isdisjoint(sums)


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ("pkl-cache", {"val": "validation"}),
        *[("pkl-cache", {"protocol": protocol, "old": old}) for protocol in (2, 3, 4, 5) for old in (False, True)],
        *[("gidaris-pickle", {"protocol": protocol, "old": False}) for protocol in (2, 5)],
        ("gidaris-pickle", {"from_zero": True}),
        ("csv-flat", {"folder": ""}),
        ("csv-class-dirs", {"folder": "images"}),
        ("json", {"absolute": True}),
    ],
)
def test_variants_of_a_layout(layout, options, write, open_small, content):
    assert_holds(open_small(write(layout, **options)), content)


def test_validation_as_the_name_of_a_folder(write, open_small, content):
    root = write("folders")
    (root / "val").rename(root / "validation")
    assert_holds(open_small(root), content)


@pytest.mark.parametrize("from_zero", [False, True])
def test_classes_without_a_name_are_numbered(from_zero, write, open_small, content):
    found = open_small(write("gidaris-pickle", named=False, from_zero=from_zero))
    assert (found.base.classes[0], found.val.classes[0], found.novel.classes[-1]) == (
        "class 00",
        "class 64",
        "class 99",
    )
    for split in SPLITS:
        assert np.array_equal(getattr(found, split).images.numpy(), expected(content[split])[0])


def test_gidaris_brings_test_images_of_the_base_classes(write, open_small, content):
    held_out = {name: {"0": image, "1": 255 - image} for name, (image, *_) in first_images(content["base"]).items()}
    found = open_small(write("gidaris-pickle", images={**content, "base_test": held_out}))
    pixels, labels, classes = expected(held_out)
    assert found.base_test.name == "miniimagenet/base_test[8 px]"
    assert np.array_equal(found.base_test.images.numpy(), pixels)
    assert found.base_test.labels.tolist() == labels
    assert found.base_test.classes == classes == found.base.classes
    without = open_small(write("gidaris-pickle", name="without"))
    assert without.base_test is None
    assert without.checksum != found.checksum
    assert_holds(found, content)


def first_images(classes):
    return {name: list(images.values()) for name, images in classes.items()}


@pytest.mark.parametrize("name", ["miniImageNet", "miniimagenet_65", "mini-imagenet", "Mini ImageNet"])
def test_one_folder_below(name, write, open_small, tmp_path, content):
    (tmp_path / "above" / "tieredImageNet" / "train").mkdir(parents=True)
    write("json", name=f"above/{name}")
    assert_holds(open_small(tmp_path / "above"), content)


def test_the_order_where_several_are_complete(write, open_small, layouts):
    """Two kinds of CSV have the same file names, so that one stands for both."""
    first = [layout for layout in layouts if layout != "csv-class-dirs"]
    for layout in first:
        root = write(layout)
    removals = {
        "folders": lambda: shutil.rmtree(root / "val"),
        "pkl-cache": lambda: (root / "mini-imagenet-cache-test.pkl").unlink(),
        "gidaris-pickle": lambda: (root / "miniImageNet_category_split_val.pickle").unlink(),
        "csv-flat": lambda: (root / "train.csv").unlink(),
    }
    for layout in first:
        assert open_small(root).layout == layout
        removals.get(layout, lambda: None)()


@pytest.mark.parametrize("layout", ["folders", "pkl-cache"])
@pytest.mark.parametrize("size", [6, 11])
def test_another_size_is_resampled(layout, size, write, open_small, content):
    found = open_small(write(layout), image_size=size)
    pixels = expected(content["novel"])[0]
    for position in (0, 17, 59):
        image = Image.fromarray(pixels[position].transpose(1, 2, 0)).resize((size, size), Image.Resampling.BILINEAR)
        assert np.array_equal(found.novel.images[position].numpy(), np.asarray(image).transpose(2, 0, 1))


def test_images_that_are_not_square_are_cut(write, open_small, content):
    root = write("folders")
    name = sorted(content["val"])[0]
    file = sorted(content["val"][name])[0]
    wide = np.random.default_rng(5).integers(0, 256, (8, 14, 3), dtype=np.uint8)
    Image.fromarray(wide).save(root / "val" / name / file, format="PNG")
    assert np.array_equal(open_small(root).val.images[0].numpy(), wide[:, 3:11].transpose(2, 0, 1))


def test_a_write_stays_in_the_process(write, open_small):
    root = write("folders")
    before = open_small(root)
    kept = before.base.images.clone()
    before.base.images.fill_(7)
    assert torch.equal(open_small(root).base.images, kept)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_data_dir_is_only_read(layout, write, open_small):
    root = write(layout)
    before = {path: path.stat().st_mtime_ns for path in (root, *root.rglob("*"))}
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    open_small(root)
    assert {path: path.stat().st_mtime_ns for path in (root, *root.rglob("*"))} == before


@pytest.mark.real_data
def test_the_real_images(miniimagenet_dir, tmp_path):
    from fewshot.miniimagenet import open_miniimagenet

    found = open_miniimagenet(miniimagenet_dir, images_per_class=65, cache_dir=tmp_path)
    for split, num_classes in (("base", 64), ("val", 16), ("novel", 20)):
        image_set = getattr(found, split)
        assert image_set.images.shape == (num_classes * 65, 3, 84, 84)
        assert torch.bincount(image_set.labels).tolist() == [65] * num_classes
    files = sorted((miniimagenet_dir / "test").rglob("*.jpg"))
    for position in (0, 700, 1299):
        image = np.asarray(Image.open(files[position]).convert("RGB"))
        assert np.array_equal(found.novel.images[position].numpy(), image.transpose(2, 0, 1))
        assert found.novel.classes[found.novel.labels[position]] == files[position].parent.name
    with pytest.raises(ValueError, match=r"For a subset set data\.images_per_class=65\.$"):
        open_miniimagenet(miniimagenet_dir, cache_dir=tmp_path)
