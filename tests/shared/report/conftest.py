"""Records as the runs write them, and a reader for the HTML that comes out."""

import copy
import json
import random
from html.parser import HTMLParser

import pytest

VOID = {"meta", "br", "img", "hr", "link", "input"}


def _record(norm="bn", value=60.0, *, batch_size=64, seed=0, metric="test/top1", **changes):
    run = f"classification-{norm}-bs{batch_size}-s{seed}-{changes.pop('suffix', '00000000')}"
    record = {
        "schema": 1,
        "run": run,
        "status": "done",
        "task": "classification",
        "config": "cifar10",
        "norm": norm,
        "num_groups": {"gn": 32, "gbgn": 32, "bgn": 256}.get(norm),
        "batch_size": batch_size,
        "seed": seed,
        "axes": {"virtual_workers": 1},
        "model": "resnet20",
        "dataset": {"name": "cifar10", "train": 10000, "test": 10000, "full": False, "checksum": "sha256:aa"},
        "headline": metric,
        "metrics": {metric: {"value": value, "ci95": [value - 1, value + 1], "n": 10000, "unit": "%"}},
        "selection": "median of the last five epochs",
        "protocol": {"epochs": 10, "lr": 0.1},
        "curves": {metric: [[1, value / 2], [2, value]], "train/loss": [[1, 1.9], [2, 1.2]]},
        "paper": [
            {
                "table": 2,
                "setting": {"batch_size": batch_size},
                "metric": "top1",
                "record_metric": metric,
                "comparable": False,
                "why": "CIFAR-10, not ImageNet",
            }
        ],
        "readings": ["running variance unbiased"],
        "norm_audit": {
            "num_layers": 7,
            "layers": [
                {
                    "shape": [16, 32, 32],
                    "num_groups": 256,
                    "count": 7,
                    "values_per_statistic": 4096,
                    "straddling": False,
                    "fallback": None,
                }
            ],
        },
        "commit": "abc1234",
        "dirty": False,
        "versions": {"python": "3.11.7"},
        "device": "cpu (a test)",
        "wall_time_seconds": 80.0,
        "images_per_second": 800.0,
        "peak_memory_bytes": 2**28,
        "wandb": {"mode": "offline", "id": "x", "url": None},
        "command": f"make task=classification norm={norm} batch_size={batch_size} seed={seed}",
        "finished": "2026-11-22T18:00:00+00:00",
    }
    record.update(changes)
    return copy.deepcopy(record)


@pytest.fixture
def make_record():
    return _record


def _items(metric, hits, *, each=75, key="sha256:e1", kind="episodes"):
    """A metric that is the mean of its items, and these items."""
    value = round(100 * sum(hits) / (each * len(hits)), 4)
    number = {"value": value, "ci95": [value - 0.8, value + 0.8], "n": len(hits), "unit": "%"}
    return {metric: number}, {metric: {"kind": kind, "key": key, "each": each, "hits": hits}}


PAPER_SHOTS = [
    {
        "table": 6,
        "setting": {"ways": 5, "shots": shots},
        "metric": "accuracy",
        "record_metric": f"test/accuracy_{shots}shot",
        "comparable": False,
        "why": "ResNet-12 on 65 images a class, not 600",
    }
    for shots in (1, 5)
]
LEVELS = {"bn": (59.3, 76.2), "gn": (56.5, 73.2), "bgn": (59.6, 76.3)}


def _fewshot(norm="bn", *, seed=0, num_episodes=600, key="sha256:e", level=None, untrained=True, **changes):
    """A run on episodes of 75 queries: some are hard for every norm, and each seed has an offset of its own."""
    chance = random.Random(f"{norm}{seed}")
    metrics, items = {}, {}
    for shots, mean in zip((1, 5), level or LEVELS[norm], strict=True):
        difficulty = random.Random(f"{key}{shots}")
        offset = chance.gauss(0, 0.3)
        hard = [difficulty.gauss(0, 8) for _ in range(num_episodes)]
        for name, value in (("", mean), ("_untrained", mean - 20.0 - 10.0 * (shots == 5))):
            if name and not untrained:
                continue
            percent = (value + offset + one + chance.gauss(0, 5) for one in hard)
            hits = [min(75, max(0, round(0.75 * one))) for one in percent]
            metric, item = _items(f"test/accuracy_{shots}shot{name}", hits, key=f"{key}{shots}")
            metrics |= metric
            items |= item
    record = {
        "run": f"fewshot-{norm}-bs256-s{seed}-{changes.pop('suffix', '00000000')}",
        "task": "fewshot",
        "config": "paper",
        "model": "resnet12",
        "dataset": {"name": "miniimagenet", "train": 38400, "test": 12000, "full": True, "checksum": "sha256:mini"},
        "headline": "test/accuracy_1shot",
        "metrics": metrics,
        "items": items,
        "selection": "best validation accuracy",
        "paper": PAPER_SHOTS,
        "curves": {"val/accuracy_1shot": [[1, 30.0], [2, 50.0]]},
        "axes": {},
    }
    return _record(norm, seed=seed, batch_size=256, **record | changes)


