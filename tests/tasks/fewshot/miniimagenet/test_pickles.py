"""Pickles: read without running them, checked before a pixel is used, and never copied whole."""

import os
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

PIXELS = np.arange(6 * 2 * 2 * 3, dtype=np.uint8).reshape(6, 2, 2, 3)


class RunsCommand:
    def __reduce__(self):
        return os.system, ("touch never",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: {"image_data": PIXELS, "class_dict": {"a": [bad]}}])
def test_what_a_pickle_names_is_not_run(protocol, wrap, write, message_of, dumps, tmp_path, monkeypatch):
    root = write("pkl-cache")
    path = root / "mini-imagenet-cache-val.pkl"
    path.write_bytes(dumps(wrap(RunsCommand()), protocol=protocol, old=False))
    monkeypatch.chdir(tmp_path)
    assert message_of(root) == (
        f"{path} must be a complete pickle of arrays; got: mini-imagenet-cache-val.pkl must hold arrays and lists "
        "only; got posix.system. Copy the file again from a source you trust."
    )
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("name", ["builtins.eval", "numpy.load", "numpy.core.multiarray.fromfile", "os.path.join"])
def test_other_names_are_refused(name, write, message_of):
    root = write("gidaris-pickle")
    path = root / "miniImageNet_category_split_test.pickle"
    module, _, attribute = name.rpartition(".")
    path.write_bytes(f"\x80\x02c{module}\n{attribute}\n.".encode("latin1"))
    assert f"must hold arrays and lists only; got {name}. Copy" in message_of(root).replace("__builtin__", "builtins")


@pytest.mark.parametrize("damage", [lambda held: held[: len(held) // 2], lambda _: b"", lambda _: b"<html>no</html>"])
def test_a_damaged_pickle(damage, write, message_of):
    root = write("pkl-cache")
    path = root / "mini-imagenet-cache-train.pkl"
    path.write_bytes(damage(path.read_bytes()))
    message = message_of(root)
    assert message.startswith(f"{path} must be a complete pickle of arrays; got: ")
    assert message.endswith(". Copy the file again from a source you trust.")


@pytest.fixture
def read(tmp_path, dumps):
    """What one pickle holds, as the layout's source reads it."""
    from fewshot.miniimagenet.pickles import GIDARIS, PKL_CACHE, PickleSource

    def read_it(content, *, split="base", layout=None, **how):
        layout = layout or (PKL_CACHE if "class_dict" in content or "image_data" in content else GIDARIS)
        path = tmp_path / "file.pkl"
        path.write_bytes(dumps(content, **how))
        return PickleSource(layout, tmp_path, {split: path}).read(split)

    return read_it


def check_message(read, content, wanted, tmp_path, **options):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        read(content, **options)
    assert str(caught.value) == wanted.format(path=tmp_path / "file.pkl") + " Copy the published file."


GOOD = {"a": [0, 1, 2], "b": [3, 4, 5]}


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"class_dict": GOOD}, "{path} must hold a dict with an array image_data; got the keys class_dict."),
        ({"image_data": PIXELS}, "class_dict in {path} must be a dict of class names and positions; got NoneType."),
        ({"image_data": PIXELS, "class_dict": {**GOOD, "b": [3, 4, 6]}}, "class_dict['b'] in {path} must hold "
         "positions in [0, 6), the number of images; got 6."),
        ({"image_data": PIXELS, "class_dict": {**GOOD, "b": [3, 4, -1]}}, "class_dict['b'] in {path} must hold "
         "positions in [0, 6), the number of images; got -1."),
        ({"image_data": PIXELS, "class_dict": {**GOOD, "b": [2, 4, 5]}}, "class_dict in {path} must name each image "
         "once; got image 2 in a and b."),
        ({"image_data": PIXELS, "class_dict": {"a": [0, 1, 2]}}, "class_dict in {path} must name each of the 6 "
         "images; got 3."),
        ({"image_data": PIXELS, "class_dict": {**GOOD, "b": [3.0, 4.0, 5.0]}}, "class_dict['b'] in {path} must be a "
         "list of whole numbers; got list of float64."),
        ({"image_data": PIXELS, "class_dict": {**GOOD, "b": 3}}, "class_dict['b'] in {path} must be a list of whole "
         "numbers; got int of object."),
        ({"data": PIXELS, "labels": [0, 1, 2]}, "labels in {path} must be one per image (6); got 3."),
        ({"data": PIXELS, "labels": [0, 1, 2, 3, 4, 64]}, "labels in {path} must be in [0, 64); got 0 to 64."),
        ({"data": PIXELS}, "labels in {path} must be a list of whole numbers; got NoneType of object."),
        ({"data": PIXELS, "labels": [0, 0, 0, 1, 1, 1], "catname2label": {"a": 0}}, "catname2label in {path} must "
         "name every label; got no name of 1."),
        ({"data": PIXELS, "labels": [0, 0, 0, 1, 1, 1], "catname2label": {"a": "0"}}, "catname2label in {path} must "
         "be a list of whole numbers; got list of <U1."),
        ({"data": PIXELS, "labels": [0, 0, 0, 1, 1, 1], "catname2label": {"a": 0, "b": 1, "c": 1}}, "catname2label in "
         "{path} must name every label once; got b and c for 1."),
    ],
)  # fmt: skip
def test_what_a_pickle_must_hold(content, wanted, read, tmp_path):
    check_message(read, content, wanted, tmp_path, old=False, protocol=4)


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (PIXELS / np.float32(255), "float32 of shape (6, 2, 2, 3)"),
        (PIXELS.transpose(0, 3, 1, 2), "uint8 of shape (6, 3, 2, 2)"),
        (PIXELS.reshape(6, -1), "uint8 of shape (6, 12)"),
        (PIXELS[:, :0], "uint8 of shape (6, 0, 2, 3)"),
    ],
)
@pytest.mark.parametrize("layout", ["pkl-cache", "gidaris-pickle"])
def test_pixels_of_another_form(layout, pixels, found, read, tmp_path):
    key, labels = ("image_data", {"class_dict": GOOD}) if layout == "pkl-cache" else ("data", {"labels": [0] * 6})
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        read({key: pixels, **labels}, layout=layout)
    assert str(caught.value) == (
        f"{key} in {tmp_path / 'file.pkl'} must be uint8 of shape (N, H, W, 3), values 0 to 255; got {found}. Copy "
        "the published file, or store the pixels in this form."
    )


