"""Whole adaptations: what is tested and recorded, the controls, loops without a class, resuming, and mistakes."""

import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from task_runs import TaskRuns, read_record, read_weights

from shared.report.records import parse_record
from uda import protocol
from uda.domain_norm import PerDomain
from uda.module import UdaModule

RUNS = TaskRuns("uda", smoke=["--model.pictures=false"])
run, resume, only_run = RUNS.run, RUNS.resume, RUNS.only_run
FLAGS = ("--trainer.max_epochs=4", "--seed=1")


def assert_same_result(folder: Path, whole: Path) -> None:
    weights, expected = read_weights(folder), read_weights(whole)
    assert all(torch.equal(weights[name], value) for name, value in expected.items() if torch.is_tensor(value))
    ours, theirs = read_record(folder), read_record(whole)
    for name in ("metrics", "curves", "items", "status"):
        assert ours[name] == theirs[name], name
    rows, expected_rows = ((each / "metrics.csv").read_text().splitlines() for each in (folder, whole))
    assert sorted(rows) == sorted(expected_rows), "rows of one step may change places"


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("whole")
    assert run(runs, *FLAGS, "--model.pictures=true") == 0
    return only_run(runs)


def test_the_record_says_what_was_measured(whole_run):
    record = read_record(whole_run)
    parse_record((whole_run / "record.json").read_text())
    assert record["headline"] == "test/accuracy"
    assert record["selection"] == "last loop; nothing is chosen by target labels"
    assert record["axes"] == {"transfer": "dw", "method": "can"}
    assert record["num_groups"] == record["default_num_groups"] == 32
    assert (record["dataset"]["train"], record["dataset"]["test"]) == (36, 32)
    assert [(cell["table"], cell["setting"]) for cell in record["paper"]] == [(7, {"transfer": "dw"})]
    assert not record["paper"][0]["comparable"]
    for words in ("embedded images", "no ImageNet weights", "network resnet20, not resnet50", "loops 3, not 50"):
        assert words in record["paper"][0]["why"]
    assert record["metrics"]["can/loops"]["value"] == 3
    hits = record["items"]["test/accuracy"]["hits"]
    assert record["metrics"]["test/accuracy"]["value"] == pytest.approx(100 * sum(hits) / 32)
    oracle = record["metrics"]["oracle/best_loop_accuracy"]["value"]
    in_loops = [value for epoch, value in record["curves"]["val/accuracy"] if epoch > 1]
    assert oracle == pytest.approx(max(in_loops))
    assert record["metrics"]["test/accuracy"]["value"] == pytest.approx(in_loops[-1], abs=1e-3)
    assert [epoch for epoch, _ in record["curves"]["can/shift"]] == [2, 3, 4]
    assert [epoch for epoch, _ in record["curves"]["can/drift"]] == [3, 4]
    for name in ("confusion.csv", "confusion.svg", "confusion.png", "domains.svg", "domains.png"):
        assert (whole_run / name).stat().st_size > 100


def test_the_confusions_are_those_of_the_answers(whole_run):
    rows = (whole_run / "confusion.csv").read_text().splitlines()[1:]
    counts = [[int(value) for value in row.rsplit('",', 1)[1].split(",")] for row in rows]
    assert [sum(row) for row in counts] == [8, 8, 8, 8]
    right = sum(row[number] for number, row in enumerate(counts))
    assert right == sum(read_record(whole_run)["items"]["test/accuracy"]["hits"])


class Stops(UdaModule):
    """Crashes, or sends a signal, at a step of an epoch (the loops have several steps)."""

    at = (0, 0)
    how: int | None = None

    def training_step(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == self.at:
            if self.how is None:
                raise RuntimeError("killed")
            signal.raise_signal(self.how)
        return super().training_step(batch, batch_idx)


@pytest.mark.slow
@pytest.mark.parametrize("at", [(0, 1), (1, 0), (2, 0), (2, 1), (3, 1)])
def test_a_killed_run_goes_on_bit_for_bit(whole_run, tmp_path, at):
    class Killed(Stops):
        pass

    Killed.at = at
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path, *FLAGS, "--checkpoint_minutes=0", module=Killed)
    assert resume(only_run(tmp_path)) == 0
    assert_same_result(only_run(tmp_path), whole_run)


