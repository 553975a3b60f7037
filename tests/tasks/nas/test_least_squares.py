"""The fit of MANAS-LS against numpy's pseudo-inverse, and Zipf's numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.least_squares import fit_effects, num_determined, zipf_probabilities


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_samples=st.integers(1, 60),
    num_agents=st.integers(1, 5),
    num_operations=st.integers(2, 8),
)
def test_fit_is_that_of_the_pseudo_inverse(seed, num_samples, num_agents, num_operations):
    """Too few samples, and operations that never came, included."""
    generator = torch.Generator().manual_seed(seed)
    paths = torch.randint(num_operations, (num_samples, num_agents), generator=generator)
    losses = torch.randn(num_samples, generator=generator, dtype=torch.float64)
    design = np.zeros((num_samples, num_agents, num_operations))
    for s in range(num_samples):
        for i in range(num_agents):
            design[s, i, paths[s, i]] = 1
    design = design.reshape(num_samples, -1)
    fitted = fit_effects(paths, losses, num_operations=num_operations)
    assert fitted.rank == np.linalg.matrix_rank(design)
    assert fitted.full_rank == num_determined(num_agents, num_operations) >= fitted.rank
    by_numpy = np.linalg.pinv(design, rcond=1e-10) @ losses.numpy()
    np.testing.assert_allclose(fitted.effects.flatten().numpy(), by_numpy, rtol=1e-6, atol=1e-8)


def test_effects_come_back_without_noise():
    """28 agents of 8 operations at twice the fewest samples: all differences, and so all ranks."""
    generator = torch.Generator().manual_seed(0)
    effects = torch.randn(28, 8, generator=generator, dtype=torch.float64)
    paths = torch.randint(8, (2 * 197, 28), generator=generator)
    losses = effects[torch.arange(28), paths].sum(-1)
    fitted = fit_effects(paths, losses, num_operations=8)
    assert fitted.rank == fitted.full_rank == 197
    assert torch.equal(fitted.effects.argsort(-1), effects.argsort(-1))
    centred = [table - table.mean(-1, keepdim=True) for table in (fitted.effects, effects)]
    torch.testing.assert_close(*centred, rtol=1e-9, atol=1e-9)


def test_fewest_samples_are_those_of_the_sheet():
    assert [num_determined(agents, 8) for agents in (28, 112, 280)] == [197, 785, 1961]


def test_zipf_numbers_are_as_printed():
    weights = zipf_probabilities(torch.arange(8.0))
    assert [round(float(weight), 3) for weight in weights] == [0.368, 0.184, 0.123, 0.092, 0.074, 0.061, 0.053, 0.046]
    assert round(1 / float(weights[0]), 4) == 2.7179
    assert float(weights.sum()) == pytest.approx(1, abs=1e-15)


def test_the_least_loss_is_likeliest_and_ties_go_to_the_lower_index():
    weights = zipf_probabilities(torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 0.0]]))
    harmonic = 11 / 6
    expected = [[1 / 3, 1, 1 / 2], [1 / 2, 1 / 3, 1]]
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64) / harmonic)
