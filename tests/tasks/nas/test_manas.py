"""MANAS: estimates in expectation, what the two rewards learn on a synthetic loss, and state to the last bit."""

import math

import pytest
import torch

from nas.genotype import PRIMITIVES
from nas.least_squares import fit_effects, num_determined, zipf_probabilities
from nas.manas import Agents, BanditSettings, LeastSquaresAgents, LeastSquaresSettings

K = len(PRIMITIVES)


def bandit(*, num_cells=2, num_edges=14, shared=False, num_steps=100, **options) -> Agents:
    settings = BanditSettings(num_steps=num_steps, **options)
    return Agents(settings, num_cells=num_cells, num_edges=num_edges, shared=shared)


def least_squares(*, num_cells=2, num_edges=14, shared=False, **options) -> LeastSquaresAgents:
    settings = LeastSquaresSettings(**options)
    return LeastSquaresAgents(settings, num_cells=num_cells, num_edges=num_edges, shared=shared)


class LinearLoss:
    """A loss that falls from 2.3 to 0.5, to which every operation of every agent adds its own, with noise of 0.1."""

    def __init__(self, cells, edges, *, num_steps, seed=0, noise=0.1):
        self.generator = torch.Generator().manual_seed(seed)
        self.effects = torch.rand(cells, edges, K, generator=self.generator, dtype=torch.float64) / (cells * edges)
        self.num_steps, self.noise = num_steps, noise

    def of(self, path):
        return float(self.effects.gather(-1, path.unsqueeze(-1)).sum())

    def at(self, path, step):
        fallen = 2.3 - 1.8 * step / self.num_steps
        return fallen + self.of(path) + self.noise * float(torch.randn((), generator=self.generator))

    def regret(self, path):
        """0 for the best path, 1 for the mean over all."""
        best, mean = float(self.effects.amin(-1).sum()), float(self.effects.mean(-1).sum())
        return (self.of(path) - best) / (mean - best)


def learn(agents, loss, *, num_steps, seed=0):
    generator = torch.Generator().manual_seed(100 + seed)
    for step in range(num_steps):
        path = agents.sample(generator)
        agents.update(path, loss.at(path, step))
    return agents


def entropy(agents):
    weights = agents.probabilities()
    return float(-(weights * weights.log()).sum(-1).mean())


def test_the_literal_reward_hardly_learns_and_the_centred_one_does():
    """28 agents over as many rounds as a search of 50 epochs has; the literal one loses entropy all the same."""
    num_steps, found = 19_550, {}
    for reward in ("literal", "centred"):
        loss = LinearLoss(2, 14, num_steps=num_steps)
        agents = learn(bandit(num_steps=num_steps, reward=reward), loss, num_steps=num_steps)
        hits = (agents.best_path() == loss.effects.argmin(-1)).double().mean()
        found[reward] = (loss.regret(agents.best_path()), float(hits), entropy(agents))
    literal, centred = found["literal"], found["centred"]
    assert literal[0] > 0.35
    assert literal[1] < 0.45
    assert literal[2] < math.log(K) - 0.3
    assert centred[0] < 0.1
    assert centred[1] > 0.7


def test_exp3_by_hand():
    """One update of one agent: the reward is divided by the probability of what was drawn."""
    agents = bandit(num_cells=1, num_edges=2, reward="literal", temperature_start=10.0, temperature_end=10.0)
    agents.update(torch.tensor([[3, 0]]), 2.0)
    expected = torch.zeros(2, K, dtype=torch.float64)
    expected[0, 3] = expected[1, 0] = 3.0 * K
    torch.testing.assert_close(agents.rewards[0], expected)
    probabilities = 0.9 * (expected / 10).softmax(-1) + 0.1 / K
    torch.testing.assert_close(agents.probabilities()[0], probabilities)
    assert float(agents.probabilities().min()) >= 0.1 / K
    agents.update(torch.tensor([[3, 1]]), 9.0)
    torch.testing.assert_close(agents.rewards[0, 1, 1], torch.zeros((), dtype=torch.float64))


def test_zipf_and_the_rank_rule():
    shares = zipf_probabilities(torch.tensor([0.3, -1.0, 0.0, 2.0, 5.0, 4.0, 3.0, 1.0]))
    assert [round(float(share), 3) for share in shares.sort(descending=True).values] == [
        0.368, 0.184, 0.123, 0.092, 0.074, 0.061, 0.053, 0.046,
    ]  # fmt: skip
    assert int(shares.argmax()) == 1, "the least loss is likeliest"
    assert [num_determined(number, K) for number in (28, 112, 280)] == [197, 785, 1961]
    paths = torch.randint(K, (400, 4), generator=torch.Generator().manual_seed(0))
    effects = torch.rand(4, K, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    losses = effects[torch.arange(4), paths].sum(-1)
    found = fit_effects(paths, losses, num_operations=K)
    assert (found.rank, found.full_rank) == (29, 29)
    differences = effects - effects[:, :1]
    torch.testing.assert_close(found.effects - found.effects[:, :1], differences)
    assert fit_effects(paths[:10], losses[:10], num_operations=K).rank < 29


def test_least_squares_agents_find_the_best_operations():
    loss = LinearLoss(1, 5, num_steps=600, noise=0.01)
    agents = learn(least_squares(num_cells=1, num_edges=5), loss, num_steps=600)
    assert agents.rank == 5 * (K - 1) + 1
    assert loss.regret(agents.best_path()) < 0.1


def test_agents_go_on_bit_for_bit_from_their_state():
    for make in (bandit, lambda: least_squares(num_edges=2)):
        loss = LinearLoss(2, 14, num_steps=300)
        first, second = make(), make()
        if isinstance(first, LeastSquaresAgents):
            loss = LinearLoss(2, 2, num_steps=300)
        learn(first, loss, num_steps=150)
        second.load_state_dict(first.state_dict())
        for agents in (first, second):
            again = LinearLoss(*first.shape[:2], num_steps=300)
            learn(agents, again, num_steps=100, seed=1)
        assert torch.equal(first.probabilities(), second.probabilities())
        assert not torch.equal(first.probabilities(), make().probabilities())


def test_shared_agents_give_all_cells_of_a_type_one_path():
    agents = bandit(num_cells=8, shared=True)
    path = agents.sample(torch.Generator().manual_seed(0))
    assert path.shape == (8, 14)
    for cell in range(8):
        assert torch.equal(path[cell], path[2 if cell in (2, 5) else 0])
    assert agents.num_agents == 28
    with pytest.raises(ValueError, match="path must be the same in all cells that share their agents"):
        agents.update(torch.randint(K, (8, 14), generator=torch.Generator().manual_seed(0)), 1.0)
