"""metrics.csv: appended, cut at a checkpoint, never a step twice."""

import csv

import pytest

from shared.csv_logger import CsvLogger, cut_after, logged_numbers


def read(path):
    with path.open(newline="") as file:
        return [(int(row["step"]), row["metric"], float(row["value"])) for row in csv.DictReader(file)]


def test_numbers_come_back_exactly(tmp_path):
    path = tmp_path / "metrics.csv"
    logger = CsvLogger(path)
    logger.log_metrics({"epoch": 0, "loss": 1 / 3}, step=4)
    logger.log_metrics({"loss": float("nan"), "acc": 1e-30}, step=5)
    assert read(path)[0] == (4, "loss", 1 / 3)
    assert read(path)[2] == (5, "acc", 1e-30)
    assert logged_numbers(path) == {(4, "loss"), (5, "loss"), (5, "acc")}


def test_cut_drops_later_steps_and_a_torn_last_line(tmp_path):
    path = tmp_path / "metrics.csv"
    logger = CsvLogger(path)
    for step in range(5):
        logger.log_metrics({"loss": step}, step=step)
    with path.open("a") as file:
        file.write("0,5,loss,")
    assert logged_numbers(path) == {(step, "loss") for step in range(5)}
    cut_after(path, 2)
    assert [step for step, _, _ in read(path)] == [0, 1, 2]
    cut_after(path, -1)
    assert read(path) == []
    assert logged_numbers(path) == set()


def test_nothing_to_cut(tmp_path):
    cut_after(tmp_path / "none.csv", 3)
    assert logged_numbers(tmp_path / "none.csv") == set()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", [None, 0])
def test_a_step_that_is_left_out_is_the_first(tmp_path, step):
    CsvLogger(tmp_path / "metrics.csv").log_metrics({"a": 1}, step=step)
    assert read(tmp_path / "metrics.csv") == [(0, "a", 1.0)]
