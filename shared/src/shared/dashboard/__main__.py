"""`python -m shared.dashboard`: save the W&B workspace and report, or print them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from shared.catalog import load_tasks
from shared.errors import UserError, exit_with_usage_error
from shared.wandb_mode import DEFAULT_PROJECT, connect


def main(arguments: list[str] | None = None) -> int:
    """Save or print the dashboards."""
    parser = argparse.ArgumentParser(prog="make dashboard", description=__doc__)
    parser.add_argument("--entity", default=None, help="W&B user or team; the key's own where left out")
    parser.add_argument("--project", default=DEFAULT_PROJECT, help="W&B project")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder that keeps the note of what was made")
    parser.add_argument("--dry", default="0", help="1: print the JSON, without key and network")
    options = parser.parse_args(arguments)
    try:
        if options.dry not in ("0", "1"):
            raise UserError(f"dry must be 0 or 1; got {options.dry!r}.")
        api = None if options.dry == "1" else connect("make dashboard")
        os.environ["WANDB_SILENT"] = "true"
        from shared.dashboard.build import as_json, build_report, build_workspace
        from shared.dashboard.save import save
        from shared.dashboard.views import task_views

        views = task_views(load_tasks())
        if api is None:
            where = {"entity": options.entity or "", "project": options.project}
            print(as_json(build_workspace(views, **where), build_report(views, **where, is_dry=True)), end="")
        else:
            lines = save(views, api, entity=options.entity, project=options.project, runs=options.runs)
            print("\n".join(lines))
    except UserError as error:
        exit_with_usage_error(error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
