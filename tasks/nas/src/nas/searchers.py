"""The searches behind one interface: what happens before and after each step of the weights, and what was found."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nas import protocol
from nas.agent_tables import AgentTables
from nas.bilevel import Hvp, InnerStep, Reduce, first_order, second_order
from nas.data import SearchBatch
from nas.genotype import Genotype, derive_genotype, random_genotype
from nas.space import PRIMITIVES, num_edges
from nas.supernet import genotype_path
from shared.callbacks import Diverged


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What a search may do with the network in training.

    Args:
        loss: Mean cross-entropy of images and labels under `mixing=` or `paths=`.
        weights: The network's parameters.
        momenta: Their momentum buffers; None before the first step.
        inner: The step that the second order looks ahead.
        held: Context in which running statistics stay what they are.
        reduce: Averages gradients over processes.
        step_architecture: Gives the architecture its gradients and makes its optimiser's step.
        log: Logs numbers.
    """

    loss: Callable[..., Tensor]
    weights: Sequence[Tensor]
    momenta: Sequence[Tensor | None]
    inner: InnerStep
    held: Callable[[], AbstractContextManager[Any]]
    reduce: Reduce
    step_architecture: Callable[[Sequence[Tensor]], None]
    log: Callable[[dict[str, Tensor | float]], None]


class Searcher(nn.Module):
    """A search's own state; the weights are the network's.

    Args:
        num_nodes: Nodes of a cell.
        num_cells: Cells of the search network.
    """

    per_cell: bool = False
    """Whether each place has its own cell."""

    def __init__(self, *, num_nodes: int, num_cells: int) -> None:
        super().__init__()
        self.num_nodes, self.num_cells = num_nodes, num_cells

    @abstractmethod
    def before_weights(self, tools: Tools, batch: SearchBatch) -> dict[str, Tensor]:
        """Do what comes before a step of the weights, and return under which architecture it is made.

        Args:
            tools: What may be done.
            batch: Images of both halves.

        Returns:
            `mixing` or `paths` of the search network.
        """

    def after_weights(self, tools: Tools, batch: SearchBatch, how: dict[str, Tensor]) -> None:
        """Do what comes after a step of the weights; nothing by default.

        Args:
            tools: What may be done.
            batch: The step's images.
            how: What `before_weights` returned.
        """

    @abstractmethod
    def tables(self) -> Float[Tensor, "tables edges ops"]:
        """Return how much each operation of each edge is preferred: rows sum to 1."""

    @abstractmethod
    def preferred(self) -> dict[str, Tensor]:
        """Return the `mixing` or `paths` of the search network that a validation stands for."""

    def genotype(self, name: str) -> Genotype:
        """Return the architecture that follows from what is preferred."""
        return derive_genotype(self.tables(), name=name, num_nodes=self.num_nodes, per_cell=self.per_cell)

    def candidates(self) -> list[Int64[Tensor, "places edges"]]:
        """Return the paths that validation compares: that of the genotype, unless a search has several."""
        return [genotype_path(self.genotype("derived"), num_cells=self.num_cells)]

    def rate(self, scores: Sequence[float]) -> None:
        """Take the validation accuracies of the candidates; of no use by default."""

    def baseline_path(self, number: int) -> Int64[Tensor, "places edges"] | None:  # noqa: ARG002
        """Return a path drawn uniformly, to compare with; None where there is nothing to compare.

        Args:
            number: Of the draw: the same number gives the same path.
        """
        return None


class DartsSearch(Searcher):
    """Alphas trained by gradient, before each step of the weights.

    Args:
        order: first or second.
        hvp: Of the second order.
        num_nodes: Nodes of a cell.
        num_cells: Cells of the search network.
    """

    def __init__(self, *, order: protocol.Order, hvp: Hvp, num_nodes: int, num_cells: int) -> None:
        super().__init__(num_nodes=num_nodes, num_cells=num_cells)
        self.order, self.hvp = order, hvp
        shape = (2, num_edges(num_nodes), len(PRIMITIVES))
        self.alphas = nn.Parameter(protocol.ALPHA_SCALE * torch.randn(shape))

    def before_weights(self, tools: Tools, batch: SearchBatch) -> dict[str, Tensor]:
        """Make a step of the alphas."""

        def train_loss() -> Tensor:
            return tools.loss(batch.images, batch.labels, mixing=self.alphas.softmax(-1))

        def val_loss() -> Tensor:
            return tools.loss(batch.alpha_images, batch.alpha_labels, mixing=self.alphas.softmax(-1))

        with tools.held():
            if self.order == "first":
                gradients = first_order(val_loss, [self.alphas], reduce=tools.reduce)
            else:
                found = second_order(
                    train_loss, val_loss, tools.weights, [self.alphas], tools.momenta, step=tools.inner,
                    hvp=self.hvp, reduce=tools.reduce,
                )  # fmt: skip
                gradients = found.gradients
                tools.log({"search/second_order_share": found.second_norm / found.first_norm.clamp(min=1e-12)})
        tools.step_architecture(gradients)
        return self.preferred()

    def preferred(self) -> dict[str, Tensor]:
        """Return the weights of the operations."""
        return {"mixing": self.alphas.detach().softmax(-1)}

    def tables(self) -> Float[Tensor, "tables edges ops"]:
        """Return the weights of the operations."""
        return self.preferred()["mixing"].cpu()


