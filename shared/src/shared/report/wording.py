"""How numbers, names and sizes are written for a reader."""

import re
from collections.abc import Mapping
from typing import Any

PRETTY = {
    "cifar10": "CIFAR-10",
    "imagenet": "ImageNet",
    "miniimagenet": "miniImageNet",
    "office31": "Office-31",
    "darts": "DARTS",
    "manas": "MANAS",
    "classification": "Image classification",
    "adversarial": "Adversarial training",
    "fewshot": "Few-shot learning",
    "uda": "Unsupervised domain adaptation",
    "nas": "Architecture search",
}
ADAPTATIONS = {"can": " by CAN", "norm-branch": ", discrepancy off", "source-only": ", source only"}
METHODS = {
    "can": "CAN", "norm_branch": "discrepancy off", "source_only": "source only", "random": "random search",
    "darts": "DARTS", "manas": "MANAS", "manas_ls": "MANAS-LS",
}  # fmt: skip
ATTACKS = {"autoattack": "AutoAttack", "square": "Square", "none": "no attack"}
COLUMN_NAMES = {"transfer": "transfer (a Amazon, d DSLR, w Webcam)"}
MISSING = "X"
NOT_APPLICABLE = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def pretty(name: str) -> str:
    """Write a data set, model or task as people do: `resnet20` is ResNet-20; unknown names stay as they are."""
    if name in PRETTY:
        return PRETTY[name]
    for method, words in ADAPTATIONS.items():
        if name.startswith(f"{method}-"):
            return f"{pretty(name.removeprefix(f'{method}-'))}{words}"
    return re.sub(r"^wrn-", "WRN-", re.sub(r"^resnet-?(\d+)", r"ResNet-\1", name))


def humane(text: str) -> str:
    """Write the names of data sets and models inside a sentence of a record as people do, and a part of a whole."""
    text = re.sub(r"([\d,]+) of ([\d,]+) train images", r"\1 of the \2 training images", text)
    return re.sub(r"\b(?:cifar10|imagenet|miniimagenet|office31|resnet-?\d+|wrn-\d+-\d+)\b",
                  lambda match: pretty(match.group()), text)  # fmt: skip


def number(value: float, unit: str, *, digits: int = 2) -> str:
    """Write a measured value: fixed digits for percentages, four significant digits otherwise."""
    return f"{value:.{digits}f}" if unit == "%" else f"{value:.4g}"


def signed(value: float, unit: str, *, digits: int = 2) -> str:
    """Write a difference with its sign; the minus is a real one."""
    text = number(abs(value), unit, digits=digits)
    if float(text) == 0:
        return text
    return f"{MINUS if value < 0 else '+'}{text}"


def with_unit(text: str, unit: str) -> str:
    """Append the unit, with a space that does not break."""
    return f"{text}\u00a0{unit}" if unit else text


def metric_name(name: str) -> str:
    """Write a metric's name.

    Args:
        name: Name in the records.

    Returns:
        `test/top1` is "test top-1 accuracy", `val/accuracy_5shot` "val 5-shot accuracy", `test/pgd20_top1`
        "PGD-20 top-1".
    """
    words = re.sub(r"(?<![a-z])accuracy_(\d+)shot", r"\1-shot_accuracy", name).replace("/", " ").replace("_", " ")
    words = re.sub(
        r"\b(?:test )?(robust|clean|autoattack|square|pgd\d+) top([15])\b(?! accuracy| error)",
        lambda m: f"{_attack_name(m[1])} top-{m[2]}",
        words,
    )
    return re.sub(r"\btop([15])\b( accuracy| error|)", lambda m: f"top-{m[1]}{m[2] or ' accuracy'}", words)


def _attack_name(name: str) -> str:
    """Write the name of an attack: `pgd20` is PGD-20."""
    return ATTACKS.get(name) or re.sub(r"^pgd(\d+)$", r"PGD-\1", name)


def measure_name(name: str, setting: Mapping[str, object]) -> str:
    """Write a metric's name with what a setting of the paper adds: "5-way 1-shot accuracy", "robust top-1 (PGD-4)"."""
    words = metric_name(name)
    if "attack" in setting:
        attack = _attack_name(str(setting["attack"]))
        words = re.sub(r"\brobust top-[15]\b", lambda m: f"{m[0]} ({attack})", words)
    return f"{setting['ways']}-way {words.removeprefix('test ')}" if "ways" in setting else words


def setting_words(key: str, value: object) -> str:
    """Write one part of a setting of the paper: "1-shot", "batch size 64", "PGD-4"."""
    if key == "attack":
        return _attack_name(str(value))
    return f"{value}-{key[:-1]}" if key in ("ways", "shots") else f"{key.replace('_', ' ')} {value}"


def in_prose(label: str) -> str:
    """Write a norm's label inside a sentence, where "none came first" would say that no norm did."""
    return "“no norm layer”" if label == "none" else label


def listed(words: list[str]) -> str:
    """Join words as prose does: "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def plain(value: Any) -> str:
    """Write a setting; Python's own words would puzzle a reader."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def shortened(words: list[str], most: int, noun: str) -> str:
    """Join words with commas; of more than `most` the first, and how many more there are."""
    rest = len(words) - most
    return ", ".join(words) if rest <= 0 else f"{', '.join(words[:most])} and {plural(rest, f'more {noun}')}"


def file_part(name: str) -> str:
    """Write a name as a part of a file name: `test/top1` is test_top1."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def seeds(n: int) -> str:
    """Write a number of seeds."""
    return plural(n, "seed")


def plural(n: int, noun: str) -> str:
    """Write a count with its noun: "1 run", "3 runs"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def duration(seconds: float) -> str:
    """Write a time: "81 s", "12 min", "3.4 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def memory(num_bytes: float) -> str:
    """Write an amount of memory in binary units."""
    mebibytes = num_bytes / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.1f} GiB"
