"""Ctrl-C and SIGTERM: the first stops politely, the second at once. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal came while there was nothing to be finished first."""


class Stopping:
    """A context in which signals are polite; outside the main thread, where Python has none, it does nothing.

    While :attr:`waits` is set, the first signal is only remembered, for the loop to look at. Else it
    raises :class:`Stopped`. The second ends the process as if nothing had been set up.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The signal that came, if one has."""
        self.waits = False
        """Whether there is a loop that looks at :attr:`signal` and has something to finish."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            self.install()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Take the signals (again: Lightning puts a handler of its own over SIGTERM's)."""
        if self._before and self.signal is None:
            for number in SIGNALS:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        if not self.waits:
            raise Stopped(self.signal.name)
        text = f"\n{self.signal.name}: stopping after this update, then saving; once more ends at once\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode())  # a stream's own lock may be held by whom the signal interrupted

    @property
    def status(self) -> int:
        """The exit status that says so: 130 for SIGINT, 143 for SIGTERM."""
        assert self.signal is not None
        return 128 + int(self.signal)
