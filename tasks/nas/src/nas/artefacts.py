"""What a search leaves in its run directory and in W&B: genotypes, preferences of each epoch, and drawings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from nas.drawing import Drawing, draw_cell, draw_heatmap, draw_history, save_drawing
from nas.genotype import GENOTYPE_FILE, Genotype, Provenance, save_genotype
from nas.outcome import search_differences
from nas.searchers import Searcher
from nas.watching import kept_genes, mean_entropy, none_share, num_skips
from shared.runs import write_json
from shared.source import source_version

if TYPE_CHECKING:
    from nas.module import NasModule

FOLDER = "search"
"""Folder of a run directory with a genotype and the preferences of each epoch."""


class Artefacts:
    """Writes what a search finds; on rank 0 only, since only there is a run directory.

    Files are named by epoch, so that a resumed run writes them again as they were.

    Args:
        module: The module.
    """

    def __init__(self, module: NasModule) -> None:
        self.module = module

    def provenance(self) -> Provenance:
        """Return where the run's genotype comes from."""
        module = self.module
        settings = module.settings
        method = f"darts {settings.order} order" if settings.method == "darts" else settings.method
        run = "" if module.run_dir is None else module.run_dir.name
        return Provenance(
            method=method, norm=module.norm, num_groups=module.num_groups, seed=module.data.seed, run=run,
            commit=source_version()[0], differences=search_differences(module, module.data),
        )  # fmt: skip

    def text(self, genotype: Genotype) -> str:
        """Return a genotype for a checkpoint."""
        return genotype.to_json(self.module.provenance or self.provenance())

    def watch(self, searcher: Searcher, found: Genotype, previous: Genotype | None) -> dict[str, float | Tensor]:
        """Write the epoch's genotype and preferences, and return the numbers that tell how the search goes.

        Args:
            searcher: The search.
            found: The genotype that follows from it now.
            previous: That of the epoch before.
        """
        module = self.module
        tables = searcher.tables()
        numbers: dict[str, float | Tensor] = {
            "search/entropy": mean_entropy(tables),
            "search/none_share": none_share(tables),
            "search/skips": float(num_skips(found)),
        }
        if previous is not None:
            numbers["search/kept_genes"] = kept_genes(previous, found)
        if module.run_dir is not None:
            folder = module.run_dir / FOLDER
            folder.mkdir(exist_ok=True)
            stem = f"epoch-{module.current_epoch + 1:04d}"
            save_genotype(folder / f"{stem}-genotype.json", found, provenance=self.provenance())
            write_json(folder / f"{stem}-preferences.json", tables.double().tolist())
            self._draw(found, tables)
        return numbers

    def _draw(self, found: Genotype, tables: Tensor) -> None:
        """Draw the cells and the preferences as they are now, over the drawings of the epoch before."""
        module = self.module
        assert module.run_dir is not None
        drawings: dict[str, Drawing] = {}
        for label, cell in zip(found.labels, found.cells):
            drawings[f"cell-{label.replace(' ', '-')}"] = draw_cell(cell, title=f"{label}: {found.name}")
        for label, table in zip(found.labels, tables):
            drawings[f"preferences-{label.replace(' ', '-')}"] = draw_heatmap(table, title=f"preferences, {label}")
        if not found.per_cell:
            for place, label in enumerate(found.labels):
                history = self._history(module.run_dir / FOLDER)[:, place]
                drawings[f"history-{label}"] = draw_history(history, title=f"preferences over the search, {label}")
        for name, drawing in drawings.items():
            save_drawing(drawing, module.run_dir / FOLDER / name)
            if not found.per_cell or module.current_epoch + 1 == module.search_epochs:  # else too many for W&B
                self._send(name, (module.run_dir / FOLDER / name).with_suffix(".png"))

    def _history(self, folder: Path) -> Float[Tensor, "epochs tables edges ops"]:
        """Read the preferences of all epochs up to this one."""
        stems = [f"epoch-{epoch:04d}" for epoch in range(1, self.module.current_epoch + 2)]
        files = [folder / f"{stem}-preferences.json" for stem in stems]
        return torch.tensor([json.loads(file.read_text()) for file in files if file.is_file()])

    def _send(self, name: str, path: Path) -> None:
        """Send a picture to W&B, if it is on."""
        from shared.tracking import RunWandbLogger, log_picture

        for logger in self.module.loggers:
            if isinstance(logger, RunWandbLogger):
                step = self.module.trainer.fit_loop.epoch_loop._batches_that_stepped
                log_picture(logger, f"search/{name}", path, step=step)

    def keep_genotype(self, found: Genotype, provenance: Provenance) -> None:
        """Write genotype.json, from which other runs retrain.

        Args:
            found: The search's genotype.
            provenance: Where it comes from.
        """
        if self.module.run_dir is not None:
            save_genotype(self.module.run_dir / GENOTYPE_FILE, found, provenance=provenance)
