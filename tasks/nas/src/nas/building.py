"""What a run builds: the search network, its searcher, and the network that is retrained."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

from nas import protocol
from nas.agent_tables import MIN_SHARED_CELLS, AgentTables
from nas.bilevel import Hvp
from nas.data import NasData
from nas.genotype import Genotype
from nas.manas import Agents, BanditSettings, LeastSquaresAgents, LeastSquaresSettings
from nas.network import EvaluationNetwork
from nas.searchers import DartsSearch, ManasSearch, RandomSearch, Searcher
from nas.space import num_edges
from nas.supernet import SearchNetwork
from norm_layers import norm_factory
from shared.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """A search as `NasModule` is asked for it, which says what each setting means.

    Raises:
        ValueError: If a setting is out of its range.
    """

    method: protocol.Method
    order: protocol.Order
    hvp: Hvp
    agents: Literal["per_cell", "shared"]
    reward: Literal["centred", "literal"]
    temperature_start: float
    temperature_end: float
    exploration: float
    reward_baseline: float
    baseline_decay: float
    samples: int | None
    refresh: int
    random_candidates: int
    epochs: int
    channels: int
    cells: int
    nodes: int
    learning_rate: float
    learning_rate_end: float
    architecture_learning_rate: float
    statistics: Literal["batch", "running"]

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"search_epochs must be at least 0; got {self.epochs}.")
        sizes = {"search_channels": self.channels, "search_cells": self.cells, "nodes": self.nodes}
        for name, value in {**sizes, "random_candidates": self.random_candidates}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        rates = {
            "search_learning_rate": self.learning_rate, "architecture_learning_rate": self.architecture_learning_rate
        }  # fmt: skip
        for name, rate in rates.items():
            if rate <= 0:
                raise ValueError(f"{name} must be above 0; got {rate}.")
        if not 0 <= self.learning_rate_end <= self.learning_rate:
            raise ValueError(
                f"search_learning_rate_end must be from 0 to search_learning_rate = {self.learning_rate:g}; "
                f"got {self.learning_rate_end:g}."
            )
        is_shared = self.agents == "shared" or not self.method.startswith("manas")
        if self.epochs > 0 and is_shared and self.cells < MIN_SHARED_CELLS:
            raise ValueError(
                f"search_cells must be at least {MIN_SHARED_CELLS}, since with fewer all are reduction cells and no "
                f"normal one is searched; got {self.cells}."
            )
        if self.epochs > 0:
            build_searcher(self, num_steps=1, seed=0)  # tells what is wrong before anything is opened


def build_searcher(settings: SearchSettings, *, num_steps: int, seed: int) -> Searcher:
    """Return the search's own state.

    Args:
        settings: The search.
        num_steps: Steps of the whole search.
        seed: Of the draws of paths and candidates.
    """
    sizes = {"num_nodes": settings.nodes, "num_cells": settings.cells}
    if settings.method == "darts":
        return DartsSearch(order=settings.order, hvp=settings.hvp, **sizes)
    if settings.method == "random":
        return RandomSearch(num_candidates=settings.random_candidates, seed=seed, **sizes)
    places: dict[str, Any] = {"num_cells": settings.cells, "num_edges": num_edges(settings.nodes)}
    places["shared"] = settings.agents == "shared"
    agents: AgentTables
    if settings.method == "manas":
        bandit = BanditSettings(
            num_steps=num_steps, reward=settings.reward, temperature_start=settings.temperature_start,
            temperature_end=settings.temperature_end, exploration=settings.exploration,
            reward_baseline=settings.reward_baseline, baseline_decay=settings.baseline_decay,
        )  # fmt: skip
        agents = Agents(bandit, **places)
    else:
        least_squares = LeastSquaresSettings(
            samples=settings.samples, refresh=settings.refresh, baseline_decay=settings.baseline_decay
        )
        agents = LeastSquaresAgents(least_squares, **places)
    return ManasSearch(agents, per_cell=settings.agents == "per_cell", seed=seed, **sizes)


def build_search_network(
    settings: SearchSettings, *, norm: str, num_groups: int | None, data: NasData
) -> SearchNetwork:
    """Return the search network: norms without affine parameters but for the stem's.

    Args:
        settings: The search.
        norm: The norm.
        num_groups: Its G.
        data: The opened data.
    """
    check_resolution(data)
    has_running = settings.statistics == "running"
    shared = {"num_groups": num_groups, "batch_size": data.batch_size, "track_running_stats": has_running}
    return SearchNetwork(
        channels=settings.channels, num_cells=settings.cells, num_nodes=settings.nodes, num_classes=data.num_classes,
        norm_layer=norm_factory(norm, affine=False, **shared), stem_norm=norm_factory(norm, **shared),
    )  # fmt: skip


def build_evaluation_network(
    genotype: Genotype,
    *,
    channels: int,
    cells: int,
    auxiliary: bool,
    norm: str,
    num_groups: int | None,
    data: NasData,
) -> EvaluationNetwork:
    """Return the network of a genotype.

    Args:
        genotype: The genotype.
        channels: C.
        cells: Cells.
        auxiliary: Whether an auxiliary head is asked for; without a map of 8x8 there is none, which is logged.
        norm: The norm.
        num_groups: Its G.
        data: The opened data.
    """
    check_resolution(data)
    return EvaluationNetwork(
        genotype, channels=channels, num_cells=cells, num_classes=data.num_classes, resolution=data.test.resolution,
        auxiliary=auxiliary,
        norm_layer=norm_factory(norm, num_groups=num_groups, batch_size=data.retrain_batch_size),
    )  # fmt: skip


def check_resolution(data: NasData) -> None:
    """Refuse images that cannot be halved twice.

    Raises:
        UserError: If a side is no multiple of 4.
    """
    height, width = data.test.resolution
    if height % 4 or width % 4:
        raise UserError(f"image sides must be multiples of 4, since two cells halve the map; got {height}x{width}.")
