"""Finding miniImageNet on disk, in one of six layouts. Nothing is ever downloaded.

==============  =====================================================================================================
folders         ``train/<class>/*.jpg``, ``val/…`` (or ``validation/…``), ``test/…``
pkl-cache       ``mini-imagenet-cache-{train,val,test}.pkl`` (``validation`` for ``val`` too): ``image_data``,
                ``class_dict``; Ren et al., torchmeta, learn2learn
gidaris-pickle  ``miniImageNet_category_split_{train_phase_train,val,test}.pickle``: ``data``, ``labels``; with
                ``…_train_phase_test.pickle`` the base classes have test images; Gidaris and Komodakis, MetaOptNet
csv-flat        ``{train,val,test}.csv`` with ``filename,label``, and the images in ``images/`` or beside the lists;
                Ravi and Larochelle, TADAM, LibFewShot
csv-class-dirs  ``{train,val,test}.csv`` with ``class_name,image_name``, and the images in ``<class>/`` or
                ``images/<class>/``; easyfsl
json            ``{base,val,novel}.json`` with ``label_names``, ``image_names``, ``image_labels``; CloserLookFewShot
==============  =====================================================================================================

Where several are complete the first of this table is read: files that hold their pixels come before lists.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fewshot.miniimagenet import folders, lists, pickles
from fewshot.miniimagenet.source import Source
from shared.data.directory import describe_directory
from shared.errors import UserError

_Found = Mapping[str, Path | None]
_CSV_FILES = {"base": ("train.csv",), "val": ("val.csv",), "novel": ("test.csv",)}
_JSON_FILES = {"base": ("base.json",), "val": ("val.json",), "novel": ("novel.json",)}
_SUMMARY = (
    "folders (train/ val/ test/), pkl-cache (mini-imagenet-cache-*.pkl), gidaris-pickle "
    "(miniImageNet_category_split_*.pickle), csv-flat (train/val/test.csv with filename,label and images/), "
    "csv-class-dirs (class_name,image_name and <class>/) or json (base/val/novel.json)"
)


def find_source(data_dir: Path) -> Source:
    """Return the first complete layout in a folder, or in its subfolders called miniimagenet in some spelling.

    Args:
        data_dir: Where to look.

    Raises:
        ValueError: None is complete; the message names what is missing of the first that is there in part, or all
            six. Or the lists of the one that is complete are damaged.
    """
    partial: list[tuple[Path, str, _Found]] = []
    for folder in (data_dir, *_subfolders(data_dir)):
        for layout, found, open_layout in _candidates(folder):
            paths = {split: path for split, path in found.items() if path is not None}
            if len(paths) == len(found):
                return open_layout(folder, paths)
            if paths:
                partial.append((folder, layout, found))
    if partial:
        folder, layout, found = partial[0]
        present = ", ".join(path.name for path in found.values() if path is not None)
        missing = ", ".join({"base": "train", "val": "val", "novel": "test"}[s] for s, p in found.items() if p is None)
        raise UserError(
            f"data_dir must hold all three splits, train, val and test (64/16/20 classes); got {present} of layout "
            f"{layout} in {folder}, without {missing}. Add what is missing; nothing is downloaded."
        )
    raise UserError(
        f"data_dir must hold miniImageNet in one of six layouts: {_SUMMARY}; got {data_dir}, which "
        f"{describe_directory(data_dir)}. Copy the set there, as nothing is downloaded, or give its folder."
    )


def _candidates(folder: Path) -> Iterator[tuple[str, _Found, Callable[[Path, Mapping[str, Path]], Source]]]:
    yield folders.LAYOUT, folders.find_folders(folder), lambda root, paths: folders.open_folders(root, paths)
    for layout, names in pickles.FILES.items():
        yield layout, _find(folder, names), lambda root, paths, layout=layout: pickles.open_pickles(
            root, paths, layout=layout
        )
    yield lists.CSV_FLAT + " or " + lists.CSV_CLASS_DIRS, _find(folder, _CSV_FILES), _open_csv
    yield lists.JSON, _find(folder, _JSON_FILES), lambda root, paths: lists.open_lists(root, paths, layout=lists.JSON)


def _open_csv(root: Path, paths: Mapping[str, Path]) -> Source:
    layout = lists.csv_layout(paths["base"])
    if layout is None:
        choices = " or ".join(",".join(reversed(columns)) for columns in lists.COLUMNS.values())
        raise UserError(f"{paths['base']} must have the header {choices}; got another one. Use published lists.")
    return lists.open_lists(root, paths, layout=layout)


def _find(folder: Path, names: Mapping[str, tuple[str, ...]]) -> _Found:
    return {
        split: next((folder / name for name in some if (folder / name).is_file()), None)
        for split, some in names.items()
    }


def _subfolders(data_dir: Path) -> list[Path]:
    if not data_dir.is_dir():
        return []
    return sorted(path for path in data_dir.iterdir() if path.is_dir() and _is_called_miniimagenet(path.name))


def _is_called_miniimagenet(name: str) -> bool:
    return "miniimagenet" in name.lower().replace("-", "").replace("_", "").replace(" ", "")
