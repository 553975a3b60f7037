"""Shared fixtures: where the real images are, and a clean W&B."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from jaxtyping import config

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch counts the cores, which the workers share


def pytest_collection_modifyitems(items: list[pytest.Item]):
    """A worker gets whole files, because a file's tests share runs, and all of W&B's, which share a server."""
    for item in items:
        folder = item.path.parent
        item.add_marker(pytest.mark.xdist_group("online" if folder.name == "online" else str(item.path)))


@pytest.fixture(autouse=True, scope="session")
def quiet_environment(tmp_path_factory: pytest.TempPathFactory):
    """No key, no account, no network; W&B's own folders and the suite's cache below the test's."""
    home = tmp_path_factory.mktemp("home")
    names = ("WANDB_API_KEY", "NORM_SUITE_COMMAND", "MAKEFLAGS", "NORM_SUITE_TRACEBACK")
    kept = {name: os.environ.pop(name, None) for name in names}
    os.environ.update(
        NETRC=str(home / "netrc"),
        WANDB_MODE="offline",
        WANDB_CONFIG_DIR=str(home),
        WANDB_CACHE_DIR=str(home),
        NORM_SUITE_CACHE=str(home / "cache"),
    )
    yield
    os.environ.update({name: value for name, value in kept.items() if value is not None})


@pytest.fixture
def unchecked():
    """Switch the checks of annotations off: the compiler cannot trace them, and they answer before our own errors."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real images; the test is skipped where it is absent."""
    folder = os.environ.get("DATA_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real images are absent: set DATA_DIR to the folder that holds them")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def cifar10_dir(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds cifar-10-batches-py, unpacked first if DATA_DIR holds it packed."""
    if (data_dir / "cifar-10-batches-py").is_dir():
        return data_dir
    packed = data_dir / "cifar10_full"
    parts = sorted(packed.glob("*.zip"))
    if not parts:
        pytest.skip("CIFAR-10 is absent from DATA_DIR: neither cifar-10-batches-py nor cifar10_full/*.zip")
    folder = tmp_path_factory.mktemp("cifar10")
    subprocess.run([sys.executable, packed / "unpack_cifar10.py", *parts, folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def imagenet20_dir(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train/ and val/ of 20 ImageNet classes at 64 px."""
    for folder in (data_dir / "imagenet20_64", data_dir):
        if (folder / "train").is_dir() and (folder / "val").is_dir():
            return folder
    packed = data_dir / "imagenet20_64" / "imagenet20_64.zip"
    if not packed.is_file():
        pytest.skip("the ImageNet subset is absent from DATA_DIR: no imagenet20_64")
    folder = tmp_path_factory.mktemp("imagenet20")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", packed, folder], check=True)
    return next(path.parent for path in folder.rglob("train") if path.is_dir())


@pytest.fixture(scope="session")
def miniimagenet_dir(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train/, val/ and test/ of miniImageNet, 65 images a class."""
    for folder in (data_dir / "miniimagenet_65", data_dir):
        if all((folder / split).is_dir() for split in ("train", "val", "test")):
            return folder
    packed = data_dir / "miniimagenet_65" / "miniimagenet_65.zip"
    if not packed.is_file():
        pytest.skip("miniImageNet is absent from DATA_DIR: no miniimagenet_65")
    folder = tmp_path_factory.mktemp("miniimagenet")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", packed, folder], check=True)
    return next(path.parent for path in folder.rglob("train") if path.is_dir())


@pytest.fixture(scope="session")
def office31_dir(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with amazon/, dslr/ and webcam/ of Office-31, all 4,110 images."""
    for folder in (data_dir / "office31", data_dir):
        if all((folder / domain).is_dir() for domain in ("amazon", "dslr", "webcam")):
            return folder
    packed = sorted((data_dir / "office31").glob("*.zip"))
    if not packed:
        pytest.skip("Office-31 is absent from DATA_DIR: neither office31/amazon nor office31/*.zip")
    folder = tmp_path_factory.mktemp("office31")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", packed[0], folder], check=True)
    return next(path.parent for path in folder.rglob("amazon") if path.is_dir())