@pytest.mark.slow
def test_a_run_without_warm_up_goes_on_bit_for_bit(tmp_path):
    class Killed(Stops):
        at = (0, 1)

    flags = ("--model.warmup_epochs=0", "--trainer.max_epochs=2", "--model.recalibrate=true", "--model.decay=inv")
    assert run(tmp_path / "whole", *flags) == 0
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "killed", *flags, "--checkpoint_minutes=0", module=Killed)
    assert resume(only_run(tmp_path / "killed")) == 0
    assert_same_result(only_run(tmp_path / "killed"), only_run(tmp_path / "whole"))
    (warning,) = read_record(only_run(tmp_path / "whole"))["warnings"]
    assert warning == "random weights and no warm-up: the first loop clusters the features of an untrained network"


@pytest.mark.slow
def test_a_run_that_ends_by_the_rule_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(protocol, "STOP_SHIFT", 2.0)
    assert run(tmp_path, *FLAGS, "--model.stop_rule=shift") == 0
    assert "loop 2 is not trained: by the rule shift the domains are at rest (shift " in capsys.readouterr().out
    record = read_record(only_run(tmp_path))
    assert record["metrics"]["can/loops"]["value"] == 1
    assert any("ended by it after 1 of 3 loops" in reading for reading in record["readings"])


@pytest.mark.slow
def test_iterations_are_those_of_the_adaptation(tmp_path):
    """Decay by iteration starts with the first loop, with an epoch's batches limited too."""
    seen: list[tuple[int, float]] = []

    class Watched(UdaModule):
        def on_train_batch_start(self, batch, batch_idx):
            super().on_train_batch_start(batch, batch_idx)
            seen.append((self.current_epoch, self.trainer.optimizers[0].param_groups[0]["lr"]))

    flags = ("--model.decay=iteration", "--model.decay_step=1", "--trainer.limit_train_batches=2")
    assert run(tmp_path, *flags, "--model.learning_rate=0.001", module=Watched) == 0
    assert [epoch for epoch, _ in seen] == [0, 0, 1, 1, 2, 2]
    assert [rate for _, rate in seen[2:]] == pytest.approx([1e-3, 1e-4, 1e-5, 1e-6])


@pytest.mark.slow
@pytest.mark.parametrize("at", [(1, 0), (2, 1)])
def test_a_stopped_run_goes_on_bit_for_bit(whole_run, tmp_path, at):
    class Stopped(Stops):
        how = signal.SIGTERM

    Stopped.at = at
    assert run(tmp_path, *FLAGS, module=Stopped) == 128 + signal.SIGTERM
    assert resume(only_run(tmp_path)) == 0
    assert_same_result(only_run(tmp_path), whole_run)


@pytest.mark.slow
def test_a_run_at_rest_stays_ended(tmp_path):
    """Killed between its own end and its record: resuming tests, and trains no further loop."""

    class Killed(UdaModule):
        def on_test_epoch_start(self):
            raise RuntimeError("killed")

        def on_train_epoch_end(self):
            super().on_train_epoch_end()
            if self.loop_state is not None and self.loop_state.loop == 2:
                self.is_at_rest = self.trainer.should_stop = True

    flags = ("--trainer.max_epochs=8", "--seed=1")
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path, *flags, module=Killed)
    assert resume(only_run(tmp_path)) == 0
    assert read_record(only_run(tmp_path))["metrics"]["can/loops"]["value"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["norm_branch", "source_only"])
def test_the_controls_leave_out_what_they_say(tmp_path, method):
    """With the discrepancy off the target's affine parameters get no gradient; source-only also moves no statistic."""

    class Watched(UdaModule):
        started = None

        def _begin_adaptation(self):
            super()._begin_adaptation()
            norms = [layer for layer in self.network.modules() if isinstance(layer, PerDomain)]
            Watched.started = [
                {name: value.clone() for name, value in layer.target.state_dict().items() if torch.is_tensor(value)}
                for layer in norms
            ]

        def on_test_epoch_end(self):
            super().on_test_epoch_end()
            norms = [layer for layer in self.network.modules() if isinstance(layer, PerDomain)]
            for layer, before in zip(norms, Watched.started, strict=True):
                now = layer.target.state_dict()
                for name in ("weight", "bias"):
                    assert torch.equal(now[name], before[name])
                means = [name for name in before if name.endswith("running_mean")]
                assert means
                for name in means:
                    assert torch.equal(now[name], before[name]) == (method == "source_only")

    assert run(tmp_path, f"--model.method={method}", "--model.norm=bn", module=Watched) == 0
    record = read_record(only_run(tmp_path))
    assert record["axes"]["method"] == method
    assert f"method {method}, not can" in record["paper"][0]["why"]
    assert record["curves"]["train/cdd"] == []


