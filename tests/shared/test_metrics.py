"""Means against the sum over a list."""

import math

import pytest
import torch

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
