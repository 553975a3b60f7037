"""Means against the sum over a list."""

import math

import pytest
import pytorch_lightning as pl
import torch

from shared.callbacks import share_of_batches, steps_per_epoch
from shared.metrics import WeightedMean


def test_mean_over_unequal_batches_with_weights():
    generator = torch.Generator().manual_seed(0)
    metric, pairs = WeightedMean(), []
    for size in (5, 1, 8):
        values, weights = torch.rand(size, generator=generator), torch.randint(0, 3, (size,), generator=generator)
        metric.update(values, weights)
        pairs += zip(values.tolist(), weights.tolist())
    expected = sum(value * weight for value, weight in pairs) / sum(weight for _, weight in pairs)
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-6)


def test_one_weight_for_a_batch_mean():
    metric = WeightedMean()
    metric.update(torch.tensor(1.0), 10)
    metric.update(torch.tensor(4.0), 5)
    assert float(metric.compute()) == 2.0


def test_state_survives_a_checkpoint_and_a_reset():
    metric, other = WeightedMean(), WeightedMean()
    metric.update(torch.tensor([1.0, 3.0]))
    other.load_state_dict(metric.state_dict())
    other.update(torch.tensor([5.0]))
    assert float(other.compute()) == 3.0
    other.reset()
    other.update(torch.tensor([7.0]))
    assert float(other.compute()) == 7.0


def test_no_weight_is_no_number():
    metric = WeightedMean()
    metric.update(torch.tensor([1.0]), torch.tensor([0.0]))
    assert math.isnan(float(metric.compute()))


def test_half_precision_does_not_round_the_counts():
    """76.32 % of 50,000 images in batches of 250: sums of 8 bits gave 82.42 %."""
    module = torch.nn.ModuleDict({"top1": WeightedMean()}).to(torch.bfloat16)
    metric = module["top1"]
    for start in range(0, 50_000, 250):
        metric.update((torch.arange(start, start + 250) < 38_160).bfloat16())
    assert float(metric.compute()) == pytest.approx(0.7632, rel=1e-6)
    assert metric.double().total.dtype is torch.float32  # torchmetrics' own rule for metrics
    assert module.to(torch.float64)["top1"].total.dtype is torch.float64


@pytest.mark.parametrize(
    ("num_batches", "limit", "accumulated", "steps"),
    [(7, 1.0, 1, 7), (7, 1.0, 3, 3), (6, 1.0, 3, 2), (7, 5, 3, 2), (7, 1, 3, 1), (7, 0.5, 1, 3)],
)
def test_steps_are_those_of_lightning(num_batches, limit, accumulated, steps):
    class Steps(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch):
            return self.layer(batch).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = pl.Trainer(
        max_epochs=1, limit_train_batches=limit, accumulate_grad_batches=accumulated, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    assert steps_per_epoch(trainer, num_batches) == steps
    trainer.fit(Steps(), torch.utils.data.DataLoader(torch.ones(num_batches, 1)))
    assert trainer.global_step == steps
    assert (share_of_batches(trainer) == 1.0) is (limit == 1.0 and isinstance(limit, float))
