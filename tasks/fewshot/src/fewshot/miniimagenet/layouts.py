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
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fewshot.miniimagenet import folders, lists, pickles
from fewshot.miniimagenet.protocol import SPLIT_NAMES
from fewshot.miniimagenet.source import Source
from shared.data.directory import describe_directory
from shared.errors import UserError

_CSV_FILES = {"base": ("train.csv",), "val": ("val.csv",), "novel": ("test.csv",)}
_JSON_FILES = {"base": ("base.json",), "val": ("val.json",), "novel": ("novel.json",)}
_SUMMARY = (
    "folders (train/ val/ test/), pkl-cache (mini-imagenet-cache-*.pkl), gidaris-pickle "
    "(miniImageNet_category_split_*.pickle), csv-flat (train/val/test.csv with filename,label and images/), "
    "csv-class-dirs (class_name,image_name and <class>/) or json (base/val/novel.json)"
)


@dataclass(frozen=True)
class _Candidate:
    """One layout, looked for in one folder."""

    layout: str
    paths: Mapping[str, Path | None]
    open: Callable[[Path, Mapping[str, Path]], Source]

    @property
    def found(self) -> dict[str, Path]:
        return {split: path for split, path in self.paths.items() if path is not None}


def find_source(data_dir: Path) -> Source:
    """Return the first complete layout in a folder, or in its subfolders called miniimagenet in some spelling.

    Args:
        data_dir: Where to look.

    Raises:
        ValueError: None is complete; the message names what is missing of the first that is there in part, or all
            six. Or the lists of the one that is complete are damaged.
    """
    incomplete: list[tuple[Path, _Candidate]] = []
    for folder in (data_dir, *_subfolders(data_dir)):
        for candidate in _candidates(folder):
            if len(candidate.found) == len(candidate.paths):
                return candidate.open(folder, candidate.found)
            if candidate.found:
                incomplete.append((folder, candidate))
    if incomplete:
        raise UserError(_missing(*incomplete[0]))
    raise UserError(
        f"data_dir must hold miniImageNet in one of six layouts: {_SUMMARY}; got {data_dir}, which "
        f"{describe_directory(data_dir)}. Copy the set there, as nothing is downloaded, or give its folder."
    )


def _candidates(folder: Path) -> Iterator[_Candidate]:
    yield _Candidate(folders.LAYOUT, folders.find_folders(folder), folders.open_folders)
    for layout, names in pickles.FILES.items():
        yield _Candidate(layout, _find(folder, names), partial(pickles.open_pickles, layout=layout))
    yield _Candidate(f"{lists.CSV_FLAT} or {lists.CSV_CLASS_DIRS}", _find(folder, _CSV_FILES), lists.open_csv)
    yield _Candidate(lists.JSON, _find(folder, _JSON_FILES), lists.open_json)


def _find(folder: Path, names: Mapping[str, tuple[str, ...]]) -> dict[str, Path | None]:
    return {
        split: next((folder / name for name in some if (folder / name).is_file()), None)
        for split, some in names.items()
    }


def _missing(folder: Path, candidate: _Candidate) -> str:
    present = ", ".join(path.name for path in candidate.found.values())
    missing = ", ".join(SPLIT_NAMES[split] for split in candidate.paths if split not in candidate.found)
    return (
        f"data_dir must hold all three splits, train, val and test (64/16/20 classes); got {present} of layout "
        f"{candidate.layout} in {folder}, without {missing}. Add what is missing; nothing is downloaded."
    )


def _subfolders(data_dir: Path) -> list[Path]:
    if not data_dir.is_dir():
        return []
    return sorted(path for path in data_dir.iterdir() if path.is_dir() and _is_called_miniimagenet(path.name))


def _is_called_miniimagenet(name: str) -> bool:
    return "miniimagenet" in name.lower().replace("-", "").replace("_", "").replace(" ", "")
