"""Stopping cleanly: the first SIGINT or SIGTERM asks the run to save and stop, a second one ends it at once."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any


class Interrupted(Exception):
    """The run was asked to stop by a signal and has saved what it needs to resume.

    Args:
        signal_number: The signal, from which the exit code 128 + number follows.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.exit_code = 128 + signal_number


class StopSignals:
    """Context in which SIGINT and SIGTERM are noted instead of obeyed.

    `received` is the first signal's number, or None. While `immediate` is true (outside training, where there is
    nothing to save) a signal raises Interrupted where it arrives.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.immediate = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def take_back(self) -> None:
        """Install the handlers again: Lightning puts its own before ours, and ends the epoch without saving."""
        for number in self._previous:
            signal.signal(number, self._note)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        first = self.received is None
        self.received = self.received or number
        if self.immediate or not first:
            raise Interrupted(number)
        print(f"\n{signal.Signals(number).name}: saving, then stopping (again: stop at once).", flush=True)
