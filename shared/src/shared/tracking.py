"""W&B: online with a key, else offline; never a prompt, never a hang, never a lost run because the server is away."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from shared.errors import UserError, one_line
from shared.runs import Run, short_norm

INIT_TIMEOUT_SECONDS = 20
FINISH_TIMEOUT_SECONDS = 60
RUN_AXES = ("task", "norm", "num_groups", "batch_size", "seed")
"""Axes of every task; a task's further ones make the cell, too."""
MAX_TAG = 64
"""Letters of a tag that W&B takes."""
MAX_GROUP = 120
"""Letters of a group that leave room for the cell's hash in the 128 that W&B takes."""
REFUSAL = re.compile(r"\berror 40[134]\b")
"""How W&B words an answer that no later attempt would change."""


def _seconds(variable: str, default: float) -> float:
    """Return the seconds that a variable of W&B's asks for, or the default."""
    try:
        return float(os.environ.get(variable) or default)
    except ValueError:
        raise UserError(f"{variable} must be a number of seconds; got {os.environ[variable]!r}.") from None


class RunWandbLogger(WandbLogger):
    """WandbLogger that does not send again what the same run sent before it was killed.

    Args:
        already_sent: The (step, metric) pairs that earlier processes of this run logged.
        settings: Arguments of WandbLogger.
    """

    def __init__(self, *, already_sent: Set[tuple[int, str]] = frozenset(), **settings: Any) -> None:
        super().__init__(**settings)
        self._already_sent = already_sent

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the metrics that are new at this step."""
        new = {name: value for name, value in metrics.items() if (step, name) not in self._already_sent}
        if set(new) - {"epoch"}:
            super().log_metrics(new, step)


def wandb_tags(parts: Sequence[str]) -> list[str]:
    """Return the parts of a cell's name as tags that W&B takes: none empty, none too long, each once."""
    return list(dict.fromkeys(part[:MAX_TAG] for name in parts for part in name.split("/") if part))


def start_wandb(
    run: Run,
    *,
    mode: str,
    project: str,
    entity: str | None,
    axes: dict[str, Any],
    cell_hash: str,
    config: dict[str, Any],
    already_sent: Set[tuple[int, str]] = frozenset(),
) -> RunWandbLogger | None:
    """Start the W&B run of a run directory.

    Args:
        run: The run; its name is the W&B id, so that a resumed run goes on as the same W&B run.
        mode: online, offline or off.
        project: W&B project.
        entity: W&B user or team; None for the key's own.
        axes: The grid's axes, as flat scalars (task, norm, num_groups, batch_size, seed, …).
        cell_hash: What tells runs apart that share the axes and are no repetitions of one another, as their seeds are.
        config: All other settings, nested, logged under "cli".
        already_sent: The (step, metric) pairs that earlier processes of this run logged.

    Returns:
        The logger; None for mode off. If the server cannot be reached, an offline logger, with a line that says so.

    Raises:
        UserError: If the server refuses the key, or what the key asks for.
    """
    if mode == "off":
        return None
    os.environ.setdefault("WANDB_SILENT", "true")  # the run's last screen says where W&B is
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else it prints, and holds up the end, where W&B is away
    import wandb
    from pydantic import ValidationError  # what wandb.Settings raises

    os.environ.setdefault("WANDB_DATA_DIR", str(run.path / "wandb-data"))
    is_sweep = bool(os.environ.get("WANDB_SWEEP_ID"))

    def start(mode: Literal["online", "offline"]) -> RunWandbLogger:
        settings = wandb.Settings(
            mode=mode,
            init_timeout=_seconds("WANDB_INIT_TIMEOUT", INIT_TIMEOUT_SECONDS),
            finish_timeout=_seconds("WANDB_FINISH_TIMEOUT", FINISH_TIMEOUT_SECONDS),
            silent=True,
            console="off",
        )
        groups = "" if axes["num_groups"] is None else f"-G{axes['num_groups']}"
        further = [str(value) for name, value in axes.items() if name not in RUN_AXES]
        norm = f"{short_norm(axes['norm'])}{groups}"
        cell = [axes["task"], run.config, norm, f"bs{axes['batch_size']}", *further]
        group = f"{'/'.join(cell)[:MAX_GROUP]}/{cell_hash}"
        logger = RunWandbLogger(
            already_sent=already_sent, project=project, entity=entity, group=group,
            job_type=run.config, name=run.name.rsplit("-", 1)[0], tags=wandb_tags(cell),
            id=None if is_sweep else run.name, save_dir=run.path, log_model=False, settings=settings,
        )  # fmt: skip
        logger._wandb_init.pop("anonymous", None)  # Lightning sets it, wandb warns of it
        logger.experiment.config.update({**axes, "config_name": run.config, "cli": config}, allow_val_change=True)
        return logger

    before = set(run.path.glob("wandb/run-*"))
    try:
        return start("online" if mode == "online" else "offline")
    except (wandb.errors.UsageError, ValidationError) as error:
        raise UserError(f"W&B's settings must be ones that it takes; got: {one_line(error)}") from error
    except (wandb.Error, TimeoutError) as error:
        is_away = isinstance(error, TimeoutError | wandb.errors.CommError) and not REFUSAL.search(str(error))
        if not is_away or isinstance(error, wandb.errors.AuthenticationError):
            raise UserError(f"W&B refused the run: {one_line(error)} Use wandb=offline to go on without.") from error
        if mode == "offline":
            raise
        print(
            f"W&B cannot be reached ({one_line(error)[:120]}); this run is logged offline.",
            file=sys.stderr,
            flush=True,
        )
        wandb.teardown()  # the failed run still holds its id
        for folder in set(run.path.glob("wandb/run-*")) - before:
            shutil.rmtree(folder)  # it holds nothing, and `make sync` would send it
        os.environ.pop("WANDB_SERVICE", None)  # also in a service that a parent process keeps alive
        return start("offline")


def finish_wandb(logger: RunWandbLogger | None, *, summary: dict[str, Any], exit_code: int) -> str | None:
    """Write flat summary numbers and close the W&B run.

    Args:
        logger: The run's logger, or None.
        summary: Flat numbers such as final/test/top1.
        exit_code: 0 for a finished run.

    Returns:
        The run's address, if it is online.
    """
    if logger is None:
        return None
    import wandb

    experiment = logger.experiment
    try:
        if getattr(rank_zero_only, "rank", 0) == 0:
            experiment.summary.update(summary)
        address = experiment.url if not experiment.offline else None
        began, timeout = time.monotonic(), experiment.settings.finish_timeout
        wandb.finish(exit_code=exit_code)
        if address and time.monotonic() - began >= timeout:
            print(
                f"W&B did not take the whole run in {timeout:.0f} s; `make sync` sends the rest later.",
                file=sys.stderr,
                flush=True,
            )
    except (wandb.Error, OSError, TimeoutError) as error:
        print(
            f"W&B did not finish ({one_line(error)[:120]}); the record is complete without it.",
            file=sys.stderr,
            flush=True,
        )
        return None
    return address


def log_picture(logger: RunWandbLogger, name: str, path: Path, *, step: int) -> None:
    """Send a picture to W&B; a server that is away costs nothing but the picture.

    Args:
        logger: The run's logger.
        name: Name of the picture.
        path: The PNG file.
        step: Step that it belongs to.
    """
    import wandb

    try:
        logger.log_image(key=name, images=[str(path)], step=step)
    except (wandb.Error, OSError, TimeoutError) as error:
        print(f"W&B did not take {name} ({one_line(error)[:120]}).", file=sys.stderr, flush=True)
