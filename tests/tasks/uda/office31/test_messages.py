"""What is said of a set that is not Office-31, or not all of it: one line, whole."""

import shutil

import pytest


def test_nothing_there(message_of, tmp_path):
    root = tmp_path / "given"
    (root / "cifar10").mkdir(parents=True)
    wanted = (
        "data_dir must hold Office-31 as <domain>/images/<class>/*.jpg or <domain>/<class>/*.jpg (domains amazon, "
        "dslr, webcam); got {}. Unpack the set there, as nothing is downloaded, or give its folder."
    )
    assert message_of(root) == wanted.format(f"{root}, which holds cifar10")
    assert message_of(tmp_path / "nowhere") == wanted.format(f"{tmp_path / 'nowhere'}, which does not exist")
    (root / "office31").mkdir()
    (root / "office31" / "office31.zip").write_bytes(b"x")
    assert message_of(root) == wanted.format(f"{root}, which holds cifar10, office31 (office31 holds office31.zip)")
    (tmp_path / "file").write_text("x")
    assert message_of(tmp_path / "file") == wanted.format(f"{tmp_path / 'file'}, which is a file")


def test_a_domain_is_missing(write, message_of, few):
    root = write("pytorch-adapt", of={domain: few[domain] for domain in ("amazon", "webcam")})
    assert message_of(root, check=False) == (
        f"data_dir must hold a folder of each domain (amazon, dslr, webcam); got amazon, webcam in "
        f"{root / 'office31'}, without dslr. Copy the folder there; nothing is downloaded."
    )


@pytest.mark.parametrize(
    ("domains", "wanted"),
    [
        (["amazon", "dlsr"], "domain must be one of amazon, dslr, webcam; got 'dlsr'. Did you mean 'dslr'?"),
        (["A"], "domain must be one of amazon, dslr, webcam; got 'A'."),
        (["dslr", "amazon", "dslr"], "domains must be different from each other; got dslr twice."),
        ([], "domains must be a list of amazon, dslr, webcam; got []."),
        ("amazon", "domains must be a list of amazon, dslr, webcam; got 'amazon'."),
    ],
)
def test_domains_that_cannot_be(domains, wanted, message_of, tmp_path):
    assert message_of(tmp_path, domains=domains) == wanted


def test_no_pixels(message_of, tmp_path):
    assert message_of(tmp_path, image_size=0) == "image_size must be at least 1 pixel; got 0."


@pytest.mark.parametrize(("layout", "images"), [("original", "images"), ("CAN", ""), ("tllib", "images")])
def test_a_missing_image(layout, images, write, message_of, tmp_path):
    root = write(layout)
    origin = root / "webcam" / images
    (origin / "mug" / "frame_0003.jpg").unlink()
    if layout == "tllib":
        origin = root / "image_list" / "webcam.txt"
        origin.write_text(origin.read_text().replace("webcam/images/mug/frame_0003.jpg 17\n", ""))
    assert message_of(root) == (
        f"webcam must have 795 images; got 794 in {origin}. Copy the set again, or set check=false for a subset."
    )
    assert not (tmp_path / "cache").exists()  # nothing is decoded before all domains are checked


def test_an_image_too_many(write, message_of):
    root = write("CAN")
    folder = root / "amazon" / "bike"
    shutil.copy(folder / "frame_0001.jpg", folder / "frame_0001 (copy).jpg")
    assert message_of(root) == (
        f"amazon must have 2,817 images; got 2,818 in {root / 'amazon'}. Copy the set again, or set check=false for a "
        "subset."
    )


def test_other_classes(write, message_of):
    root = write("original")
    folder = root / "dslr" / "images"
    (folder / "mug").rename(folder / "cup")
    wanted = "dslr must have the 31 classes of Office-31; got {}. Copy the set again, or set check=false for a subset."
    assert message_of(root) == wanted.format(f"31: cup only in {folder}; mug only in Office-31")
    shutil.rmtree(folder / "cup")
    assert message_of(root) == wanted.format("30: mug only in Office-31")
    for name in ("bike", "pen", "ruler", "monitor"):
        shutil.rmtree(folder / name)
    assert message_of(root) == wanted.format("26: bike, monitor, mug and 2 more only in Office-31")


def test_domains_of_other_classes_without_the_check(write, message_of, few):
    root = write("original", of=few)
    (root / "webcam" / "images" / "mug").rename(root / "webcam" / "images" / "cup")
    assert message_of(root, check=False) == (
        "amazon and webcam must have the same classes; got mug only in amazon; cup only in webcam. Copy the missing "
        "folders or remove the others."
    )


def test_a_class_in_two_spellings(write, message_of):
    root = write("original")
    folder = root / "amazon" / "images"
    shutil.copytree(folder / "back_pack", folder / "backpack")
    assert message_of(root) == (
        f"amazon must have one folder per class; got back_pack and backpack, which are both back_pack, in {folder}. "
        "Remove one of the two."
    )


