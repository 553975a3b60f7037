"""Agents on the edges of the cells: whose agents a cell uses, and how a path is drawn from their probabilities."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from nas.genotype import PRIMITIVES, reduction_places

MIN_SHARED_CELLS = 3
"""The fewest cells among which there is a normal one."""


class AgentTables(ABC):
    """What both kinds of agents share: whose table a cell uses, sampling, and the mean of what came so far.

    Args:
        num_cells: Cells of the network.
        num_edges: Edges of a cell.
        shared: Whether all normal cells have the same agents, and all reduction cells: then one operation is sampled
            for an edge, and all cells of the type use it. Otherwise each cell has its own.
        num_operations: Operations of an edge.

    Raises:
        ValueError: If agents are shared and there is no normal cell.
    """

    def __init__(self, *, num_cells: int, num_edges: int, shared: bool, num_operations: int = len(PRIMITIVES)) -> None:
        if shared and num_cells < MIN_SHARED_CELLS:
            raise ValueError(f"num_cells must be at least {MIN_SHARED_CELLS} for shared agents; got {num_cells}.")
        places = range(num_cells)
        self.table_of_cell = [int(place in reduction_places(num_cells)) for place in places] if shared else [*places]
        self.shape = (max(self.table_of_cell) + 1, num_edges, num_operations)
        self.step = 0
        self.mean: float | None = None

    @property
    def num_agents(self) -> int:
        """Agents of the search."""
        return self.shape[0] * self.shape[1]

    @property
    def num_unlearned(self) -> int:
        """Updates at the start that teach nothing yet."""
        return 0

    @abstractmethod
    def probabilities(self) -> Float64[Tensor, "tables edges ops"]:
        """Return the probability of each operation of each agent: two tables if shared, else one a cell."""

    @abstractmethod
    def _learn(self, actions: Int64[Tensor, "tables edges"], loss: float) -> None:
        """Learn from one loss."""

    def sample(self, generator: torch.Generator) -> Int64[Tensor, "cells edges"]:
        """Draw a path: an operation of each agent, as columns of `PRIMITIVES`.

        Args:
            generator: On the CPU. Its state belongs in the checkpoint beside the agents'.
        """
        return self._path(torch.multinomial(self.probabilities().flatten(0, 1), 1, generator=generator))

    def sample_uniform(self, generator: torch.Generator) -> Int64[Tensor, "cells edges"]:
        """Draw a path as untaught agents would, to compare `best_path` with."""
        return self._path(torch.randint(self.shape[2], self.shape[:2], generator=generator))

    def best_path(self) -> Int64[Tensor, "cells edges"]:
        """Return the path of each agent's likeliest operation; ties go to the lower index."""
        return self._path(self.probabilities().argsort(dim=-1, descending=True, stable=True)[..., 0])

    def update(self, path: Int64[Tensor, "cells edges"], loss: float) -> None:
        """Learn from the loss of a path, which must have been sampled since the last update.

        Args:
            path: What `sample` returned.
            loss: Cross-entropy of the path's network on a validation batch, mean over it (and over all ranks).

        Raises:
            ValueError: If the loss is no number, or the path is not one of these agents.
        """
        if math.isnan(loss):
            raise ValueError("loss must be a number; got nan. The weights have diverged.")
        self._learn(self._actions(path), float(loss))
        self.step += 1

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state, as tensors."""
        mean = math.nan if self.mean is None else self.mean
        return {"step": torch.tensor(self.step), "mean": torch.tensor(mean, dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a state.

        Raises:
            ValueError: If it is one of other agents.
        """
        own = self.state_dict()
        if _shapes(state) != _shapes(own):
            raise ValueError(
                f"the agents' state must be {_shapes(own)}; got {_shapes(state)}. It is of another search: resume "
                "with the settings that it was started with."
            )
        self.step = int(state["step"])
        mean = float(state["mean"])
        self.mean = None if math.isnan(mean) else mean

    def _path(self, actions: Int64[Tensor, ...]) -> Int64[Tensor, "cells edges"]:
        return actions.reshape(self.shape[:2])[self.table_of_cell]

    def _actions(self, path: Int64[Tensor, "cells edges"]) -> Int64[Tensor, "tables edges"]:
        """Return each agent's action; cells that share agents must have the same."""
        if path.shape != (len(self.table_of_cell), self.shape[1]):
            expected = (len(self.table_of_cell), self.shape[1])
            raise ValueError(f"path must be of shape {expected}, cells × edges; got {tuple(path.shape)}.")
        path = path.cpu()
        actions = path[[self.table_of_cell.index(table) for table in range(self.shape[0])]]
        if not torch.equal(actions[self.table_of_cell], path):
            raise ValueError("path must be the same in all cells that share their agents; got one that is not.")
        return actions

    def _deviation(self, value: float, decay: float) -> float:
        """Move the mean towards a value, and return how far the value is from it then."""
        self.mean = value if self.mean is None else decay * self.mean + (1 - decay) * value
        return value - self.mean


def _shapes(state: dict[str, Tensor]) -> str:
    """Say what a state holds, for a message."""
    return ", ".join(f"{name} {'×'.join(map(str, state[name].shape)) or 'number'}" for name in sorted(state))
