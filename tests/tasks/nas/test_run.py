"""Whole runs: search, retraining and both; resuming bit for bit; two ranks; degenerate norms; records."""

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from task_runs import TaskRuns, read_checkpoint, read_record

from nas.data import NasData
from nas.genotype import PUBLISHED, Provenance, genotype_hash, load_genotype, save_genotype
from nas.module import NasModule

RUNS = TaskRuns("nas", smoke=["--model.norm=bn"])
run, resume, only_run = RUNS.run, RUNS.resume, RUNS.only_run
SMOKE = RUNS.config


def same(ours, theirs) -> bool:
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs


METHODS = {
    "darts": ("--model.method=darts",),
    "second": ("--model.order=second", "--model.statistics=running", "--trainer.precision=64-true"),
    "manas": (
        "--model.method=manas",
        "--model.temperature_start=20",
        "--model.temperature_end=3",
        "--model.exploration=0.2",
    ),
    "manas per cell": ("--model.method=manas", "--model.agents=per_cell"),
    "manas_ls": ("--model.method=manas_ls", "--model.refresh=20"),
    "random": ("--model.method=random",),
}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run of a search with retraining, made once."""

    @functools.cache
    def make(name: str) -> Path:
        runs = tmp_path_factory.mktemp("whole")
        assert run(runs, *METHODS[name]) == 0
        return only_run(runs)

    return make


@pytest.mark.parametrize("name", METHODS)
def test_a_run_searches_and_retrains_what_it_found(whole_run, name):
    folder = whole_run(name)
    record = read_record(folder)
    assert (record["status"], record["headline"], record["selection"]) == ("done", "test/top1", "last epoch")
    assert record["metrics"]["test/top1"]["n"] == 40
    audit = record["norm_audit"]
    assert 0 < audit["num_layers"] < audit["first_network"]["num_layers"], "of the retrained and of the search network"
    genotype, provenance = load_genotype(folder / "genotype.json")
    assert any(genotype_hash(genotype) in reading for reading in record["readings"])
    assert (provenance.norm, provenance.seed, provenance.run) == ("bn", 0, folder.name)
    assert genotype.per_cell == (name == "manas per cell")
    for epoch in (1, 2):
        seen, _ = load_genotype(folder / "search" / f"epoch-{epoch:04d}-genotype.json")
        preferences = torch.tensor(json.loads((folder / f"search/epoch-{epoch:04d}-preferences.json").read_text()))
        torch.testing.assert_close(preferences.sum(-1), torch.ones(preferences.shape[:-1]))
    assert genotype_hash(seen) == genotype_hash(genotype), "the last epoch's"
    assert [len(record["curves"][curve]) for curve in ("train/loss", "val/top1", "search/entropy")] == [4, 2, 2]
    assert record["paper"][0]["table"] == (4 if name.startswith("manas") else 3)
    searches = {"manas": "MANAS ", "manas per cell": "MANAS ", "manas_ls": "MANAS-LS ", "random": "random "}
    assert record["model"].startswith(f"{searches.get(name, '')}search c4")
    changed = {"manas": {"exploration": 0.2}, "manas_ls": {"refresh": 20}}.get(name, {})
    extras = ("exploration", "reward baseline", "baseline decay", "refresh")
    assert {key: value for key, value in record["protocol"].items() if key in extras} == changed, "none by default"
    untaught = "the search has 6 steps, and its agents learn nothing in the first 141"
    assert [warning[: len(untaught)] for warning in record["warnings"]] == ([untaught] if name == "manas_ls" else [])
    for picture in ("cell-normal" if not genotype.per_cell else "cell-cell-0",):
        for suffix in (".svg", ".png"):
            assert (folder / "search" / f"{picture}{suffix}").stat().st_size > 100


class Dying(NasModule):
    """Crashes at a step."""

    dies_at = 0

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == self.dies_at:
            raise KeyError("killed")
        return super().training_step(batch, batch_idx)


KILLED = [("darts", 4), ("second", 5), ("manas", 4), ("manas_ls", 4), ("random", 4), ("darts", 6), ("second", 9)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "step"), [*KILLED, ("manas", 13)])
def test_a_killed_run_resumes_bit_for_bit(whole_run, tmp_path, monkeypatch, name, step):
    """In a search, at its end, in retraining, also with drop path, also in float64."""
    monkeypatch.setattr(Dying, "dies_at", step)
    with pytest.raises(KeyError):
        run(tmp_path, *METHODS[name], "--checkpoint_minutes=0", module=Dying)
    folder = only_run(tmp_path)
    saved = read_checkpoint(folder)
    assert saved["global_step"] == step
    assert saved["nas"]["is_searching"] == (step <= 6)
    assert resume(folder) == 0
    ours, theirs = read_checkpoint(folder), read_checkpoint(whole_run(name))
    for key in ("state_dict", "optimizer_states", "global_step"):
        assert same(ours[key], theirs[key]), key
    first, second = read_record(folder), read_record(whole_run(name))
    for key in ("metrics", "items", "curves", "protocol", "readings"):
        assert first[key] == second[key], key


class Signalled(NasModule):
    """Is asked to stop in the middle of an epoch of search."""

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().training_step(batch, batch_idx)


@pytest.mark.slow
def test_a_search_stops_at_a_signal_and_goes_on(whole_run, tmp_path):
    assert run(tmp_path, *METHODS["darts"], module=Signalled) == 128 + signal.SIGTERM
    folder = only_run(tmp_path)
    saved = read_checkpoint(folder)
    assert saved["global_step"] == 5
    assert "searcher.alphas" in saved["state_dict"]
    assert resume(folder) == 0
    assert same(read_checkpoint(folder)["state_dict"], read_checkpoint(whole_run("darts"))["state_dict"])


def test_a_search_alone_and_then_its_genotype_with_another_norm(tmp_path):
    assert run(tmp_path / "search", "--trainer.max_epochs=2") == 0
    folder = only_run(tmp_path / "search")
    record = read_record(folder)
    assert record["headline"] == "search/derived_top1"
    assert record["metrics"]["search/derived_top1"]["n"] == 40, "the architecture's half"
    assert "not a test accuracy" in record["selection"]
    assert record["paper"] == []
    flags = ("--model.search_epochs=0", f"--model.genotype={folder}", "--trainer.max_epochs=1", "--model.norm=bgn")
    assert run(tmp_path / "retrain", *flags) == 0
    retrained = read_record(only_run(tmp_path / "retrain"))
    genotype, _ = load_genotype(folder / "genotype.json")
    assert genotype_hash(genotype) in retrained["protocol"]["genotype"]
    why = retrained["paper"][0]["why"]
    assert "nodes 2, not 4; architecture searched with bn, not bgn; its search: embedded images, not the whole" in why
    assert "search epochs 2, not 50" in why


def test_an_architecture_of_another_search_is_not_that_of_the_paper(tmp_path):
    """Its file says how it was found, whatever method the retraining run names."""
    file = tmp_path / "genotype.json"
    flags = ("--model.search_epochs=0", f"--model.genotype={file}", "--trainer.max_epochs=1")
    for method, said in {
        "manas": "architecture searched by manas, not darts",
        "random": "a random architecture",
    }.items():
        found = Provenance(method=method, norm="bn", num_groups=None, seed=0, run="", commit="")
        save_genotype(file, PUBLISHED["DARTS_V1"], provenance=found)
        assert run(tmp_path / method, *flags) == 0
        assert said in read_record(only_run(tmp_path / method))["paper"][0]["why"]


def test_a_published_genotype_and_a_random_one_are_retrained(tmp_path):
    for name, flags in {"DARTS_V2": ("--model.genotype=DARTS_V2",), "random": ("--model.method=random",)}.items():
        assert run(tmp_path / name, "--model.search_epochs=0", "--trainer.max_epochs=1", *flags) == 0
        record = read_record(only_run(tmp_path / name))
        assert record["status"] == "done"
        assert name in record["readings"][0]
        assert record["norm_audit"]["layers"][0]["norm"] == "bn"


def test_a_degenerate_norm_is_told_recorded_and_stopped(tmp_path, capsys):
    assert run(tmp_path / "search", "--model.norm=in") == 0
    assert "degenerate: in search, the logits do not depend on the image" in capsys.readouterr().out
    record = read_record(only_run(tmp_path / "search"))
    assert (record["status"], record["metrics"], record["curves"]["train/loss"]) == ("degenerate", {}, [])
    assert "gradient of the alphas" in record["warnings"][0]
    assert run(tmp_path / "large", "--model.norm=in", "--data.image_size=32") == 0
    assert read_record(only_run(tmp_path / "large"))["protocol"]["auxiliary head"] == 0.4, "as that of the other norms"
    flags = ("--model.norm=in", "--model.search_epochs=0", "--model.genotype=DARTS_V2", "--trainer.max_epochs=1")
    assert run(tmp_path / "retrain", *flags, "--model.cells=4") == 0
    record = read_record(only_run(tmp_path / "retrain"))
    assert record["status"] == "degenerate"
    assert "in retraining" in record["warnings"][0]


def test_a_degenerate_norm_goes_on_where_it_is_allowed(tmp_path):
    assert run(tmp_path, "--model.norm=in", "--model.allow_degenerate=true") == 0
    record = read_record(only_run(tmp_path))
    assert record["status"] == "done"
    assert record["warnings"][0].startswith("degenerate, gone on with all the same: in")
    assert record["curves"]["search/entropy"][-1][1] == pytest.approx(2.0794, abs=1e-3), "nothing was learned"


class Watched(NasModule):
    """Notes what each step sees."""

    seen: list = []  # noqa: RUF012

    def training_step(self, batch, batch_idx):
        batches = [batch.indices, batch.alpha_indices] if self.is_searching else [batch.indices]
        rate = self.stepping.learning_rate
        drop = None if self.is_searching else self.network.drop_path_probability
        self.seen.append((self.current_epoch, [b.tolist() for b in batches], rate, drop))
        return super().training_step(batch, batch_idx)


def test_steps_see_both_halves_and_then_all_images_under_the_schedules(tmp_path):
    Watched.seen = []
    assert run(tmp_path, module=Watched) == 0
    epochs = [[entry for entry in Watched.seen if entry[0] == epoch] for epoch in range(4)]
    assert [len(entries) for entries in epochs] == [3, 3, 5, 5]
    for entries in epochs[:2]:
        for half in (0, 1):
            assert sorted(index for entry in entries for index in entry[1][half]) == list(range(40))
    assert epochs[0][0][1][0] != epochs[0][0][1][1], "the halves have orders of their own"
    assert sorted(index for entry in epochs[2] for index in entry[1][0]) == list(range(80))
    assert [entries[0][2] for entries in epochs] == pytest.approx([0.025, 0.013, 0.025, 0.0125])
    assert [entries[0][3] for entries in epochs] == [None, None, 0.0, 0.1]


def test_the_halves_share_no_image_and_all_classes(tmp_path):
    data = NasData(train_images=80, test_images=40)
    data.open()
    rows = [
        {bytes(image.flatten().tolist()) for image in half.images} for half in (data.weight_images, data.alpha_images)
    ]
    assert [len(row) for row in rows] == [40, 40]
    assert not rows[0] & rows[1]
    assert torch.bincount(data.alpha_images.labels).tolist() == [4] * 10


def test_bfloat16(tmp_path):
    assert run(tmp_path, "--trainer.precision=bf16-mixed", "--model.norm=bgn") == 0
    record = read_record(only_run(tmp_path))
    assert record["protocol"]["precision"] == "bf16-mixed"


@pytest.mark.slow
def test_alphas_are_the_same_on_two_ranks_and_those_of_one(tmp_path):
    """GN in float64 with the same global batches: two processes make the steps that one makes."""
    flags = [f"--config={SMOKE}", "--wandb=off", "--report=false", "--model.norm=gn", "--trainer.precision=64-true"]
    flags += ["--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--data.train_images=100", "--data.val_images=50"]
    ways = {
        "one": ["--data.batch_size=10"],
        "two": ["--data.batch_size=5", "--trainer.devices=2", "--trainer.strategy=ddp"],
    }
    for order in ("first", "second"):
        for name, extra in ways.items():
            folder = tmp_path / f"{name}-{order}"
            command = [sys.executable, "-m", "nas", *flags, *extra, f"--model.order={order}", f"--run_dir={folder}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            assert done.returncode == 0, done.stderr[-2000:]
        one, two = (read_checkpoint(tmp_path / f"{name}-{order}")["state_dict"] for name in ways)
        torch.testing.assert_close(two["searcher.alphas"], one["searcher.alphas"], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(two["network.stem.0.weight"], one["network.stem.0.weight"], rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_two_ranks_search_by_agents_and_retrain(tmp_path):
    flags = [f"--config={SMOKE}", "--wandb=off", "--report=false", "--model.norm=bgn", "--model.method=manas"]
    flags += ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=8"]
    done = subprocess.run(
        [sys.executable, "-m", "nas", *flags, f"--run_dir={tmp_path / 'run'}"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert read_record(tmp_path / "run")["metrics"]["test/top1"]["n"] == 40
    assert (tmp_path / "run" / "genotype.json").is_file()


@pytest.mark.real_data
@pytest.mark.slow
def test_real_images(cifar10_dir, tmp_path):
    flags = (
        "--data.dataset=cifar10",
        f"--data.data_dir={cifar10_dir}",
        "--data.image_size=null",
        "--data.train_images=80",
    )
    assert run(tmp_path, *flags) == 0
    record = read_record(only_run(tmp_path))
    assert "80 of 50,000 train images" in record["dataset"]["note"]
    assert record["status"] == "done"
