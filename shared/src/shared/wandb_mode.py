"""Whether W&B is online, and with which key; imports neither torch nor W&B unless it must."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shared.errors import UserError, choose, one_line

MODES = ("auto", "online", "offline", "off")
MIN_KEY_LENGTH = 40
DEFAULT_PROJECT = "norm-suite"
PATIENCE = {"WANDB_X_GRAPHQL_RETRY_MAX": "4", "WANDB_X_FILE_STREAM_RETRY_MAX": "4", "WANDB_ERROR_REPORTING": "false"}
"""W&B's own patience with a server that is away is hours; for commands that only talk to it."""


def api_key() -> str | None:
    """Return the W&B key of the environment, or of the netrc file for the server in use, or None; asks nobody."""
    if os.environ.get("WANDB_API_KEY"):
        return os.environ["WANDB_API_KEY"]
    import wandb

    host = urlsplit(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url).hostname or ""
    files = [Path(os.environ["NETRC"])] if "NETRC" in os.environ else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for file in files:
        try:
            entry = netrc.netrc(file).authenticators(host)
        except (OSError, netrc.NetrcParseError):
            continue
        if entry is not None:
            return entry[2]
    return None


def resolve_mode(mode: str) -> str:
    """Return online, offline or off for the mode asked for.

    Args:
        mode: auto takes WANDB_MODE if set, else online if there is a key, else offline.

    Raises:
        UserError: For an unknown mode, for online without a key, and for a key that cannot be one.
    """
    choose("wandb", mode, MODES)
    if mode == "auto":
        from_environment = os.environ.get("WANDB_MODE", "")
        mode = {"online": "online", "offline": "offline", "disabled": "off", "dryrun": "offline"}.get(
            from_environment, "auto"
        )
    if mode in ("offline", "off"):
        return mode
    if api_key() is None:
        if mode == "online":
            raise UserError("wandb=online needs a key: set WANDB_API_KEY or run `wandb login`, or use wandb=offline.")
        return "offline"
    require_key("wandb=online")
    return "online"


def require_key(purpose: str) -> None:
    """Raise UserError unless there is a W&B key that can be one.

    Args:
        purpose: What needs it, as the user typed it ("make sync").
    """
    key = api_key()
    if key is None:
        raise UserError(f"{purpose} needs a W&B key: set WANDB_API_KEY or run `.venv/bin/wandb login`.")
    if len(key) < MIN_KEY_LENGTH:
        raise UserError(
            f"WANDB_API_KEY must have at least {MIN_KEY_LENGTH} characters; got {len(key)}. See `wandb login`."
        )


def connect(purpose: str) -> Any:
    """Return W&B's public API.

    Args:
        purpose: What needs it, as the user typed it ("make sync").

    Raises:
        UserError: Without a key, or if W&B does not answer or refuses it.
    """
    require_key(purpose)
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    os.environ["WANDB_SILENT"] = "true"
    import wandb

    try:
        api = wandb.Api(timeout=20)
        api.default_entity  # noqa: B018 - the first request
    except (wandb.Error, ValueError, OSError) as error:
        raise UserError(f"{purpose} needs an answer of W&B; got: {one_line(error)}") from error
    return api