class _Drawing(Searcher):
    """A search that draws paths, from a generator whose state is kept.

    Args:
        seed: Of the generator.
        num_nodes: Nodes of a cell.
        num_cells: Cells of the search network.
    """

    def __init__(self, *, seed: int, num_nodes: int, num_cells: int) -> None:
        super().__init__(num_nodes=num_nodes, num_cells=num_cells)
        self.generator = torch.Generator().manual_seed(seed)

    @abstractmethod
    def draw_path(self) -> Int64[Tensor, "places edges"]:
        """Return the path of a step, the same on all processes."""

    def before_weights(self, tools: Tools, batch: SearchBatch) -> dict[str, Tensor]:  # noqa: ARG002
        """Draw the path of the step."""
        return {"paths": self.draw_path()}

    def get_extra_state(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"generator": self.generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the generator's state over."""
        self.generator.set_state(state["generator"].cpu())


class ManasSearch(_Drawing):
    """Agents that draw a path for each step and learn from its loss after it.

    Args:
        agents: The agents.
        per_cell: Whether each place has its own.
        seed: Of the draws.
        num_nodes: Nodes of a cell.
        num_cells: Cells of the search network.
    """

    def __init__(self, agents: AgentTables, *, per_cell: bool, seed: int, num_nodes: int, num_cells: int) -> None:
        super().__init__(seed=seed, num_nodes=num_nodes, num_cells=num_cells)
        self.agents, self.per_cell = agents, per_cell

    def untaught(self, num_steps: int) -> str | None:
        """Say why so many steps teach the agents nothing; None where they teach something."""
        if num_steps > self.agents.num_unlearned:
            return None
        return (
            f"the search has {num_steps} steps, and its agents learn nothing in the first "
            f"{self.agents.num_unlearned}: the genotype is that of even preferences; give more epochs or fewer samples"
        )

    def draw_path(self) -> Int64[Tensor, "places edges"]:
        """Return a path that the agents draw."""
        return self.agents.sample(self.generator)

    def preferred(self) -> dict[str, Tensor]:
        """Return the path of each agent's likeliest operation."""
        return {"paths": self.agents.best_path()}

    def after_weights(self, tools: Tools, batch: SearchBatch, how: dict[str, Tensor]) -> None:
        """Tell the agents the loss of the path on the other half, at the weights after the step.

        Raises:
            Diverged: If it is not finite.
        """
        with torch.no_grad(), tools.held():
            (loss,) = tools.reduce([tools.loss(batch.alpha_images, batch.alpha_labels, **how)])
        if not math.isfinite(float(loss)):
            raise Diverged("the validation loss of a path is not finite")
        self.agents.update(how["paths"], float(loss))
        tools.log({"search/path_loss": loss})

    def tables(self) -> Float[Tensor, "tables edges ops"]:
        """Return the agents' probabilities."""
        return self.agents.probabilities()

    def baseline_path(self, number: int) -> Int64[Tensor, "places edges"]:
        """Return a path that untaught agents would draw; the search's own generator stays where it is.

        Args:
            number: Of the draw.
        """
        return self.agents.sample_uniform(torch.Generator().manual_seed(number))

    def get_extra_state(self) -> dict[str, Any]:
        """Return the generator's and the agents' state."""
        return {**super().get_extra_state(), "agents": self.agents.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take both over."""
        super().set_extra_state(state)
        self.agents.load_state_dict({name: value.cpu() for name, value in state["agents"].items()})


class RandomSearch(_Drawing):
    """Random search with shared weights: a random genotype a step; of fixed random candidates, the best is found.

    Args:
        num_candidates: Genotypes that are compared, drawn from the seed.
        seed: Of the draws.
        num_nodes: Nodes of a cell.
        num_cells: Cells of the search network.

    Source: Li and Talwalkar 2019, "Random Search and Reproducibility for NAS", Section 3.2.
    """

    def __init__(self, *, num_candidates: int, seed: int, num_nodes: int, num_cells: int) -> None:
        super().__init__(seed=seed, num_nodes=num_nodes, num_cells=num_cells)
        own = torch.Generator().manual_seed(seed)
        self.genotypes = [random_genotype(num_nodes, generator=own) for _ in range(num_candidates)]
        self.register_buffer("scores", torch.zeros(num_candidates))

    scores: Tensor

    def preferred(self) -> dict[str, Tensor]:
        """Return the path of the first candidate, one at random."""
        return {"paths": genotype_path(self.genotypes[0], num_cells=self.num_cells)}

    def draw_path(self) -> Int64[Tensor, "places edges"]:
        """Return the path of a random genotype."""
        return genotype_path(random_genotype(self.num_nodes, generator=self.generator), num_cells=self.num_cells)

    def tables(self) -> Float[Tensor, "tables edges ops"]:
        """Return even preferences: random search has no others."""
        return torch.full((2, num_edges(self.num_nodes), len(PRIMITIVES)), 1 / len(PRIMITIVES))

    def candidates(self) -> list[Int64[Tensor, "places edges"]]:
        """Return the paths of all candidates."""
        return [genotype_path(genotype, num_cells=self.num_cells) for genotype in self.genotypes]

    def rate(self, scores: Sequence[float]) -> None:
        """Keep the accuracies of the latest validation."""
        self.scores.copy_(torch.tensor(scores))

    def genotype(self, name: str) -> Genotype:
        """Return the best candidate; the first of equals."""
        best = self.genotypes[int(self.scores.argmax())]
        return Genotype(name=name, cells=best.cells, per_cell=best.per_cell)