def test_content_that_is_no_dict(read, tmp_path):
    wanted = "{path} must hold a dict with an array data; got list."
    check_message(read, [PIXELS], wanted, tmp_path, layout="gidaris-pickle")


@pytest.mark.parametrize(("split", "allowed"), [("val", "[64, 80) or [0, 16)"), ("novel", "[80, 100) or [0, 20)")])
def test_labels_of_another_split(split, allowed, read, tmp_path):
    content = {"data": PIXELS, "labels": [20, 21, 22, 23, 24, 25]}
    wanted = f"labels in {{path}} must be in {allowed}; got 20 to 25."
    check_message(read, content, wanted, tmp_path, split=split)


@pytest.mark.parametrize("dtype", [object, [("a", "u1")], "V8", "M8[s]"])
def test_arrays_of_objects_and_records_are_refused(dtype, read):
    with pytest.raises(ValueError, match=r"got: arrays must be of numbers or text; got "):
        read({"image_data": np.empty(6, dtype), "class_dict": GOOD}, protocol=2, old=False)


def test_a_dict_with_order_is_refused(read):
    with pytest.raises(ValueError, match=r"got collections\.OrderedDict\."):
        read({"image_data": PIXELS, "class_dict": OrderedDict(GOOD)}, old=False)


@settings(max_examples=20, deadline=None)
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=12), data=st.data())
def test_order_of_any_pickle(labels, data, tmp_path_factory, dumps):
    """Positions by class in any order, numbers as Python's or NumPy's: the order is by class, then by position."""
    from fewshot.miniimagenet.pickles import PKL_CACHE, PickleSource

    positions = {}
    for position in data.draw(st.permutations(range(len(labels)))):
        positions.setdefault(f"class {labels[position]}", []).append(position)
    kind = data.draw(st.sampled_from([list, np.array, lambda some: [np.int64(value) for value in some]]))
    pixels = np.random.default_rng(len(labels)).integers(0, 256, (len(labels), 2, 2, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("drawn") / "file.pkl"
    content = {"image_data": pixels, "class_dict": {name: kind(some) for name, some in positions.items()}}
    path.write_bytes(dumps(content, protocol=data.draw(st.integers(2, 5)), old=data.draw(st.booleans())))
    images = PickleSource(PKL_CACHE, path.parent, {"base": path}).read("base")
    expected = [position for label in range(5) for position, found in enumerate(labels) if found == label]
    assert images.order.tolist() == expected
    assert images.listing.classes == tuple(f"class {label}" for label in sorted(set(labels)))
    assert images.listing.counts == tuple(labels.count(label) for label in sorted(set(labels)))
    assert np.array_equal(np.concatenate(list(images.blocks(2))), pixels[expected].transpose(0, 3, 1, 2))


@pytest.mark.parametrize("how", [{"protocol": 2}, {"protocol": 4}, {"protocol": 5, "old": False}])
def test_a_split_is_never_held_twice(how, write, open_small, make_content):
    images = make_content(size=84, images_per_class=20)
    root = write("pkl-cache", images=images, **how)
    largest = 64 * 20 * 3 * 84 * 84  # 27 MB
    tracemalloc.start()
    try:
        open_small(root, image_size=84, images_per_class=20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert largest < peak < 1.35 * largest