def test_an_empty_class(write, message_of, few):
    root = write("CAN", of=few)
    folder = root / "dslr" / "mug"
    for path in folder.iterdir():
        path.unlink()
    assert message_of(root, check=False) == (
        f"{folder} must hold images (.jpg, .jpeg, .png, .webp, .bmp, .ppm); got a folder that is empty. Add the "
        "images or remove the folder."
    )


def test_a_domain_without_classes(write, message_of, few):
    root = write("original", of=few)
    shutil.rmtree(root / "dslr" / "images")
    assert message_of(root, check=False) == (
        f"{root / 'dslr'} must hold one folder per class; got a folder that is empty."
    )


@pytest.mark.parametrize("damage", [lambda held: held[: len(held) // 2], lambda _: b"<html>not found</html>"])
@pytest.mark.parametrize("layout", ["original", "tllib"])
def test_a_damaged_image(layout, damage, write, message_of, few, tmp_path):
    root = write(layout, of=few)
    path = root / "dslr" / "images" / "mug" / "frame_0001.jpg"
    held = path.read_bytes()
    path.unlink()  # it is a link
    path.write_bytes(damage(held))
    message = message_of(root, check=False)
    assert message.startswith(f"{path} must be a complete image; got: ")
    assert message.endswith(". Copy the file again.")
    assert len([entry for entry in (tmp_path / "cache" / "domains").iterdir() if entry.is_dir()]) == 1  # of amazon


def test_a_link_to_nowhere(write, message_of, few):
    root = write("original", of=few)
    path = root / "amazon" / "images" / "mug" / "frame_0001.jpg"
    path.unlink()
    path.symlink_to(root / "gone")
    assert message_of(root, check=False) == (
        f"{path} must be a file that can be read; got: No such file or directory."
    )


def test_a_listed_file_is_absent(write, message_of):
    root = write("tllib")
    path = root / "amazon" / "images" / "mug" / "frame_0001.jpg"
    path.unlink()
    lines = (root / "image_list" / "amazon.txt").read_text().splitlines()
    number = 1 + lines.index("amazon/images/mug/frame_0001.jpg 17")
    assert message_of(root) == (
        f"{root / 'image_list' / 'amazon.txt'} must list files that exist; got {path} (line {number}), which does "
        "not. Copy the images, or remove the list."
    )


FIRST = "amazon/images/mug/frame_0001.jpg 17\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (FIRST + "amazon/images/pen/frame_0001.jpg\n", "line 2 of {path} must be a path <class>/<image> and a label; "
         "got 'amazon/images/pen/frame_0001.jpg'. Copy the list again."),
        (FIRST + "amazon/images/pen/frame 1.jpg\n", "line 2 of {path} must be a path <class>/<image> and a label; "
         "got 'amazon/images/pen/frame 1.jpg'. Copy the list again."),
        ("frame_0001.jpg 1\n", "line 1 of {path} must be a path <class>/<image> and a label; got 'frame_0001.jpg 1'. "
         "Copy the list again."),
        ("amazon/images/pen/frame_0001.jpg -1\n", "line 1 of {path} must be a path <class>/<image> and a label; got "
         "'amazon/images/pen/frame_0001.jpg -1'. Copy the list again."),
        (FIRST + "\n" + FIRST, "{path} must list each image once; got amazon/images/mug/frame_0001.jpg again in line "
         "3. Remove one line."),
        (FIRST + "amazon/images/mug/frame_0002.jpg 18\n", "{path} must have one label per class; got 17 and 18 (line "
         "2) for mug. Use the published list."),
        (FIRST + "amazon/images/pen/frame_0001.jpg 17\n", "{path} must number the classes in alphabetical order; got "
         "17 for mug and 17 for pen. Use the published list, or remove it."),
        (FIRST + "amazon/images/pen/frame_0001.jpg 3\n", "{path} must number the classes in alphabetical order; got "
         "17 for mug and 3 for pen. Use the published list, or remove it."),
        ("\n", "{path} must list images; got none. Use the published list, or remove it."),
    ],
)  # fmt: skip
def test_a_damaged_list(text, wanted, write, message_of, few):
    root = write("tllib", of=few)
    path = root / "image_list" / "amazon.txt"
    path.write_text(text)
    assert message_of(root, check=False) == wanted.format(path=path)


def test_a_list_that_is_none(write, message_of, few):
    root = write("tllib", of=few)
    path = root / "image_list" / "amazon.txt"
    path.write_bytes(b"\xff\xfe\x00binary")
    message = message_of(root, check=False)
    assert message.startswith(f"{path} must be a text file; got: ")
    assert message.endswith(". Copy the list again.")
