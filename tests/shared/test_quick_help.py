"""A help that was asked for before is shown again; another command line or source makes a new one."""

import sys

import pytest

from shared import quick_help


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NORM_SUITE_CACHE", str(tmp_path))
    return tmp_path


def shown(monkeypatch, capsys, *words):
    """What a process with this command line shows; None if it goes on."""
    monkeypatch.setattr(sys, "argv", ["task", *words])
    try:
        quick_help.show_kept_help()
    except SystemExit as stop:
        return capsys.readouterr().out if stop.code == 0 else None
    return None


def test_it_is_shown_to_the_same_command_line_only(cache, monkeypatch, capsys):
    assert shown(monkeypatch, capsys, "--help") is None
    quick_help.keep_help("usage: α\n")
    assert shown(monkeypatch, capsys, "--help") == "usage: α\n"
    assert shown(monkeypatch, capsys, "--seed=1", "--help") is None
    assert shown(monkeypatch, capsys, "-h") is None
    monkeypatch.setenv("COLUMNS", "40")
    assert shown(monkeypatch, capsys, "--help") is None


def test_a_changed_file_makes_it_anew(cache, monkeypatch, capsys):
    config = cache / "mine.yaml"
    config.write_text("seed: 1\n")
    words = (f"--config={config}", "--help")
    assert shown(monkeypatch, capsys, *words) is None
    quick_help.keep_help("usage\n")
    assert shown(monkeypatch, capsys, *words) == "usage\n"
    config.write_text("seed: 12\n")
    assert shown(monkeypatch, capsys, *words) is None


def test_nothing_is_kept_or_shown_where_no_help_is_asked_for(cache, monkeypatch, capsys):
    assert shown(monkeypatch, capsys, "--seed=1") is None
    quick_help.keep_help("usage\n")
    assert not list(cache.rglob("*.txt"))


def test_the_oldest_make_room(cache, monkeypatch, capsys):
    for number in range(quick_help.NUM_KEPT + 3):
        shown(monkeypatch, capsys, f"--seed={number}", "--help")
        quick_help.keep_help(f"{number}\n")
    assert len(list(cache.rglob("*.txt"))) == quick_help.NUM_KEPT
    assert shown(monkeypatch, capsys, f"--seed={number}", "--help") == f"{number}\n"


def test_a_cache_that_cannot_be_written_is_no_hindrance(cache, monkeypatch, capsys):
    (cache / "help").write_text("a file where the folder should be")
    assert shown(monkeypatch, capsys, "--help") is None
    quick_help.keep_help("usage\n")
    assert shown(monkeypatch, capsys, "--help") is None


@pytest.mark.slow
def test_a_task_s_second_help_is_its_first_and_imports_no_torch(cache, monkeypatch):
    import subprocess

    command = [sys.executable, "-X", "importtime", "-m", "uda", "--help"]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2))
    assert first.stdout == second.stdout
    assert "--model.norm" in second.stdout
    assert "torch" in first.stderr
    assert "torch" not in second.stderr