@pytest.mark.slow
def test_all_methods_see_the_same_batches(tmp_path):
    """The controls differ in what is done with a batch, and in nothing before it."""
    seen: dict[str, list[torch.Tensor]] = {}

    class Watched(UdaModule):
        def training_step(self, batch, batch_idx):
            if self.trainer.current_epoch <= 1:
                seen.setdefault(self.method, []).append(batch.indices)
                assert sum(batch.sizes) == len(batch.images)
                assert batch.sizes[1:] == (0, 0) or self.method != "source_only"
            return super().training_step(batch, batch_idx)

    for method in ("can", "norm_branch", "source_only"):
        assert run(tmp_path / method, f"--model.method={method}", module=Watched) == 0
    for method in ("norm_branch", "source_only"):
        assert len(seen[method]) == len(seen["can"]) > 3
        for ours, theirs in zip(seen[method], seen["can"], strict=True):
            assert torch.equal(ours, theirs[: 12 if method == "source_only" else None])


@pytest.mark.slow
def test_a_loop_without_a_class_trains_on_the_source_and_says_so(tmp_path, capsys):
    assert run(tmp_path, "--model.min_images=33") == 0  # of 32 target images
    line = "no class has 33 target images near its centre; this loop trains on the source only."
    assert line in capsys.readouterr().out
    record = read_record(only_run(tmp_path))
    assert record["warnings"] == ["no class passed the filter in 2 of 2 loops, which trained on the source only"]
    assert record["curves"]["train/cdd"] == []
    assert len(record["curves"]["train/cross_entropy"]) == 3


@pytest.mark.slow
def test_a_loop_without_a_class_has_no_discrepancy_of_the_loop_before(tmp_path):
    class Emptied(UdaModule):
        def _cluster(self, *, previous, epoch):
            self.min_images = 1 if previous is None else 33
            super()._cluster(previous=previous, epoch=epoch)

    assert run(tmp_path, module=Emptied) == 0
    curves = read_record(only_run(tmp_path))["curves"]
    assert [epoch for epoch, _ in curves["can/shift"]] == [2, 3]
    assert [epoch for epoch, _ in curves["train/cdd"]] == [2]


@pytest.mark.slow
def test_other_readings_run(tmp_path):
    flags = (
        "--model.warmup_epochs=0", "--model.recalibrate=true", "--model.optimizer=sgd", "--model.decay=inv",
        "--model.stop_rule=official", "--model.normaliser=selected", "--model.intra_only=true",
        "--model.normalise_features=true", "--model.cluster_views=eval", "--trainer.precision=bf16-mixed",
    )  # fmt: skip
    assert run(tmp_path, *flags) == 0
    record = read_record(only_run(tmp_path))
    assert record["protocol"]["recalibrated"] is True
    assert record["protocol"]["clustered"] == "eval views, directions"
    assert "test/accuracy_before" not in record["metrics"]
    for words in ("optimiser sgd", "decay inv", "parts of the discrepancy intra only", "recalibrated True"):
        assert words in record["paper"][0]["why"], "a setting of the paper, or of the algorithm"
    assert "decay rate" not in record["paper"][0]["why"]


@pytest.mark.slow
def test_pictures_of_features_of_any_length(tmp_path):
    """Features beyond the range of half precision; without pictures nothing is kept for them."""

    class Long(UdaModule):
        def _features(self, **options):
            source, target = super()._features(**options)
            return 1e6 * source, 1e6 * target

    assert run(tmp_path / "drawn", "--model.pictures=true", module=Long) == 0
    folder = only_run(tmp_path / "drawn")
    assert (folder / "domains.png").stat().st_size > 100
    saved = torch.load(folder / "before.pt", weights_only=True)
    assert all(each.isfinite().all() for each in saved.values())
    assert run(tmp_path / "plain", module=Long) == 0
    assert not (only_run(tmp_path / "plain") / "before.pt").exists()


@pytest.mark.slow
def test_recalibration_sees_batches_of_mixed_classes(tmp_path):
    """Target images lie class by class: batches in that order would have the statistics of one class each."""
    seen: list[torch.Tensor] = []

    class Watched(UdaModule):
        def _begin_adaptation(self):
            stem = self.network.backbone.conv1.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
            super()._begin_adaptation()
            stem.remove()
            whole = torch.cat(list(self.data.views(self.data.target, epoch=0, kind="eval")))
            places = {image.numpy().tobytes(): place for place, image in enumerate(whole)}
            drawn = [[places[image.numpy().tobytes()] for image in batch] for batch in seen[:5]]
            assert sorted(place for part in drawn for place in part) == list(range(32))
            assert [len(part) for part in drawn] == [7, 7, 6, 6, 6]
            labels = self.data.target.labels
            assert all(len(set(labels[part].tolist())) > 1 for part in drawn)

    flags = ("--model.warmup_epochs=0", "--model.recalibrate=true", "--data.eval_batch_size=7")
    assert run(tmp_path, *flags, module=Watched) == 0
    assert seen


