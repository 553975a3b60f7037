"""Mistakes of a user of domain adaptation: one line, exit code 2, nothing written."""

import pytest
from task_runs import TRANSDUCTIVE_NORM, TaskRuns

RUNS = TaskRuns("uda", smoke=["--model.pictures=false"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.source=amazn"], "source must be one of amazon, dslr, webcam; got 'amazn'. Did you mean 'amazon'?"),
        (["--data.source=/no/where"], "amazon, dslr, webcam, or a folder where target is one, too; got '/no/where'."),
        (["--data.source=/tmp"], "got '/tmp'. Give two folders that exist, or args=\"--data.dataset=folders\"."),
        (["--data.target=dslr"], "source and target must be different domains; got dslr for both."),
        (["--model.weights=nowhere.pth"], "weights must be a file with the state dict of a torchvision network; got"),
        (["--data.image_size=0", "--data.crop_size=16"], "image_size must be at least 1; got 0."),
        (["--data.crop_size=0"], "crop_size must be at least 1; got 0."),
        (["--trainer.check_val_every_n_epoch=2"], "trainer.check_val_every_n_epoch must be 1"),
        (["--trainer.max_epochs=1"], "trainer.max_epochs must be above the 1 of model.warmup_epochs"),
        (["--model.threshold=1.5"], "threshold must be in (0, 1], a distance; got 1.5."),
        (["--model.min_images=0"], "min_images must be at least 1; got 0."),
        (["--model.decay_rate=0"], "decay_rate must be in (0, 1]; got 0.0."),
        (["--model.learning_rate=-1"], "learning_rate must be above 0; got -1.0."),
        (["--model.cdd_weight=-1"], "cdd_weight must be at least 0; got -1.0."),
        (["--data.batch_size=37"], "batch_size must be at most the 36 source images; got 37."),
        (["--data.crop_size=19"], "crop_size must be at most the image_size of 18; got 19."),
        (["--data.dataset=office31"], "data_dir must name the folder with Office-31; got nothing."),
        (["--data.transfer=aa"], "transfer must be one of da, wa, wd, ad, aw, dw; got 'aa'."),
        (["--data.download=true"], "download must be false"),
        (["--model.norm=bn", "--model.num_groups=4"], "num_groups must be left out for norm 'bn'"),
        (["--model.backbone=resnet51"], "backbone must be one of"),
        (["--model.num_groups=512"], "D=256, G=512. Give a smaller num_groups=."),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        RUNS.run(tmp_path, *flags)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not list(tmp_path.iterdir())


def test_a_norm_that_sees_the_other_target_images_is_refused_before_the_warm_up(tmp_path, monkeypatch, capsys):
    (tmp_path / "transductive.py").write_text(TRANSDUCTIVE_NORM)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as stop:
        RUNS.run(tmp_path / "runs", "--model.norm=transductive:Transductive")
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert "norm must give an image the same embedding" in output.err
    assert "epoch 1" not in output.out
    assert not list((tmp_path / "runs").glob("uda/*"))