PAPER_ATTACKS = [
    {
        "table": 5,
        "setting": {"attack": attack},
        "metric": f"{name}_top1",
        "record_metric": f"test/{name}_top1",
        "comparable": True,
        "why": "",
    }
    for name, attack in (("robust", "pgd4"), ("clean", "none"))
]
ROBUST = {"bn": (48.0, 72.0), "gn": (44.0, 69.0), "pn": (30.0, 50.0), "bgn": (49.0, 73.0)}


def _adversarial(norm="bn", *, seed=0, num_images=400, status="done", **changes):
    """An adversarially trained run: robust and clean accuracy image by image, and PGD-20 accuracy over eps."""
    chance = random.Random(f"{norm}{seed}")
    metrics, items = {}, {}
    for name, mean in zip(("robust", "clean"), ROBUST[norm], strict=True):
        difficulty = random.Random(name)
        level = mean + chance.gauss(0, 1)
        hits = [int(100 * difficulty.random() + chance.gauss(0, 5) < level) for _ in range(num_images)]
        metric, item = _items(f"test/{name}_top1", hits, each=1, key="sha256:test", kind="images")
        metrics |= metric
        items |= item
    robust, clean = (metrics[f"test/{name}_top1"]["value"] for name in ("robust", "clean"))
    metrics |= {
        f"test/{name}_top1": {"value": robust - less, "n": num_images, "unit": "%"}
        for name, less in (("pgd20", 2.0), ("autoattack", 4.0), ("square", 1.0))
    }
    metrics["test/robust_top1_last"] = {"value": robust - 0.5, "n": num_images, "unit": "%"}
    points = [[0, clean], [4, (clean + robust) / 2], [8, robust - 2.0]]
    lost = status == "diverged"
    record = {
        "run": f"adversarial-{norm}-bs128-s{seed}-{changes.pop('suffix', '00000000')}",
        "task": "adversarial",
        "config": "paper",
        "model": "wrn-10-2",
        "num_groups": {"gn": 128, "bgn": 128}.get(norm),
        "dataset": {"name": "cifar10", "train": 50000, "test": 10000, "full": True, "checksum": "sha256:c"},
        "headline": "test/robust_top1",
        "status": status,
        "metrics": {} if lost else metrics,
        "items": {} if lost else items,
        "profiles": {} if lost else {"pgd20_eps": _profile(points)},
        "warnings": [],
        "selection": "last epoch",
        "paper": [
            dict(cell, setting=cell["setting"] | ({"num_groups": 128} if norm in ("gn", "bgn") else {}))
            for cell in PAPER_ATTACKS
        ],
        "curves": {},
        "axes": {},
    }
    return _record(norm, seed=seed, batch_size=128, **record | changes)


def _profile(points, *, title="PGD-20 accuracy over eps", x="eps × 255", unit="%"):
    return {"title": title, "x": x, "unit": unit, "points": points}


@pytest.fixture
def make_adversarial():
    return _adversarial


@pytest.fixture
def make_profile():
    return _profile


@pytest.fixture
def make_items():
    return _items


@pytest.fixture
def make_fewshot():
    return _fewshot


@pytest.fixture
def fewshot_runs():
    return [_fewshot(norm, seed=seed) for norm in LEVELS for seed in range(3)]


@pytest.fixture
def write_runs(tmp_path):
    """Write records as run folders and return the folder of them all."""

    def write(records, name="runs"):
        root = tmp_path / name
        for record in records:
            folder = root / record["task"] / record["run"]
            folder.mkdir(parents=True)
            (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
        root.mkdir(exist_ok=True)
        return root

    return write


class Page(HTMLParser):
    """Tables as lists of rows of texts; checks on the way that tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.ids, self.tags, self.texts, self.titles = [], [], [], [], []
        self._open = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attributes = dict(attrs)
        assert len(attributes) == len(attrs)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if "title" in attributes:
            self.titles.append(attributes["title"])
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.ids.extend(value for name, value in attrs if name == "id")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if "td" in self._open or "th" in self._open:
            self.tables[-1][-1][-1] += f" {data}" if self.tables[-1][-1][-1] else data


@pytest.fixture
def parse_page():
    return Page
