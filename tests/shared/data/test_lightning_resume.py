"""Through a real Trainer: a run stopped inside an epoch goes on with the very next batch."""

import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from shared.data.folder import open_image_folder
from shared.data.folder_loader import FolderLoader
from shared.data.loaders import ArrayLoader, Batch

NUM_EPOCHS = 3


class Recorder(pl.LightningModule):
    """One weight, trained on the mean pixel; notes each batch that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int]]] = []
        self.seen_in_validation: list[int] = []

    def training_step(self, batch: Batch) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch.indices.tolist()))
        return (self.weight - batch.images.float().mean() / 255) ** 2

    def validation_step(self, batch: Batch) -> None:
        self.seen_in_validation += batch.indices.tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Interrupt(Callback):
    """Saves a checkpoint at a hook of one step, then stops the run with an exception."""

    def __init__(self, path: Path, *, hook: str, step: int) -> None:
        self.path = path
        self.step = step
        setattr(self, hook, lambda trainer, *_: self._save_and_stop(trainer))

    def _save_and_stop(self, trainer: pl.Trainer) -> None:
        if not trainer.sanity_checking and trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise RuntimeError("stopped here")


def fit(loaders, *, callbacks=(), checkpoint=None, **options) -> Recorder:
    model = Recorder()
    trainer = pl.Trainer(
        max_epochs=NUM_EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
        trainer.fit(model, *loaders, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    return model


@pytest.fixture
def make_loaders(make_image_set, make_folder):
    """Training and validation loaders of either kind: five training batches of four."""

    def make(kind: str):
        if kind == "memory":
            sets = make_image_set(22), make_image_set(6)
            train = ArrayLoader(sets[0], batch_size=4, shuffle=True, seed=0, drop_last=True)
            return train, ArrayLoader(sets[1], batch_size=4, shuffle=False, seed=0)
        if not (folders := list(opened)):
            counts = {"train/a": 11, "train/b": 11, "val/a": 3, "val/b": 3}
            opened.extend(folders := open_image_folder(make_folder(counts)))
        train = FolderLoader(folders[0], batch_size=4, image_size=8, train=True, seed=0, drop_last=True, num_workers=2)
        return train, FolderLoader(folders[1], batch_size=4, image_size=8, train=False, seed=0)

    opened: list = []
    return make


@pytest.mark.parametrize(
    ("hook", "step", "options"),
    [
        ("on_train_batch_end", 1, {}),
        ("on_train_batch_end", 7, {}),
        ("on_train_batch_end", 5, {}),  # the last batch of an epoch
        ("on_train_batch_end", 7, {"max_steps": 13}),
        ("on_validation_end", 5, {}),
        ("on_validation_end", 7, {"val_check_interval": 2}),
        ("on_train_epoch_end", 10, {}),
        ("on_train_batch_end", 4, {"limit_train_batches": 3}),
    ],
)
def test_interrupted_run_sees_what_the_whole_run_sees(make_loaders, tmp_path, hook, step, options):
    whole = fit(make_loaders("memory"), **options)
    path = tmp_path / "stopped.ckpt"
    stopped = Recorder()
    with pytest.raises(RuntimeError, match="stopped here"):
        stopped = fit(make_loaders("memory"), callbacks=[Interrupt(path, hook=hook, step=step)], **options)
    resumed = fit(make_loaders("memory"), checkpoint=path, **options)
    assert stopped.seen == []
    assert len(whole.seen) > step
    assert resumed.seen == whole.seen[step:]
    assert torch.equal(resumed.weight, whole.weight)


def test_workers_that_run_ahead_do_not_move_the_position(make_loaders, tmp_path):
    whole = fit(make_loaders("folder"))
    path = tmp_path / "stopped.ckpt"
    with pytest.raises(RuntimeError, match="stopped here"):
        fit(make_loaders("folder"), callbacks=[Interrupt(path, hook="on_train_batch_end", step=6)])
    resumed = fit(make_loaders("folder"), checkpoint=path)
    assert resumed.seen == whole.seen[6:]
    assert torch.equal(resumed.weight, whole.weight)


def test_epochs_differ_and_validation_is_whole_each_time(make_loaders):
    model = fit(make_loaders("memory"), num_sanity_val_steps=1)
    epochs = [[indices for epoch, indices in model.seen if epoch == number] for number in range(NUM_EPOCHS)]
    assert all(len(epoch) == 5 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert model.seen_in_validation == [0, 1, 2, 3] + list(range(6)) * NUM_EPOCHS
