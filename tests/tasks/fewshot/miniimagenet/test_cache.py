"""The cache: whole or not there, whoever is killed, waits or runs out of space; opened again without decoding."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from shared.data.cache import build_once, cache_directory

OPEN = """
import sys
from pathlib import Path
from fewshot.miniimagenet import open_miniimagenet
try:
    found = open_miniimagenet(Path(sys.argv[1]), cache_dir=Path(sys.argv[2]), image_size=int(sys.argv[3]),
                              images_per_class=3)
    print(found.checksum)
except ValueError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
BUILD = """
import sys, time
from pathlib import Path
from shared.data.cache import build_once
log, folder, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
def build(empty):
    (empty / "first").write_text("half")
    with log.open("a") as file:
        file.write("built\\n")
    time.sleep(seconds)
    (empty / "second").write_text("whole")
build_once(folder, build=build, damage=lambda path: None if (path / "second").is_file() else "no second", num_bytes=10)
print((folder / "second").read_text())
"""


def start(script: str, *arguments, before: str = "") -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", before + script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit, "nothing happened within a minute"
        time.sleep(0.002)


def folders(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "miniimagenet").iterdir() if path.is_dir())


def whole(folder: Path) -> str | None:
    return None if (folder / "second").is_file() else "no second"


def test_where_the_cache_is(monkeypatch, tmp_path):
    assert Path(os.environ["NORM_SUITE_CACHE"]) == cache_directory(None)  # set for all tests: never the home folder
    monkeypatch.delenv("NORM_SUITE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory(None) == tmp_path / "xdg" / "norm-suite"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory(None) == tmp_path / ".cache" / "norm-suite"
    assert cache_directory(Path("~/here")) == tmp_path / "here"


def test_opened_again_without_reading(write, open_small, tmp_path):
    root = write("csv-flat")
    first = open_small(root)
    for path in (root / "images").iterdir():  # other content of the same size and time of change goes unseen
        facts = path.stat()
        path.write_bytes(bytes(facts.st_size))
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    again = open_small(root)
    assert torch.equal(again.base.images, first.base.images)
    assert torch.equal(again.novel.labels, first.novel.labels)
    assert (again.checksum, again.val.classes) == (first.checksum, first.val.classes)
    assert len(folders(tmp_path / "cache")) == 1


@pytest.mark.parametrize("layout", ["folders", "pkl-cache", "csv-class-dirs"])
def test_a_changed_source_makes_another_cache(layout, write, open_small, tmp_path):
    root = write(layout)
    first = open_small(root).checksum
    path = next(path for path in sorted(root.rglob("*")) if path.is_file())
    os.utime(path, ns=(1, 1))
    assert open_small(root).checksum == first
    open_small(root, image_size=9)
    assert len(folders(tmp_path / "cache")) == 3


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "val.npy").unlink(), "FileNotFoundError"),
        (lambda folder: os.truncate(folder / "base.npy", 5000), "ValueError"),
        (lambda folder: os.truncate(folder / "base.npy", 36_993), "base.npy has 36,993 bytes, not 36,992"),
        (lambda folder: np.save(folder / "novel.npy", np.zeros((60, 3, 8, 8))), "novel is float64"),
        (
            lambda folder: (folder / "novel.npy").write_bytes((folder / "val.npy").read_bytes()),
            "not uint8 (60, 3, 8, 8)",
        ),
        (lambda folder: (folder / "meta.json").write_text("{}"), "KeyError: 'format'"),
        (lambda folder: (folder / "meta.json").write_text("{"), "JSONDecodeError"),
        (lambda folder: (folder / "meta.json").unlink(), "FileNotFoundError"),
        (
            lambda folder: (folder / "meta.json").write_text(
                (folder / "meta.json").read_text().replace('"format": 1', '"format": 0')
            ),
            "format must be 1; got 0",
        ),
    ],
)
def test_a_damaged_cache_is_built_again(damage, reason, write, open_small, tmp_path, caplog):
    root = write("folders")
    first = open_small(root)
    kept = first.base.images.clone()
    (folder,) = folders(tmp_path / "cache")
    damage(folder)
    again = open_small(root)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{folder} is damaged (")
    assert line.endswith("): building it again.")
    assert reason in line
    assert "\n" not in line
    assert torch.equal(again.base.images, kept)
    assert again.checksum == first.checksum
    assert folders(tmp_path / "cache") == [folder]


def test_facts_are_of_the_content(write, open_small, tmp_path, content):
    found = open_small(write("json"))
    (folder,) = folders(tmp_path / "cache")
    facts = json.loads((folder / "meta.json").read_text())
    assert (facts["layout"], facts["image_size"], facts["checksum"]) == ("json", 8, found.checksum)
    assert facts["splits"]["val"] == {"classes": sorted(content["val"]), "counts": [3] * 16}
    assert np.array_equal(np.load(folder / "val.npy"), found.val.images.numpy())


@pytest.mark.slow
def test_a_killed_build_leaves_nothing_that_is_used(write, open_small, tmp_path, make_content):
    root = write("folders")
    cache = tmp_path / "cache"
    process = start(OPEN, root, cache, 400)  # 144 MB: long enough to be met in the middle
    wait_for(lambda: list(cache.glob("miniimagenet/.building-*/base.npy")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    (left,) = folders(cache)
    assert left.name.startswith(".building-")
    found = open_small(root, image_size=400)
    assert [path.name[0] != "." for path in folders(cache)] == [True]
    assert found.base.images.shape == (192, 3, 400, 400)
    assert found.checksum == open_small(root, image_size=400, cache_dir=tmp_path / "other").checksum


@pytest.mark.slow
def test_two_processes_at_once(write, open_small, tmp_path):
    root, cache = write("csv-flat"), tmp_path / "cache"
    processes = [start(OPEN, root, cache, 32) for _ in range(2)]
    results = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert len({out for out, _ in results}) == 1
    assert results[0][0].strip() == open_small(root, image_size=32).checksum
    assert len(folders(cache)) == 1


@pytest.mark.slow
def test_the_second_process_waits_and_builds_nothing(tmp_path):
    log, folder = tmp_path / "log", tmp_path / "cache" / "key"
    first = start(BUILD, log, folder, 3)
    wait_for(log.is_file)
    second = start(BUILD, log, folder, 0)
    results = [process.communicate() for process in (first, second)]
    assert [out.strip() for out, _ in results] == ["whole", "whole"]
    assert log.read_text() == "built\n"
    assert results[1][1].strip() == f"waiting for another process that writes to {folder.parent}"


def test_a_build_that_fails_leaves_nothing(tmp_path):
    folder = tmp_path / "cache" / "key"

    def build(empty: Path) -> None:
        (empty / "first").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once(folder, build=build, damage=whole, num_bytes=10)
    assert [path.name for path in folder.parent.iterdir()] == [".lock"]
    build_once(folder, build=lambda empty: (empty / "second").touch(), damage=whole, num_bytes=10)
    assert whole(folder) is None


def test_a_file_in_place_of_the_folder(tmp_path, caplog):
    folder = tmp_path / "key"
    folder.write_text("in the way")
    build_once(folder, build=lambda empty: (empty / "second").touch(), damage=whole, num_bytes=10)
    assert whole(folder) is None
    assert f"{folder} is damaged (no second)" in caplog.text


def test_a_cache_that_cannot_be_written(write, message_of, tmp_path):
    (tmp_path / "file").write_text("x")
    assert message_of(write("folders"), cache_dir=tmp_path / "file" / "cache") == (
        "cache_dir must be a folder that can be written to (57,600 bytes are needed); got "
        f"{tmp_path / 'file' / 'cache' / 'miniimagenet'}: Not a directory. Make it writable, or set data.cache_dir or "
        "NORM_SUITE_CACHE to another folder."
    )


def test_not_enough_space(write, message_of, tmp_path):
    message = message_of(write("folders"), image_size=10_000_000)
    assert message.startswith(f"cache_dir must have {300 * 3 * 10**14:,} bytes free; got ")
    assert message.endswith(
        f" bytes in {tmp_path / 'cache' / 'miniimagenet'}. Free some space, or set data.cache_dir or NORM_SUITE_CACHE "
        "to another folder."
    )


@pytest.mark.slow
def test_space_that_ends_in_the_middle(write, tmp_path):
    root, cache = write("pkl-cache"), tmp_path / "cache"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    process = start(OPEN, root, cache, 8, before=limit)
    errors = process.communicate()[1]
    assert process.returncode == 1
    assert errors.splitlines() == [
        f"UserError: cache_dir must have 57,600 bytes free; got File too large in {cache / 'miniimagenet'}. Free some "
        "space, or set data.cache_dir or NORM_SUITE_CACHE to another folder."
    ]
    assert not folders(cache)


def test_progress_is_told_where_it_takes_long(write, open_small, capsys, monkeypatch):
    from fewshot.miniimagenet import stored

    root = write("folders")
    open_small(root)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(stored, "_SECONDS_BETWEEN_LINES", 0.0)
    open_small(root, image_size=200)  # blocks of 34 images
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("miniImageNet base: 34 of 192 images read, about ")
    assert [line.split(":")[0] for line in lines] == [
        *["miniImageNet base"] * 5,
        "miniImageNet val",
        "miniImageNet novel",
    ]
