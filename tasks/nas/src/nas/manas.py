"""MANAS: an agent on each edge that samples an operation and learns from the loss of the sampled network.

The sources leave a few things open; what is read into them stands at each setting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from nas.agent_tables import AgentTables
from nas.least_squares import fit_effects, num_determined, zipf_probabilities


@dataclass(frozen=True, kw_only=True)
class BanditSettings:
    """How the agents of MANAS learn.

    Args:
        num_steps: Updates of the whole search, over which the temperature falls.
        reward: "centred" takes the mean of the rewards so far from each; "literal" does not, as published, and hardly
            learns: a reward of about 4 adds noise of its own size, whichever operation it was for.
        reward_baseline: The reward is this minus the loss, cut to [0, this].
        baseline_decay: Decay of the mean of the rewards, a step.
        exploration: Share γ of the uniform distribution in each agent's, at least 0 and below 1.
        temperature_start: Divisor of the summed rewards at the first update.
        temperature_end: The same after the last.

    Raises:
        ValueError: If a value is out of its range.

    Source: Yang et al. 2020, "NAS evaluation is frustratingly hard", Appendix A: reward baseline 5, gamma 0.1,
        Boltzmann temperature 1000 to 200 on CIFAR.
    """

    num_steps: int
    reward: Literal["centred", "literal"] = "centred"
    reward_baseline: float = 5.0
    baseline_decay: float = 0.99
    exploration: float = 0.1
    temperature_start: float = 1000.0
    temperature_end: float = 200.0

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1; got {self.num_steps}.")
        if self.reward not in ("centred", "literal"):
            raise ValueError(f"reward must be centred or literal; got {self.reward!r}.")
        if not 0 <= self.exploration < 1:
            raise ValueError(f"exploration must be at least 0 and below 1; got {self.exploration}.")
        _check_decay(self.baseline_decay)
        for name in ("reward_baseline", "temperature_start", "temperature_end"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite; got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class LeastSquaresSettings:
    """How the agents of MANAS-LS learn.

    Args:
        samples: Networks that a fit is of, the latest ones; until there are as many, agents sample uniformly.
            None: twice the fewest that determine all effects, N (K - 1) + 1 for N agents.
        refresh: Updates between fits.
        baseline_decay: Decay of the mean loss that is taken from each loss, a step: the loss falls while the weights
            are trained, and an operation must not look good for having been sampled late.

    Raises:
        ValueError: If a value is out of its range.

    Source: Carlucci et al. 2019, MANAS-LS; neither `samples` nor `refresh` is stated there.
    """

    samples: int | None = None
    refresh: int = 50
    baseline_decay: float = 0.99

    def __post_init__(self) -> None:
        if self.refresh < 1:
            raise ValueError(f"refresh must be at least 1; got {self.refresh}.")
        _check_decay(self.baseline_decay)


def _check_decay(value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"baseline_decay must be at least 0 and below 1; got {value}.")


class Agents(AgentTables):
    r"""MANAS: an Exp3 bandit on each edge.

    .. math::
        r_t &= \operatorname{clip}(5 - L_t, 0, 5), \qquad
        B^i_k \leftarrow B^i_k + \frac{r_t - b_t}{\pi^i_k} \mathbb 1[a^i_t = k] \\
        \pi^i &= (1 - \gamma) \operatorname{softmax}(B^i / T_t) + \gamma / K

    with :math:`b_t` the mean of the rewards, this one included (which scales the step by the decay), or 0 for the
    literal reward. T falls linearly.

    Args:
        settings: How they learn.
        num_cells: Cells of the network.
        num_edges: Edges of a cell.
        shared: Whether all normal cells have the same agents, and all reduction cells.

    Source: Carlucci et al. 2019, MANAS. It prints :math:`+\eta B` with summed losses, which prefers what loses most;
        read as rewards, with :math:`T = 1 / \eta` and γ Exp3's exploration (see `BanditSettings`).
    """

    def __init__(self, settings: BanditSettings, *, num_cells: int, num_edges: int, shared: bool) -> None:
        super().__init__(num_cells=num_cells, num_edges=num_edges, shared=shared)
        self.settings = settings
        self.rewards = torch.zeros(self.shape, dtype=torch.float64)

    @property
    def temperature(self) -> float:
        """The temperature T now."""
        start, end = self.settings.temperature_start, self.settings.temperature_end
        return start + (end - start) * min(self.step / self.settings.num_steps, 1.0)

    def probabilities(self) -> Float64[Tensor, "tables edges ops"]:
        """Return the probability of each operation of each agent: two tables if shared, else one a cell."""
        exploration = self.settings.exploration
        return (1 - exploration) * (self.rewards / self.temperature).softmax(-1) + exploration / self.shape[2]

    def reward(self, loss: float) -> float:
        """Return the reward for a loss, before a mean is taken from it."""
        return min(max(self.settings.reward_baseline - loss, 0.0), self.settings.reward_baseline)

    def _learn(self, actions: Int64[Tensor, "tables edges"], loss: float) -> None:
        reward = self.reward(loss)
        deviation = self._deviation(reward, self.settings.baseline_decay)
        step = deviation if self.settings.reward == "centred" else reward
        chosen = actions.unsqueeze(-1)
        self.rewards.scatter_add_(-1, chosen, step / self.probabilities().gather(-1, chosen))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state, as tensors."""
        return {**super().state_dict(), "rewards": self.rewards.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a state."""
        super().load_state_dict(state)
        self.rewards = state["rewards"].clone()


class LeastSquaresAgents(AgentTables):
    r"""MANAS-LS: every `refresh` updates, the latest losses are fitted by the sampled operations, which are ranked.

    The loss minus its running mean goes into the fit (`fit_effects`); an operation of rank r is then sampled with
    probability :math:`1 / (r H_K)` (`zipf_probabilities`).

    Args:
        settings: How they learn.
        num_cells: Cells of the network.
        num_edges: Edges of a cell.
        shared: Whether all normal cells have the same agents, and all reduction cells.

    Raises:
        ValueError: If the fit is of fewer samples than can determine the effects.

    Source: Carlucci et al. 2019, MANAS-LS.
    """

    def __init__(self, settings: LeastSquaresSettings, *, num_cells: int, num_edges: int, shared: bool) -> None:
        super().__init__(num_cells=num_cells, num_edges=num_edges, shared=shared)
        self.settings = settings
        needed = num_determined(self.num_agents, self.shape[2])
        num_samples = 2 * needed if settings.samples is None else settings.samples
        if num_samples < needed:
            raise ValueError(
                f"samples must be at least {needed} to rank {self.shape[2]} operations of {self.num_agents} "
                f"agents (N (K - 1) + 1); got {num_samples}."
            )
        self.paths = torch.zeros(num_samples, self.num_agents, dtype=torch.uint8)
        self.losses = torch.zeros(num_samples, dtype=torch.float64)
        self.weights = torch.full(self.shape, 1 / self.shape[2], dtype=torch.float64)
        self.rank = 0

    def probabilities(self) -> Float64[Tensor, "tables edges ops"]:
        """Return the probability of each operation of each agent: two tables if shared, else one a cell."""
        return self.weights

    @property
    def num_unlearned(self) -> int:
        """Updates before the first fit."""
        return len(self.losses) - 1

    def _learn(self, actions: Int64[Tensor, "tables edges"], loss: float) -> None:
        if math.isinf(loss):
            raise ValueError(f"loss must be finite; got {loss}. The weights have diverged.")
        slot = self.step % len(self.losses)
        self.paths[slot] = actions.flatten()
        self.losses[slot] = self._deviation(loss, self.settings.baseline_decay)
        seen = self.step + 1
        if seen >= len(self.losses) and (seen - len(self.losses)) % self.settings.refresh == 0:
            fitted = fit_effects(self.paths.long(), self.losses, num_operations=self.shape[2])
            self.weights = zipf_probabilities(fitted.effects.reshape(self.shape))
            self.rank = fitted.rank

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state, as tensors."""
        kept = {name: getattr(self, name).clone() for name in ("paths", "losses", "weights")}
        return {**super().state_dict(), **kept, "rank": torch.tensor(self.rank)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a state."""
        super().load_state_dict(state)
        for name in ("paths", "losses", "weights"):
            setattr(self, name, state[name].clone())
        self.rank = int(state["rank"])
