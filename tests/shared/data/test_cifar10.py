"""CIFAR-10: the restricted reader on pickles written here, every message, and the real files where they are."""

import hashlib
import os
import pickle

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from shared.data import cifar10
from shared.data.cifar10 import load_cifar10


def as_published(content) -> bytes:
    """A pickle as Python 2 wrote it, when NumPy's reconstructor had its old name."""
    return pickle.dumps(content, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Six small files in the published layout, whose MD5 sums take the place of the published ones."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(0)
    contents = {}
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        data = generator.integers(0, 256, (4, 3072), dtype=np.uint8)
        contents[name] = {"batch_label": name, "labels": [0, 1, 2, 3], "data": data, "filenames": ["a.png"] * 4}
    contents["batches.meta"] = {"label_names": ["plane", "car", "bird", "cat"], "num_vis": 3072}
    sums = {}
    for name, content in contents.items():
        (folder / name).write_bytes(as_published(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{k}", sums[f"data_batch_{k}"]] for k in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    return folder, contents


def message_of(call) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared by the caller
        call()
    return str(caught.value)


@pytest.mark.parametrize("inner", [False, True])
def test_reads_the_published_layout(written, inner):
    folder, contents = written
    train, test = load_cifar10(folder if inner else folder.parent)
    data = np.concatenate([contents[f"data_batch_{k}"]["data"] for k in range(1, 6)])
    assert np.array_equal(train.images.numpy(), data.reshape(20, 3, 32, 32))
    assert train.labels.tolist() == [0, 1, 2, 3] * 5
    assert (train.classes, train.name) == (("plane", "car", "bird", "cat"), "cifar10/train")
    assert (len(test), test.name) == (4, "cifar10/test")


def test_message_for_an_absent_folder(tmp_path):
    (tmp_path / "imagenet").mkdir()
    assert message_of(lambda: load_cifar10(tmp_path)) == (
        f"data_dir must hold cifar-10-batches-py (CIFAR-10 for Python); got {tmp_path}, which holds imagenet. "
        "Give the right folder, or set download=true."
    )
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"packed")
    assert "Unpack cifar-10-python.tar.gz there, or set download=true." in message_of(lambda: load_cifar10(tmp_path))
    assert "which does not exist. Give" in message_of(lambda: load_cifar10(tmp_path / "nowhere"))


def test_message_for_a_missing_file(written):
    folder, _ = written
    (folder / "data_batch_3").unlink()
    message = message_of(lambda: load_cifar10(folder))
    assert message.startswith(f"{folder} must hold data_batch_3; got a folder that holds batches.meta, data_batch_1, ")
    assert message.endswith(f"Remove {folder} and set download=true, or copy the published files there.")


def test_message_for_another_file(written):
    folder, _ = written
    published = CIFAR10.test_list[0][1]
    (folder / "test_batch").write_bytes(b"something else")
    found = hashlib.md5(b"something else").hexdigest()
    assert message_of(lambda: load_cifar10(folder)) == (
        f"{folder / 'test_batch'} must be the published file, MD5 {published}; got 14 bytes with MD5 {found}. "
        f"Remove {folder} and set download=true, or copy the published files there."
    )


class RunsCommand:
    def __reduce__(self):
        return os.system, ("touch never",)


@pytest.mark.parametrize("content", [RunsCommand(), {"labels": [RunsCommand()]}, np.float64(3.0)])
def test_refuses_to_run_what_a_pickle_names(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(as_published(content))
    refused = pytest.raises(pickle.UnpicklingError, match=r"^a CIFAR-10 file must hold arrays and lists only; got ")
    with (tmp_path / "file").open("rb") as file, refused:
        cifar10._RestrictedUnpickler(file).load()
    assert not (tmp_path / "never").exists()


def test_failed_download_says_what_to_do(tmp_path, monkeypatch):
    unreachable = (tmp_path / "absent.tar.gz").as_uri()
    monkeypatch.setattr(CIFAR10, "url", unreachable)
    message = message_of(lambda: load_cifar10(tmp_path / "data", download=True))
    assert message.startswith(f"download must be able to fetch cifar-10-python.tar.gz into {tmp_path / 'data'}; got: ")
    assert message.endswith("Without a network, copy the file there by hand.")


@pytest.mark.real_data
def test_real_files(cifar10_dir):
    train, test = load_cifar10(cifar10_dir)
    assert train.images.shape == (50_000, 3, 32, 32)
    assert torch.bincount(train.labels).tolist() == [5000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    assert train.classes[:3] == ("airplane", "automobile", "bird")
    mean, std = train.channel_statistics()
    np.testing.assert_allclose(mean, cifar10.MEAN, atol=1e-4)
    np.testing.assert_allclose(std, cifar10.STD, atol=1e-4)
    theirs = CIFAR10(str(cifar10_dir), train=False)
    assert np.array_equal(test.images.permute(0, 2, 3, 1).numpy(), theirs.data)
    assert test.labels.tolist() == theirs.targets
