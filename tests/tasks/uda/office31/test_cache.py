"""The cache of decoded images: opened again without decoding, built again when the files or the array changed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

OPEN = """
import sys
from pathlib import Path
from uda.office31 import open_office31
try:
    found = open_office31(Path(sys.argv[1]), image_size=int(sys.argv[3]), check=False, cache_dir=Path(sys.argv[2]))
    print(*[images.checksum() for images in found.values()])
except ValueError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def start(*arguments, before: str = "") -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", before + OPEN, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def arrays(cache: Path) -> list[Path]:
    return sorted((cache / "domains").glob("[!.]*/images.npy"))


def checksums(found) -> list[str]:
    return [images.checksum() for images in found.values()]


@pytest.mark.parametrize("layout", ["CAN", "tllib"])
def test_opened_again_without_reading(layout, write, open_small, few, tmp_path):
    root = write(layout, of=few)
    first = open_small(root, check=False)
    times = [path.stat().st_mtime_ns for path in arrays(tmp_path / "cache")]
    assert len(times) == 3
    for path in root.rglob("*.jpg"):  # other content of the same size and time of change goes unseen
        facts = path.stat()
        path.unlink()  # it is a link
        path.write_bytes(bytes(facts.st_size))
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    again = open_small(root, check=False)
    assert checksums(again) == checksums(first)
    assert [images.classes for images in again.values()] == [("bike", "mug", "pen")] * 3
    assert [path.stat().st_mtime_ns for path in arrays(tmp_path / "cache")] == times


def test_what_changes_makes_another_array(write, open_small, few, tmp_path):
    root, cache = write("original", of=few), tmp_path / "cache"
    first = checksums(open_small(root, check=False))
    assert len(arrays(cache)) == 3
    open_small(root, check=False, domains=["webcam", "dslr"])
    assert len(arrays(cache)) == 3  # one for each domain, whichever are asked for
    open_small(root, check=False, image_size=5, domains=["dslr"])
    assert len(arrays(cache)) == 4
    path = root / "dslr" / "images" / "mug" / "frame_0001.jpg"
    held = path.read_bytes()
    path.unlink()
    path.write_bytes(held)  # a new time of change
    assert checksums(open_small(root, check=False)) == first
    assert len(arrays(cache)) == 5
    path.rename(path.with_name("frame_0009.jpg"))
    again = open_small(root, check=False)["dslr"]
    assert torch.equal(again.images[2], open_small(root, check=False)["dslr"].images[2])
    assert len(arrays(cache)) == 6
    path.with_name("frame_0009.jpg").unlink()
    assert len(open_small(root, check=False)["dslr"]) == 5
    assert len(arrays(cache)) == 7