@pytest.mark.slow
def test_features_that_are_not_finite_are_divergence(tmp_path, capsys):
    """The warm-up's only step has a finite loss, and weights with which no feature is a number."""
    flags = ("--model.warmup_learning_rate=1e30", "--model.norm=none", "--data.batch_size=36")
    assert run(tmp_path, *flags) == 0
    assert "diverged: features are not finite before loop 1" in capsys.readouterr().out
    record = read_record(only_run(tmp_path))
    assert record["status"] == "diverged"
    assert record["metrics"] == {}


@pytest.mark.real_data
@pytest.mark.slow
def test_real_images(office31_dir, tmp_path):
    flags = (
        "--data.dataset=office31", f"--data.data_dir={office31_dir}", "--data.source=dslr", "--data.target=webcam",
        f"--data.cache_dir={tmp_path / 'cache'}",
    )  # fmt: skip
    assert run(tmp_path, *flags) == 0
    record = read_record(only_run(tmp_path))
    assert (record["dataset"]["train"], record["dataset"]["test"]) == (498, 795)
    assert record["axes"]["transfer"] == "dw"
    assert record["num_groups"] == 32


def write_domains(root: Path, *names: str) -> None:
    """Two classes of eight images in each domain."""
    for domain in names:
        for name in ("cat", "dog"):
            folder = root / domain / name
            folder.mkdir(parents=True)
            for number in range(8):
                generator = torch.Generator().manual_seed(number)
                pixels = torch.randint(0, 256, (20, 20, 3), generator=generator).byte().numpy()
                Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.mark.slow
def test_two_folders_of_the_user(tmp_path):
    write_domains(tmp_path, "left", "right")
    flags = (
        "--data.dataset=folders",
        f"--data.data_dir={tmp_path}",
        "--data.source=left",
        "--data.target=right",
        "--model.num_groups=8",
    )
    assert run(tmp_path / "runs", *flags, f"--data.cache_dir={tmp_path / 'cache'}") == 0
    record = read_record(only_run(tmp_path / "runs"))
    assert record["axes"]["transfer"] == "left-right"
    assert record["paper"] == []
    assert (record["num_groups"], record["default_num_groups"]) == (8, 32)


@pytest.mark.slow
def test_two_folders_need_no_flag_beside_their_paths(tmp_path, monkeypatch, capsys):
    write_domains(tmp_path, "lab", "field")
    monkeypatch.setenv("NORM_SUITE_COMMAND", "make task=uda norm=bgn source=lab target=field config=smoke")
    flags = [f"--data.cache_dir={tmp_path / 'cache'}"]
    flags += [f"--data.{name}={tmp_path / folder}" for name, folder in (("source", "lab"), ("target", "field"))]
    assert run(tmp_path / "runs", *flags) == 0
    record = read_record(only_run(tmp_path / "runs"))
    assert (record["dataset"]["name"], record["axes"]["transfer"]) == ("folders", "lab-field")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next ")]
    assert line.endswith(f"norm=bn runs={tmp_path / 'runs'}")


@pytest.mark.slow
@pytest.mark.parametrize("names", [("lab", "field"), ("dslr", "webcam"), ("amazon", "webcam")])
def test_the_names_of_folders_decide_nothing(tmp_path, names):
    """Folders called as Office-31's domains are still not those: same G and threshold, and no cell of the paper."""
    seen = []

    class Watched(UdaModule):
        def on_train_start(self):
            super().on_train_start()
            seen.append(self.threshold)

    write_domains(tmp_path, *names)
    flags = ["--data.dataset=folders", f"--data.cache_dir={tmp_path / 'cache'}", "--model.threshold=null"]
    flags += [f"--data.{name}={tmp_path / folder}" for name, folder in zip(("source", "target"), names, strict=True)]
    assert run(tmp_path / "runs", *flags, module=Watched) == 0
    record = read_record(only_run(tmp_path / "runs"))
    assert record["axes"]["transfer"] == "-".join(names)
    assert (record["num_groups"], record["default_num_groups"], record["paper"]) == (32, 32, [])
    assert not any("is the paper's for this pair" in reading for reading in record["readings"])
    assert seen == [1.0]
