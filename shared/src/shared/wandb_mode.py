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
W_AND_B_HOSTS = ["api.forge.coreweave.com", "api.wandb.ai"]
"""Two names of W&B's own server, of which a netrc file may have either."""
PATIENCE = {"WANDB_X_GRAPHQL_RETRY_MAX": "4", "WANDB_X_FILE_STREAM_RETRY_MAX": "4", "WANDB_ERROR_REPORTING": "false"}
"""W&B's own patience with a server that is away is hours; for commands that only talk to it."""


def api_key() -> str | None:
    """Return the W&B key of the environment, or of the netrc file for the server in use, or None; asks nobody."""
    if os.environ.get("WANDB_API_KEY"):
        return os.environ["WANDB_API_KEY"]
    server = urlsplit(server_address())
    machines = [server.netloc, server.hostname or ""]
    if server.hostname in W_AND_B_HOSTS:
        machines += W_AND_B_HOSTS
    files = [Path(os.environ["NETRC"])] if "NETRC" in os.environ else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for file in files:
        try:
            entries = netrc.netrc(file)
        except (OSError, netrc.NetrcParseError):
            continue
        for machine in machines:
            if (entry := entries.authenticators(machine)) is not None:
                return entry[2]
    return None


def server_address() -> str:
    """Return the address of the W&B in use: of the environment, of `wandb login --host=…`, else the public one."""
    if os.environ.get("WANDB_BASE_URL"):
        return os.environ["WANDB_BASE_URL"]
    import wandb

    settings = wandb.Settings(silent=True)
    settings.settings_system = str(
        Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser() / "settings"
    )
    settings.update_from_system_settings()
    return settings.base_url


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
        _ask(server_address())
        api = wandb.Api(timeout=20)
        api.default_entity  # noqa: B018 - the first request
    except (wandb.Error, ValueError, OSError) as error:
        raise UserError(f"{purpose} needs an answer of W&B; got: {one_line(error)}") from error
    return api


def _ask(address: str) -> None:
    """Ask W&B who the key's owner is, in a request of our own.

    W&B's client starts a process for its requests, which may outlive an error by minutes and hold up the command.

    Args:
        address: Where W&B is.

    Raises:
        OSError: If it does not answer within a minute, or with an error.
    """
    import requests
    from urllib3.util.retry import Retry

    retry = Retry(total=3, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None)
    with requests.Session() as session:
        session.trust_env = urlsplit(address).hostname not in ("localhost", "127.0.0.1", "::1")  # no proxy leads there
        session.mount(address, requests.adapters.HTTPAdapter(max_retries=retry))
        session.post(
            f"{address.rstrip('/')}/graphql",
            json={"query": "query Viewer { viewer { entity } }"},
            auth=("api", api_key() or ""),
            timeout=15,
        ).raise_for_status()