def test_folders_alike_in_names_sizes_and_dates_are_told_apart(open_small, tmp_path):
    """Bitmaps of one resolution from an archive that gives all files one date."""
    from PIL import Image

    root = tmp_path / "given"
    for value, domain in enumerate(("amazon", "dslr", "webcam")):
        path = root / domain / "mug" / "frame_0001.bmp"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (4, 4), (value, value, value)).save(path)
        os.utime(path, ns=(0, 0))
    found = open_small(root, check=False)
    assert [int(images.images.max()) for images in found.values()] == [0, 1, 2]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "FileNotFoundError"),
        (lambda path: os.truncate(path, 200), "ValueError"),
        (lambda path: os.truncate(path, 128 + 6 * 48 + 1), "images.npy has 417 bytes, not 416"),
        (lambda path: np.save(path, np.zeros((6, 3, 4, 4))), "images.npy is float64"),
        (lambda path: np.save(path, np.zeros((6, 3, 4, 5), np.uint8)), "not uint8 (6, 3, 4, 4)"),
        (lambda path: path.write_bytes(b"no array"), "ValueError"),
    ],
)
def test_a_damaged_array_is_built_again(damage, reason, write, open_small, few, tmp_path, caplog):
    root = write("original", of=few)
    first = open_small(root, check=False, domains=["dslr"])["dslr"].images.clone()
    (path,) = arrays(tmp_path / "cache")
    damage(path)
    again = open_small(root, check=False, domains=["dslr"])["dslr"].images
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{path.parent} is damaged (")
    assert line.endswith("): building it again.")
    assert reason in line
    assert torch.equal(again, first)
    assert arrays(tmp_path / "cache") == [path]


def test_a_write_stays_in_the_process(write, open_small, few):
    root = write("original", of=few)
    before = open_small(root, check=False)["dslr"].images
    kept = before.clone()
    before.fill_(7)
    assert torch.equal(open_small(root, check=False)["dslr"].images, kept)


def test_a_cache_that_cannot_be_written(write, message_of, few, tmp_path):
    (tmp_path / "file").write_text("x")
    message = message_of(write("original", of=few), check=False, cache_dir=tmp_path / "file" / "cache")
    assert message == (
        "cache_dir must be a folder that can be written to (288 bytes are needed); got "
        f"{tmp_path / 'file' / 'cache' / 'domains'}: Not a directory. Make it writable, or set data.cache_dir or "
        "NORM_SUITE_CACHE to another folder."
    )


def test_not_enough_space(write, message_of, few, tmp_path):
    message = message_of(write("original", of=few), check=False, image_size=10_000_000)
    assert message.startswith(f"cache_dir must have {6 * 3 * 10**14:,} bytes free; got ")


def test_progress_is_told_where_it_takes_long(write, open_small, few, capsys, monkeypatch):
    from uda.office31 import stored

    root = write("original", of=few)
    open_small(root, check=False)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(stored, "_SECONDS_BETWEEN_LINES", 0.0)
    open_small(root, check=False, image_size=800, domains=["dslr", "amazon"])  # blocks of two images
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(", about ")[0] for line in lines] == [
        f"office31/{domain}[subset: 6 images of 3 classes, 800 px]: {done} of 6 images read"
        for domain in ("dslr", "amazon")
        for done in (2, 4)
    ]


@pytest.mark.slow
def test_a_killed_build_leaves_nothing_that_is_used(write, open_small, few, tmp_path):
    root, cache = write("original", of=few), tmp_path / "cache"
    process = start(root, cache, 4000)  # 288 MB a domain: long enough to be met in the middle
    limit = time.monotonic() + 60
    while not list(cache.glob("domains/.building-*/images.npy")):
        assert time.monotonic() < limit, "nothing happened within a minute"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert list(cache.glob("domains/.building-*"))
    assert all(len(np.load(path, mmap_mode="r")) == 6 for path in arrays(cache))
    found = open_small(root, check=False, image_size=40)
    assert not list(cache.glob("domains/.building-*"))
    assert checksums(found) == checksums(open_small(root, check=False, image_size=40, cache_dir=tmp_path / "other"))


@pytest.mark.slow
def test_two_processes_at_once(write, open_small, few, tmp_path):
    root, cache = write("tllib", of=few), tmp_path / "cache"
    processes = [start(root, cache, 300) for _ in range(2)]
    results = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert len({out for out, _ in results}) == 1
    assert results[0][0].split() == checksums(open_small(root, check=False, image_size=300))
    assert len(arrays(cache)) == 3


@pytest.mark.slow
def test_space_that_ends_in_the_middle(write, few, tmp_path):
    root, cache = write("original", of=few), tmp_path / "cache"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    process = start(root, cache, 100, before=limit)
    errors = process.communicate()[1]
    assert process.returncode == 1
    assert errors.splitlines() == [
        f"UserError: cache_dir must have 180,000 bytes free; got File too large in {cache / 'domains'}. Free some "
        "space, or set data.cache_dir or NORM_SUITE_CACHE to another folder."
    ]
    assert not arrays(cache)
