"""Grid files, which are W&B sweep files (method grid): their cells, other norms and seeds, and a machine's share."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import yaml

from norm_layers.registry import NORMS
from shared.errors import UserError

Cell = dict[str, str]


def read_grid(path: Path) -> list[Cell]:
    """Return the cells of a grid file: every combination of its parameters, the first one varying slowest.

    Args:
        path: A W&B sweep file with `method: grid` and `parameters`, each with `value` or `values`.

    Raises:
        UserError: If the file is not that.
    """
    try:
        grid = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"grid must be a YAML file; {path} is not: {error}") from error
    if not isinstance(grid, dict) or grid.get("method") != "grid" or not isinstance(grid.get("parameters"), dict):
        raise UserError(f"grid must be a W&B sweep file with `method: grid` and `parameters`; {path} is not.")
    names, choices = [], []
    for name, parameter in grid["parameters"].items():
        if not isinstance(parameter, dict) or not {"value", "values"} & parameter.keys():
            raise UserError(f"each parameter of a grid must have `value` or `values`; {name!r} of {path} has neither.")
        values = parameter["values"] if "values" in parameter else [parameter["value"]]
        if not isinstance(values, list) or not values:
            raise UserError(f"values of a grid must be a list, and not empty; {name!r} of {path} has {values!r}.")
        names.append(str(name))
        choices.append(values)
    return [dict(zip(names, map(str, values))) for values in itertools.product(*choices)]


def override(cells: list[Cell], *, norm: str | None, seed: str | None) -> list[Cell]:
    """Return the cells with other norms or seeds, without repeats.

    Args:
        cells: The grid's cells.
        norm: Norms with commas between. With one of the suite's among them they replace the grid's; norms from outside
            alone ("mynorms:ScaleNorm") come beside the grid's. None keeps the grid's.
        seed: Seeds with commas between, which replace the grid's; None keeps the grid's.

    Raises:
        UserError: For a comma with nothing before or after it.
    """
    norms = norm.split(",") if norm else []
    for name, values in {"norm": norms, "seed": seed.split(",") if seed else []}.items():
        if "" in values:
            raise UserError(f"{name} must be one value, or several with commas between; got {','.join(values)!r}.")
    beside = bool(norms) and not any(name in NORMS for name in norms)
    replaced: list[Cell] = []
    for cell in cells:
        own = [cell.get("norm")] if beside or not norms else []
        seeds = seed.split(",") if seed else [cell.get("seed")]
        for one_norm, one_seed in itertools.product([*own, *norms], seeds):
            new = {**cell, "norm": one_norm, "seed": one_seed}
            replaced.append({name: value for name, value in new.items() if value is not None})
    return [cell for index, cell in enumerate(replaced) if cell not in replaced[:index]]


def take_share(cells: list[Cell], shard: str | None) -> list[Cell]:
    """Return one machine's share of the cells: every n-th one, so that the shares are equally long.

    Args:
        cells: All cells.
        shard: "i/n", i from 0 to n − 1; None takes all.

    Raises:
        UserError: If `shard` is not that.
    """
    if shard is None:
        return cells
    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    if found is None or int(found[1]) >= int(found[2]):
        raise UserError(f"shard must be i/n with i from 0 to n - 1, such as 0/4; got {shard!r}.")
    return cells[int(found[1]) :: int(found[2])]
