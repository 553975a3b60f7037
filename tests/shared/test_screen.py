"""The screen with which a run ends: the number, the paper's, and the reasons to doubt it."""

from pathlib import Path

import pytest

from shared.runs import Run
from shared.screen import final_screen


@pytest.fixture
def run():
    return Run(
        path=Path("runs/adversarial/adversarial-bgn-bs128-s0-1"),
        name="adversarial-bgn-bs128-s0-1",
        task="adversarial",
        config="paper",
        command="make task=adversarial norm=bgn config=paper",
    )


@pytest.fixture
def record():
    paper = [
        {
            "table": 5,
            "setting": {"attack": attack, "num_groups": 128},
            "metric": f"{name}_top1",
            "record_metric": f"test/{name}_top1",
            "comparable": True,
            "why": "",
        }
        for name, attack in (("robust", "pgd4"), ("clean", "none"))
    ]
    return {
        "status": "done",
        "task": "adversarial",
        "config": "paper",
        "norm": "bgn",
        "num_groups": 128,
        "batch_size": 128,
        "seed": 0,
        "headline": "test/robust_top1",
        "metrics": {
            "test/robust_top1": {"value": 49.1, "n": 10000, "ci95": [48.1, 50.1], "unit": "%"},
            "test/clean_top1": {"value": 72.5, "n": None, "ci95": None, "unit": "%"},
        },
        "selection": "last epoch",
        "paper": paper,
        "dataset": {"name": "cifar10"},
        "wandb": {"mode": "off", "url": None},
    }


def lines_of(text):
    """Name and text of each line between the rules."""
    return [tuple(part.strip() for part in line.split("  ", 1)) for line in text.splitlines()[1:-1]]


def test_the_lines_come_in_order(run, record):
    record["warnings"] = ["PGD-20 leaves 50.2 % and the weaker PGD-4 49.1 %:\n gradients may be masked", "second"]
    lines = lines_of(final_screen(run, record))
    assert lines == [
        ("test/robust_top1", "49.10 % (95 % CI 48.10 to 50.10, n = 10,000)   [last epoch]"),
        ("paper", "49.64 % (Table 5)"),
        ("test/clean_top1", "72.50 %   [paper 72.94 %]"),
        ("warning", "PGD-20 leaves 50.2 % and the weaker PGD-4 49.1 %: gradients may be masked"),
        ("warning", "second"),
        ("run", "adversarial/paper, bgn, G = 128, batch size 128, seed 0"),
        ("data", "cifar10: whole"),
        ("record", "runs/adversarial/adversarial-bgn-bs128-s0-1/record.json"),
        ("W&B", "off"),
        ("compare", "make report runs=runs"),
        ("next", "make task=adversarial config=paper norm=bn data_dir=…"),
    ]


@pytest.mark.parametrize("warnings", [None, [], "absent"])
def test_a_record_without_warnings_has_no_such_line(run, record, warnings):
    if warnings != "absent":
        record["warnings"] = warnings
    assert "warning" not in [name for name, _ in lines_of(final_screen(run, record))]


def test_a_report_stands_in_the_place_of_the_command_that_makes_it(run, record):
    names = [name for name, _ in lines_of(final_screen(run, record, report=Path("runs/report/report.html")))]
    assert "report" in names
    assert "compare" not in names


def test_a_diverged_run_says_so(run, record):
    record |= {"status": "diverged", "metrics": {}}
    assert lines_of(final_screen(run, record))[0] == ("test/robust_top1", "diverged   [last epoch]")
