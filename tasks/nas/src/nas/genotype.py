"""Genotypes: architectures of the DARTS space as data, the published ones, and those that a search finds."""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nas.space import (
    NONE,
    NUM_CELL_INPUTS,
    PRIMITIVES,
    Cell,
    Gene,
    derive_cell,
    node_edges,
    num_edges,
    path_cell,
    sample_cell,
)
from shared.errors import UserError, choose
from shared.runs import write_json

__all__ = [
    "NONE", "NUM_CELL_INPUTS", "PRIMITIVES", "PUBLISHED", "Cell", "Gene", "Genotype", "Provenance", "derive_cell",
    "derive_genotype", "genotype_hash", "load_genotype", "node_edges", "num_edges", "path_cell", "path_genotype",
    "random_genotype", "reduction_places", "resolve_genotype", "sample_cell", "save_genotype",
]  # fmt: skip

SCHEMA = 1
GENOTYPE_FILE = "genotype.json"
_SHARED_KEYS = ("normal", "reduction")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a genotype comes from.

    Args:
        method: How it was searched ("darts first order", "manas", "random").
        norm: Norm of the search.
        num_groups: Its G; None for a norm without groups.
        seed: Seed of the search.
        run: Name of the search's run.
        commit: Commit of the code.
        differences: How the search differed from the paper's, in words; "" where it did not or nobody knows.
    """

    method: str
    norm: str
    num_groups: int | None
    seed: int
    run: str
    commit: str
    differences: str = ""


@dataclass(frozen=True, kw_only=True)
class Genotype:
    """An architecture: one normal and one reduction cell for all places, or a cell for each place.

    Args:
        name: What it is called in a record.
        cells: The normal and the reduction cell, or one cell a place, from the input on.
        per_cell: Whether each place has its own.

    Raises:
        UserError: If the number of cells or their numbers of nodes are wrong.
    """

    name: str
    cells: tuple[Cell, ...]
    per_cell: bool = False

    def __post_init__(self) -> None:
        if self.per_cell and not self.cells:
            raise UserError("a genotype with a cell for each place must have at least one; got none.")
        if not self.per_cell and len(self.cells) != 2:
            raise UserError(f"a genotype must have a normal and a reduction cell; got {len(self.cells)} cells.")
        sizes = {len(cell.nodes) for cell in self.cells}
        if len(sizes) > 1:
            raise UserError(f"all cells must have the same number of nodes; got {', '.join(map(str, sorted(sizes)))}.")

    @property
    def num_nodes(self) -> int:
        """Nodes of a cell."""
        return len(self.cells[0].nodes)

    @property
    def labels(self) -> list[str]:
        """What each cell is called."""
        return [f"cell {index}" for index in range(len(self.cells))] if self.per_cell else ["normal", "reduction"]

    def cell_at(self, index: int, *, num_cells: int) -> Cell:
        """Return the cell of a place in a network.

        Args:
            index: The place, 0 the one nearest to the input.
            num_cells: Cells of the network.

        Raises:
            UserError: If each place has its own cell and the network has another number of places.
        """
        if not self.per_cell:
            return self.cells[int(index in reduction_places(num_cells))]
        if num_cells != len(self.cells):
            raise UserError(
                f"num_cells must be {len(self.cells)} for genotype {self.name}, which has its own cell at each place; "
                f"got {num_cells}."
            )
        return self.cells[index]

    def to_json(self, provenance: Provenance) -> str:
        """Return the genotype's file, which `load_genotype` reads.

        Args:
            provenance: Where the genotype comes from.
        """
        return json.dumps(_document(self, provenance), indent=1) + "\n"


def reduction_places(num_cells: int) -> tuple[int, ...]:
    """Return the places of the reduction cells: a third and two thirds of the way.

    Source: quark0/darts, commit f276dd3: 2 and 5 of 8 cells, 6 and 13 of 20.
    """
    return tuple(sorted({num_cells // 3, 2 * num_cells // 3}))


def genotype_hash(genotype: Genotype) -> str:
    """Return 16 hexadecimal digits of the architecture: neither the name nor the order of a node's genes counts."""
    cells = [
        [sorted((gene.input, gene.operation) for gene in genes) for genes in cell.nodes] for cell in genotype.cells
    ]
    text = json.dumps({"per_cell": genotype.per_cell, "cells": cells}, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def derive_genotype(
    weights: Float[Tensor, "tables edges ops"], *, name: str, num_nodes: int = 4, per_cell: bool = False
) -> Genotype:
    """Return the genotype of a search's weights, cell by cell as in `derive_cell`.

    Args:
        weights: Of the normal and the reduction cells, or of each place.
        name: What the genotype is called.
        num_nodes: Nodes of a cell.
        per_cell: Whether each place has its own weights.
    """
    cells = tuple(derive_cell(table, num_nodes=num_nodes) for table in weights)
    return Genotype(name=name, cells=cells, per_cell=per_cell)


def path_genotype(
    path: Int64[Tensor, "tables edges"], *, name: str, num_nodes: int = 4, per_cell: bool = False
) -> Genotype:
    """Return the genotype of one path of the supernet, cell by cell as in `path_cell`.

    Args:
        path: Column of `PRIMITIVES` on each edge, of the normal and the reduction cells or of each place.
        name: What the genotype is called.
        num_nodes: Nodes of a cell.
        per_cell: Whether each place has its own path.
    """
    cells = tuple(path_cell(operations, num_nodes=num_nodes) for operations in path)
    return Genotype(name=name, cells=cells, per_cell=per_cell)


def random_genotype(
    num_nodes: int = 4, *, generator: torch.Generator, num_cells: int | None = None, name: str = "random"
) -> Genotype:
    """Draw an architecture uniformly, the baseline of every search.

    Args:
        num_nodes: Nodes of a cell.
        generator: Source of the draws.
        num_cells: Places that get a cell of their own; None for one normal and one reduction cell.
        name: What the genotype is called.
    """
    cells = tuple(sample_cell(num_nodes, generator=generator) for _ in range(num_cells or 2))
    return Genotype(name=name, cells=cells, per_cell=num_cells is not None)


def _document(genotype: Genotype, provenance: Provenance | None) -> dict[str, Any]:
    """Return what stands in the genotype's file."""
    cells = [[[[gene.operation, gene.input] for gene in genes] for genes in cell.nodes] for cell in genotype.cells]
    return {
        "schema": SCHEMA,
        "name": genotype.name,
        "hash": genotype_hash(genotype),
        "provenance": asdict(provenance) if provenance else None,
        "cells": cells if genotype.per_cell else dict(zip(_SHARED_KEYS, cells)),
    }


def save_genotype(path: Path, genotype: Genotype, *, provenance: Provenance) -> None:
    """Write the genotype's file, whole or not at all.

    Args:
        path: The file.
        genotype: The architecture.
        provenance: Where it comes from.
    """
    write_json(path, _document(genotype, provenance))


def load_genotype(source: str | Path) -> tuple[Genotype, Provenance | None]:
    """Read a genotype.

    Args:
        source: A file, or the text of one. Written by hand, it may leave out the hash and the provenance.

    Returns:
        The architecture and where it comes from.

    Raises:
        UserError: If it cannot be read, or is not what `Genotype.to_json` writes: another schema, an unknown
            operation, an edge that does not exist, or a hash of another architecture.
    """
    if isinstance(source, str) and source.lstrip().startswith("{"):
        where, text = "the genotype's text", source
    else:
        where = str(source)
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no text"
            raise UserError(f"genotype must be a file that can be read; got {where!r}: {reason}.") from None
    try:
        return _read(json.loads(text))
    except json.JSONDecodeError as error:
        raise UserError(f"{where} must be JSON; {error}.") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def resolve_genotype(spec: str) -> tuple[Genotype, Provenance | None]:
    """Find a genotype.

    Args:
        spec: The name of a published one, a file, or the folder of a search's run.

    Raises:
        UserError: If there is none, or it cannot be read.
    """
    if spec in PUBLISHED:
        return PUBLISHED[spec], None
    path = Path(spec).expanduser()
    if path.is_dir():
        if not (path / GENOTYPE_FILE).is_file():
            raise UserError(
                f"genotype must be the folder of a search's run, which holds {GENOTYPE_FILE} once the search has "
                f"ended; got {spec!r}, which does not."
            )
        return load_genotype(path / GENOTYPE_FILE)
    if path.exists() or re.search(r"[/\\.]", spec):
        return load_genotype(path)
    choose("genotype", spec, [*PUBLISHED, "a genotype's file", "the folder of a search's run"])
    return load_genotype(path)


def _read(document: Any) -> tuple[Genotype, Provenance | None]:
    """Build what a file's JSON says."""
    _check_keys("a genotype", document, required={"schema", "name", "cells"}, optional={"hash", "provenance"})
    if document["schema"] != SCHEMA:
        raise UserError(f"schema must be {SCHEMA}; got {document['schema']!r}. Another version wrote it.")
    if not isinstance(document["name"], str):
        raise UserError(f"name must be text; got {document['name']!r}.")
    cells = document["cells"]
    per_cell = isinstance(cells, list)
    if not per_cell:
        _check_keys("cells", cells, required=set(_SHARED_KEYS), optional=set())
        cells = [cells[key] for key in _SHARED_KEYS]
    labels = [f"cell {index}" for index in range(len(cells))] if per_cell else list(_SHARED_KEYS)
    read = tuple(_read_cell(label, cell) for label, cell in zip(labels, cells))
    genotype = Genotype(name=document["name"], cells=read, per_cell=per_cell)
    expected = document.get("hash")
    if expected is not None and expected != genotype_hash(genotype):
        raise UserError(
            f"hash must be that of the cells, {genotype_hash(genotype)}; got {expected!r}. The cells were changed "
            "after the search: take the hash and the provenance out if that is meant."
        )
    return genotype, _read_provenance(document.get("provenance"))


def _read_cell(label: str, nodes: Any) -> Cell:
    """Build one cell from lists of [operation, input]."""
    try:
        return Cell(tuple(tuple(Gene(operation, state) for operation, state in genes) for genes in nodes))
    except UserError as error:
        raise UserError(f"{label}: {error}") from None
    except (TypeError, ValueError):
        shown = reprlib.repr(nodes)
        raise UserError(f"{label} must be a list of nodes, each a list of [operation, input]; got {shown}.") from None


def _read_provenance(value: Any) -> Provenance | None:
    """Build the provenance, of which a genotype written by hand has none."""
    if value is None:
        return None
    names = {field.name for field in fields(Provenance)}
    _check_keys("provenance", value, required=names - {"differences"}, optional={"differences"})
    for name in sorted(value):
        whole = name in ("num_groups", "seed")
        valid = type(value[name]) is (int if whole else str) or (name == "num_groups" and value[name] is None)
        if not valid:
            raise UserError(f"{name} must be {'a whole number' if whole else 'text'}; got {value[name]!r}.")
    return Provenance(**value)


def _check_keys(what: str, value: Any, *, required: set[str], optional: set[str]) -> None:
    if not isinstance(value, dict):
        raise UserError(f"{what} must be an object with {', '.join(sorted(required))}; got {type(value).__name__}.")
    if missing := sorted(required - set(value)):
        raise UserError(f"{what} must have {', '.join(sorted(required))}; {', '.join(missing)} is missing.")
    if unknown := sorted(set(value) - required - optional):
        choose(f"a key of {what}", unknown[0], sorted(required | optional))


def _cell(*nodes: str) -> Cell:
    """Read a cell from nodes such as "sep_conv_3x3 0, skip_connect 1"."""

    def gene(text: str) -> Gene:
        operation, state = text.split()
        return Gene(operation, int(state))

    return Cell(tuple(tuple(gene(text) for text in node.split(",")) for node in nodes))


PUBLISHED = {
    "DARTS_V1": Genotype(
        name="DARTS_V1",
        cells=(
            _cell(
                "sep_conv_3x3 1, sep_conv_3x3 0",
                "skip_connect 0, sep_conv_3x3 1",
                "skip_connect 0, sep_conv_3x3 1",
                "sep_conv_3x3 0, skip_connect 2",
            ),
            _cell(
                "max_pool_3x3 0, max_pool_3x3 1",
                "skip_connect 2, max_pool_3x3 0",
                "max_pool_3x3 0, skip_connect 2",
                "skip_connect 2, avg_pool_3x3 0",
            ),
        ),
    ),
    "DARTS_V2": Genotype(
        name="DARTS_V2",
        cells=(
            _cell(
                "sep_conv_3x3 0, sep_conv_3x3 1",
                "sep_conv_3x3 0, sep_conv_3x3 1",
                "sep_conv_3x3 1, skip_connect 0",
                "skip_connect 0, dil_conv_3x3 2",
            ),
            _cell(
                "max_pool_3x3 0, max_pool_3x3 1",
                "skip_connect 2, max_pool_3x3 1",
                "max_pool_3x3 0, skip_connect 2",
                "skip_connect 2, max_pool_3x3 1",
            ),
        ),
    ),
}
"""The architectures that quark0/darts published (commit f276dd3): found by the first and the second order."""
