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
    """A signal came while nothing had to be finished first."""


class Stopping:
    """A context in which the first signal stops politely.

    While :attr:`waits` is set, it is only recorded, for a loop to look at; otherwise it raises :class:`Stopped`. The
    second has its default effect, which is to end the process. Outside the main thread, where Python has no signals,
    the context does nothing.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The signal that came, if one has."""
        self.waits = False
        """Whether a loop is running that looks at :attr:`signal` and has something to finish."""
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
        """Install the handlers; again after Lightning or Ray has replaced that of SIGTERM."""
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
            os.write(2, text.encode())  # the code that the signal interrupted may hold sys.stderr's lock

    @property
    def status(self) -> int:
        """The exit status by convention: 130 for SIGINT, 143 for SIGTERM."""
        assert self.signal is not None
        return 128 + int(self.signal)
