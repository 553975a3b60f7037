"""Errors a user can cause, told in one line."""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Iterable
from typing import NoReturn

USAGE_EXIT_CODE = 2


class UserError(ValueError):
    """A request that cannot be carried out; the message says what must hold, what came and what to do."""


def choose(name: str, value: str, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`.

    Args:
        name: What is being chosen, as the user typed it ("task").
        value: What came.
        choices: What may come.

    Returns:
        The value.

    Raises:
        UserError: If the value is not a choice; names the nearest one and all of them.
    """
    choices = list(choices)
    if value in choices:
        return value
    near = difflib.get_close_matches(value, choices, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UserError(f"{name} must be one of {', '.join(choices)}; got {repr(value) if value else 'nothing'}.{hint}")


def one_line(error: BaseException) -> str:
    """Return the error's text on one line; of an error passed on by a loader's worker process, the last line."""
    text = str(error).strip()
    if "Original Traceback" in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return " ".join(text.split()) or type(error).__name__


def exit_with_usage_error(error: BaseException) -> NoReturn:
    """Print the error on one line of stderr and exit with code 2; NORM_SUITE_TRACEBACK=1 adds the traceback."""
    if os.environ.get("NORM_SUITE_TRACEBACK"):
        traceback.print_exception(error, file=sys.stderr)
    print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
    raise SystemExit(USAGE_EXIT_CODE)
