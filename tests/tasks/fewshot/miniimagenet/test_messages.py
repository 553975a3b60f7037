"""What is said of a set that is not miniImageNet, or not all of it: one line, whole."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image


def test_nothing_there(message_of, tmp_path):
    (tmp_path / "given" / "cifar-10-batches-py").mkdir(parents=True)
    assert message_of(tmp_path / "given") == (
        "data_dir must hold miniImageNet in one of six layouts: folders (train/ val/ test/), pkl-cache "
        "(mini-imagenet-cache-*.pkl), gidaris-pickle (miniImageNet_category_split_*.pickle), csv-flat "
        "(train/val/test.csv with filename,label and images/), csv-class-dirs (class_name,image_name and <class>/) or "
        f"json (base/val/novel.json); got {tmp_path / 'given'}, which holds cifar-10-batches-py. Copy the set there, "
        "as nothing is downloaded, or give its folder."
    )
    (tmp_path / "file").write_text("x")
    assert "which is a file." in message_of(tmp_path / "file")
    assert "which does not exist." in message_of(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["image_size", "images_per_class"])
def test_numbers_below_one(name, message_of, tmp_path):
    assert message_of(tmp_path, **{name: 0}) == f"{name} must be at least 1; got 0."


@pytest.mark.parametrize(
    ("layout", "removed", "present", "missing"),
    [
        ("folders", "val", "train, test of layout folders", "val"),
        ("pkl-cache", "mini-imagenet-cache-train.pkl", "mini-imagenet-cache-val.pkl, mini-imagenet-cache-test.pkl of "
         "layout pkl-cache", "train"),
        ("csv-flat", "test.csv", "train.csv, val.csv of layout csv-flat or csv-class-dirs", "test"),
        ("json", "novel.json", "base.json, val.json of layout json", "test"),
    ],
)  # fmt: skip
def test_a_split_is_missing(layout, removed, present, missing, write, message_of):
    root = write(layout)
    path = root / removed
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert message_of(root) == (
        f"data_dir must hold all three splits, train, val and test (64/16/20 classes); got {present} in {root}, "
        f"without {missing}. Add what is missing; nothing is downloaded."
    )


def test_the_split_of_vinyals(write, message_of, make_content):
    images = make_content(size=8, images_per_class=3, classes={"base": 80, "val": 20, "novel": 20})
    root = write("csv-flat", images=images)
    assert message_of(root) == (
        f"train must have 64 classes; got 80 in {root}. This looks like the 80/20 split of Vinyals et al.: use the "
        "64/16/20 classes of Ravi and Larochelle."
    )


@pytest.mark.parametrize("layout", ["folders", "pkl-cache", "gidaris-pickle", "json"])
def test_another_number_of_classes(layout, write, message_of, make_content):
    images = make_content(size=8, images_per_class=3, classes={"base": 64, "val": 15, "novel": 20})
    root = write(layout, images=images)
    assert message_of(root) == (
        f"val must have 16 classes; got 15 in {root}. Use the 64/16/20 classes of Ravi and Larochelle."
    )


@pytest.mark.parametrize("layout", ["folders", "pkl-cache", "csv-class-dirs"])
def test_a_class_in_two_splits(layout, write, message_of, content):
    name = sorted(content["base"])[5]
    strange = {f"x{file}": pixels for file, pixels in content["base"][name].items()}
    root = write(layout, images={**content, "novel": {**content["novel"], name: strange}})
    assert message_of(root) == (
        f"train and test must have no class in common; got 1, the first is {name}, in {root}. Keep each class in its "
        "split of Ravi and Larochelle."
    )


def test_images_of_each_class_are_divided(write, message_of, content):
    every = {name: images for split in content.values() for name, images in split.items()}
    root = write("folders", images=dict.fromkeys(("base", "val", "novel"), every))
    assert message_of(root) == (
        f"train and val must have no class in common; got 100, the first is {min(every)}, in {root}. They divide the "
        "images of each class: divide the classes instead, 64/16/20 (Ravi and Larochelle)."
    )


@pytest.mark.parametrize("layout", ["folders", "pkl-cache", "gidaris-pickle", "csv-flat", "json"])
def test_a_subset(layout, write, message_of, open_small, content):
    root = write(layout)
    wanted = (
        f"images_per_class must be the number of images of every class; got 600, but {min(content['base'])} of train "
        f"has 3 in {root}. For a subset set data.images_per_class=3."
    )
    assert message_of(root, images_per_class=600) == wanted
    open_small(root)
    assert message_of(root, images_per_class=600) == wanted  # from the cache as well


def test_a_class_that_is_not_complete(write, message_of, content):
    root = write("folders")
    name = sorted(content["val"])[3]
    next((root / "val" / name).iterdir()).unlink()
    assert message_of(root) == (
        f"images_per_class must be the number of images of every class; got 3, but {name} of val has 2 in {root}. "
        f"Class {name} is not complete: copy its images again."
    )


def test_other_classes_in_train_phase_test(write, message_of, content):
    root = write("gidaris-pickle", images={**content, "base_test": dict(list(content["base"].items())[:40])})
    assert message_of(root) == (
        f"train_phase_test must hold the 64 classes of train; got 40 classes that are not all the same in {root}. "
        "Copy the file again, or remove it."
    )


@pytest.mark.parametrize("damage", [lambda held: held[: len(held) // 2], lambda _: b"<html>not found</html>"])
@pytest.mark.parametrize("layout", ["folders", "csv-flat", "json"])
def test_a_damaged_image(layout, damage, write, message_of, tmp_path):
    root = write(layout)
    path = sorted(root.rglob("*.jpg"))[100]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(path)
    path.write_bytes(damage(path.read_bytes()))
    message = message_of(root)
    assert message.startswith(f"{path} must be a complete image; got: ")
    assert message.endswith(". Copy the file again.")
    assert not [entry for entry in (tmp_path / "cache" / "miniimagenet").iterdir() if entry.is_dir()]


@pytest.mark.parametrize(("layout", "suffix"), [("csv-flat", "csv"), ("csv-class-dirs", "csv"), ("json", "json")])
def test_a_listed_file_is_absent(layout, suffix, write, message_of):
    root = write(layout)
    path = sorted(root.rglob("*.jpg"))[0]
    path.unlink()
    message = message_of(root)
    assert message.endswith(
        f".{suffix} must list files that exist; got {path}, which does not. Copy the images, or the lists that belong "
        "to them."
    )


def test_a_file_that_is_listed_twice(write, message_of):
    root = write("csv-flat")
    lines = (root / "train.csv").read_text().splitlines()
    file = lines[4].split(",")[0]
    (root / "train.csv").write_text("\n".join([*lines, lines[4]]))
    assert message_of(root) == (
        f"{root / 'train.csv'} must list images that are listed once; got {file}, which is in train.csv before. "
        "Remove one of the two."
    )
    (root / "train.csv").write_text("\n".join(lines))
    (root / "test.csv").write_text("\n".join([*(root / "test.csv").read_text().splitlines(), f"{file},n99999999"]))
    assert "which is in train.csv before." in message_of(root)


@pytest.mark.parametrize(
    ("edit", "wanted"),
    [
        (lambda text: text.replace("filename,label", "path,target"), "{path} must have the header filename,label or "
         "image_name,class_name; got 'path,target'. Use the published lists."),
        (lambda _: "", "{path} must have the header filename,label or image_name,class_name; got ''. Use the "
         "published lists."),
        (lambda text: text + "lonely.jpg\n", "line 194 of {path} must have label and filename; got 'lonely.jpg'. Copy "
         "the list again."),
    ],
)  # fmt: skip
def test_a_damaged_csv(edit, wanted, write, message_of):
    path = write("csv-flat") / "train.csv"
    path.write_text(edit(path.read_text().replace("\r\n", "\n")))
    assert message_of(path.parent) == wanted.format(path=path)


def test_a_csv_of_another_source(write, message_of):
    path = write("csv-flat") / "val.csv"
    path.write_text("class_name,image_name\na,b\n")
    assert message_of(path.parent) == (
        f"{path} must have the columns label and filename, as the other lists; got class_name, image_name. Use the "
        "lists of one source."
    )
    path.write_bytes(b"\xff\xfe\x00binary")
    assert message_of(path.parent).startswith(f"{path} must be a CSV file; got: ")


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"image_labels": [0]}, "image_labels in {path} must be one per image (48); got 1. Write the list again."),
        ({"image_labels": [100] * 48}, "image_labels in {path} must be in [0, 100), the number of label_names; got "
         "100. Write the list again."),
        ({"image_labels": ["0"] * 48}, "{path} must hold a list image_labels of whole numbers; got none. Write the "
         "list again."),
        ({"label_names": None}, "{path} must hold a list label_names of text; got none. Write the list again."),
        ({"image_names": {}}, "{path} must hold a list image_names of text; got none. Write the list again."),
    ],
)  # fmt: skip
def test_a_damaged_json(change, wanted, write, message_of):
    path = write("json") / "val.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert message_of(path.parent) == wanted.format(path=path)


def test_a_json_that_is_none(write, message_of):
    path = write("json") / "base.json"
    path.write_text('{"label_names": [')
    assert message_of(path.parent).startswith(f"{path} must be a JSON file; got: ")
    path.write_text("[]")
    assert message_of(path.parent) == f"{path} must hold a list label_names of text; got none. Write the list again."
