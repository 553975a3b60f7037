"""Mistakes are told in one line with exit code 2, and leave nothing behind."""

import json

import pytest

from nas.data import NasData
from nas.genotype import PUBLISHED, Provenance
from nas.module import NasModule
from shared.catalog import load_tasks
from shared.cli import main

SMOKE = load_tasks()["nas"].configs["smoke"]


def refused(capsys, tmp_path, *flags: str) -> str:
    runs = tmp_path / "runs"
    with pytest.raises(SystemExit) as stop:
        main(
            "nas",
            NasModule,
            NasData,
            [f"--config={SMOKE}", f"--runs={runs}", "--wandb=off", "--model.norm=bn", *flags],
        )
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert not runs.exists()
    return error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data.image_size=18",), "image_size must be a multiple of 4, since two cells halve the map; got 18."),
        (("--data.batch_size=41",), "batch_size × processes must be at most half of the 80 training images, 40, in a"),
        (("--data.retrain_batch_size=81",), "batch_size × processes must be at most the 80 training images"),
        (("--data.train_images=85", "--data.num_classes=5"), "train_images must be even, since a search halves them"),
        (("--data.val_images=41",), "val_images must be from 1 to half of the 80 training images; got 41."),
        (("--model.search_epochs=5",), "search_epochs must be at most trainer.max_epochs = 4; got 5."),
        (("--model.search_epochs=0",), "genotype must be DARTS_V1, DARTS_V2, a genotype's file or the folder"),
        (("--model.genotype=DARTS_V2",), "genotype must be left out where there is a search; got 'DARTS_V2'."),
        (("--model.search_epochs=0", "--model.genotype=DARTS_V3"), "Did you mean 'DARTS_V2'?"),
        (
            ("--model.method=dartz",),
            "method must be one of darts, manas, manas_ls, random; got 'dartz'. Did you mean 'da",
        ),
        (("--model.order=third",), "order must be one of first, second; got 'third'."),
        (("--model.num_groups=4",), "num_groups must be left out for norm 'bn', which has no groups; got 4."),
        (("--model.norm=bgn", "--model.num_groups=100000"), "num_groups"),
        (("--model.drop_path=1",), "drop_path must be in [0, 1); got 1.0."),
        (("--model.clip=0",), "clip must be above 0; got 0.0."),
        (("--model.search_learning_rate_end=1",), "search_learning_rate_end must be from 0 to search_learning_rate"),
        (("--model.method=manas", "--model.search_cells=2"), "search_cells must be at least 3"),
        (("--model.method=manas", "--model.agents=per_cell", "--model.cells=4"), "cells must be search_cells = 3"),
        (("--model.method=manas_ls", "--model.samples=5"), "samples must be at least"),
        (("--model.method=manas", "--model.exploration=1"), "exploration must be at least 0 and below 1; got 1.0."),
        (
            ("--model.method=manas", "--model.reward_baseline=0"),
            "reward_baseline must be above 0 and finite; got 0.0.",
        ),
        (("--model.method=manas_ls", "--model.refresh=0"), "refresh must be at least 1; got 0."),
        (("--model.method=manas_ls", "--model.baseline_decay=1"), "baseline_decay must be at least 0 and below 1"),
        (("--model.search_cells=2",), "search_cells must be at least 3, since with fewer all are reduction cells"),
        (("--trainer.gradient_clip_val=5",), "trainer.gradient_clip_val must be left out: give model.clip"),
        (("--trainer.accumulate_grad_batches=2",), "trainer.accumulate_grad_batches must be left out"),
        (("--trainer.precision=bf16-true",), "trainer.precision must be 32-true, 64-true or bf16-mixed"),
        (("--data.dataset=cifar10",), "data_dir must name the folder with cifar10"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, flags, message):
    assert message in refused(capsys, tmp_path, *flags)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["cells"]["normal"][0][0].__setitem__(0, "sep_conv_9x9"), "operation must be one of none"),
        (lambda d: d["cells"]["normal"][0][0].__setitem__(1, 7), "must be an earlier state, 0 to 1; got 7."),
        (lambda d: d.__setitem__("schema", 9), "schema must be 1; got 9."),
        (lambda d: d.pop("cells"), "cells is missing"),
    ],
)
def test_a_bad_genotype_is_one_line(tmp_path, capsys, change, message):
    provenance = Provenance(method="darts", norm="bn", num_groups=None, seed=0, run="", commit="")
    document = json.loads(PUBLISHED["DARTS_V2"].to_json(provenance))
    document.pop("hash")
    change(document)
    (tmp_path / "bad.json").write_text(json.dumps(document))
    flags = ("--model.search_epochs=0", f"--model.genotype={tmp_path / 'bad.json'}")
    assert message in refused(capsys, tmp_path, *flags)
