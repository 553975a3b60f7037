"""MANAS: estimates in expectation, what the two rewards learn on a synthetic loss, and state to the last bit."""

import math

import torch

from nas.genotype import PRIMITIVES
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
