"""Four layouts, one content: the same pixels in the same order, whichever the set came in."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

COUNTS = {"amazon": 2817, "dslr": 498, "webcam": 795}
LETTERS = {"amazon": "A", "dslr": "D", "webcam": "W"}


def expected(classes):
    """Pixels, labels and classes by explicit loops: sorted by class, then by file name."""
    pixels, labels = [], []
    for label, name in enumerate(sorted(classes)):
        for file in sorted(classes[name]):
            pixels.append(classes[name][file].transpose(2, 0, 1))
            labels.append(label)
    return np.stack(pixels), labels, tuple(sorted(classes))


def assert_holds(found, content):
    assert list(found) == list(content)
    for domain, image_set in found.items():
        pixels, labels, classes = expected(content[domain])
        assert image_set.images.dtype == torch.uint8
        assert np.array_equal(image_set.images.numpy(), pixels)
        assert image_set.labels.tolist() == labels
        assert image_set.classes == classes
        assert len(classes) == 31


@pytest.mark.parametrize("layout", ["original", "CAN", "tllib", "pytorch-adapt"])
def test_every_layout_gives_the_same_images(layout, write, open_small, content):
    found = open_small(write(layout))
    assert_holds(found, content)
    assert {domain: len(images) for domain, images in found.items()} == COUNTS
    assert [images.name for images in found.values()] == [f"office31/{domain}[4 px]" for domain in COUNTS]


SPELLINGS = {"back_pack": "backpack", "laptop_computer": "laptop"}


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ("original", {"domain_names": LETTERS}),
        ("original", {"images": "Images"}),
        ("CAN", {"domain_names": {"amazon": "Amazon", "dslr": "DSLR", "webcam": "Webcam"}}),
        ("CAN", {"domain_names": {"amazon": "a", "dslr": "D", "webcam": "webcam"}}),
        ("original", {"class_name": lambda name: SPELLINGS.get(name, name)}),
        ("CAN", {"class_name": lambda name: name.replace("_", " ").title()}),
        ("tllib", {"class_name": lambda name: SPELLINGS.get(name, name).replace("_", " ")}),
        ("tllib", {"listed": "{}.TXT", "domain_names": LETTERS}),
        *[("original", {"above": name}) for name in ("Office-31", "office_31", "domain_adaptation_images")],
    ],
)
def test_variants_of_a_layout(layout, options, write, open_small, content):
    assert_holds(open_small(write(layout, **options)), content)


def test_a_path_in_a_list_may_hold_spaces(write, open_small, content, few, tmp_path):
    root = write("original", of=few, domain_names={"amazon": "my amazon"})
    (root / "my amazon" / "images" / "mug" / "frame_0001.jpg").rename(
        root / "my amazon" / "images" / "mug" / "a  red mug 7.jpg"
    )
    (root / "image_list").mkdir()
    (root / "image_list" / "Amazon.txt").write_bytes(
        b"\xef\xbb\xbfmy amazon/images/pen/frame_0002.jpg 19\r\n"
        b"\r\n"
        b"my amazon/images/mug/frame_0002.jpg\t17\r\n"
        b"  my amazon/images/mug/a  red mug 7.jpg   17  "
    )
    found = open_small(root, domains=["amazon"], check=False)["amazon"]
    assert (found.name, found.classes) == ("office31/amazon[subset: 3 images of 2 classes, 4 px]", ("mug", "pen"))
    assert found.labels.tolist() == [0, 0, 1]
    for image, (name, file) in zip(found.images, [("mug", 1), ("mug", 2), ("pen", 2)]):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), content["amazon"][name][f"frame_{file:04d}.jpg"])


def test_the_list_says_which_images_there_are(write, open_small, content):
    root = write("tllib")
    Image.new("RGB", (4, 4)).save(root / "dslr" / "images" / "mug" / "copy.png")
    assert_holds(open_small(root), content)


@pytest.mark.parametrize("layout", ["original", "CAN"])
def test_what_is_no_image_is_passed_over(layout, write, open_small, content):
    root = write(layout)
    for folder in [path for path in root.rglob("mug") if path.is_dir()]:
        (folder / "Thumbs.db").write_bytes(b"x")
        (folder / "._frame_0001.jpg").write_bytes(b"x")
        (folder.parent / ".DS_Store").write_bytes(b"x")
    assert_holds(open_small(root), content)


def test_only_what_is_asked_for_is_needed(write, open_small, content, files):
    root = write("original", of={"webcam": files["webcam"], "dslr": files["dslr"]})
    found = open_small(root, domains=("webcam", "dslr"))
    assert_holds(found, {domain: content[domain] for domain in ("webcam", "dslr")})


def test_the_whole_name_comes_before_the_letter(write, open_small, content, few):
    root = write("original")
    write("CAN", of=few, name="given/other")
    for domain, letter in LETTERS.items():
        (root / "other" / domain).rename(root / letter)
    assert_holds(open_small(root), content)


def test_a_complete_folder_below_comes_before_an_incomplete_one(write, open_small, content, few):
    root = write("pytorch-adapt")
    write("CAN", of={"amazon": few["amazon"]}, name="given/office 31 (old)")
    assert_holds(open_small(root), content)
    assert len(open_small(root, domains=["amazon"], check=False)["amazon"]) == 6  # sorted: complete for this question


def test_a_subset_says_so(write, open_small, few, content):
    found = open_small(write("original", of=few), check=False)
    for domain, image_set in found.items():
        assert image_set.name == f"office31/{domain}[subset: 6 images of 3 classes, 4 px]"
        assert image_set.classes == ("bike", "mug", "pen")
        assert image_set.labels.tolist() == [0, 0, 1, 1, 2, 2]
        two = np.stack([content[domain]["mug"][f"frame_000{number}.jpg"].transpose(2, 0, 1) for number in (1, 2)])
        assert np.array_equal(image_set.images[2:4].numpy(), two)


def test_the_whole_set_is_called_so_without_the_check(write, open_small):
    root = write("CAN")
    assert open_small(root, check=False, domains=["dslr"])["dslr"].name == "office31/dslr[4 px]"
    assert open_small(root, image_size=256, domains=["dslr"])["dslr"].name == "office31/dslr"


@pytest.mark.parametrize(("width", "height"), [(90, 90), (90, 61), (40, 131), (20, 20)])
def test_images_are_stretched_with_a_cubic(width, height, write, open_small, few):
    root = write("original", of=few)
    generator = np.random.default_rng(width)
    coarse = torch.from_numpy(generator.integers(0, 256, (1, 3, height // 5, width // 5)).astype(np.float64))
    pixels = F.interpolate(coarse, (height, width), mode="bilinear").round()
    path = root / "dslr" / "images" / "bike" / "frame_0001.jpg"
    path.unlink()
    Image.fromarray(pixels[0].permute(1, 2, 0).numpy().astype(np.uint8)).save(path, format="PNG")
    found = open_small(root, domains=["dslr"], check=False, image_size=32)["dslr"].images[0]
    wanted = F.interpolate(pixels, (32, 32), mode="bicubic", antialias=True).clamp(0, 255)[0]
    assert (found.double() - wanted).abs().max() <= 1.01  # the image library rounds after each of the two passes


def test_gray_and_palette_images_become_rgb(write, open_small, few):
    root = write("original", of=few)
    gray = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
    for number, mode in enumerate(("L", "P"), start=1):
        path = root / "dslr" / "images" / "bike" / f"frame_000{number}.jpg"
        path.unlink()
        Image.fromarray(gray).convert(mode).save(path, format="PNG")
    found = open_small(root, domains=["dslr"], check=False)["dslr"].images[:2]
    assert np.array_equal(found.numpy(), np.broadcast_to(gray, (2, 3, 4, 4)))


@pytest.mark.parametrize("layout", ["original", "CAN", "tllib", "pytorch-adapt"])
def test_data_dir_is_only_read(layout, write, open_small, few):
    root = write(layout, of=few)
    before = {path: path.stat().st_mtime_ns for path in (root, *root.rglob("*"))}
    open_small(root, check=False)
    assert {path: path.stat().st_mtime_ns for path in (root, *root.rglob("*"))} == before


@pytest.mark.real_data
def test_the_real_images(office31_dir, tmp_path):
    from uda.office31 import open_office31

    found = open_office31(office31_dir, image_size=128, check=True, cache_dir=tmp_path)
    assert {domain: tuple(images.images.shape) for domain, images in found.items()} == {
        domain: (count, 3, 128, 128) for domain, count in COUNTS.items()
    }
    # images of mug, trash_can and back_pack in the published table of classes
    assert [torch.bincount(images.labels)[[17, 30, 0]].tolist() for images in found.values()] == [
        [94, 64, 92],
        [8, 15, 12],
        [27, 21, 29],
    ]
    for domain, images in found.items():
        assert images.num_classes == 31
        files = sorted((office31_dir / domain).rglob("*.jpg"))
        for position in (0, 200, len(files) - 1):
            pixels = np.asarray(Image.open(files[position]).convert("RGB"))
            assert np.array_equal(images.images[position].numpy(), pixels.transpose(2, 0, 1))
            assert images.classes[images.labels[position]] == files[position].parent.name
