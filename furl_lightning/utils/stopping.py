"""Ctrl-C, SIGTERM, SIGUSR1 and SIGUSR2: the first stops politely, the second at once. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Schedulers announce the end of a job's time by one of the last three."""


_active: Stopping | None = None


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
        self._outer: Stopping | None = None

    def __enter__(self) -> Self:
        _start_deaf_tracker()
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            self.install()
            global _active
            self._outer, _active = _active, self
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            global _active
            _active = self._outer

    def install(self) -> None:
        """Install the handlers; again after Lightning or Ray has replaced that of SIGTERM."""
        if self._before and self.signal is None:
            for number in SIGNALS:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        if self.signal is not None:  # Lightning has put this handler back
            os.kill(os.getpid(), number)
        self.signal = signal.Signals(number)
        if not self.waits:
            raise Stopped(self.signal.name)
        text = f"\n{self.signal.name}: stopping after this update, then saving; once more ends at once\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode())  # the code that the signal interrupted may hold sys.stderr's lock

    @property
    def status(self) -> int:
        """The exit status by convention: 130 for SIGINT, 143 for SIGTERM, 138 for SIGUSR1, 140 for SIGUSR2."""
        assert self.signal is not None
        return 128 + int(self.signal)


def _start_deaf_tracker() -> None:
    """Start multiprocessing's resource tracker, unless it runs, deaf to our signals; by itself it is to two of them.

    Schedulers signal all processes of a job, and one that is killed is missed with tracebacks.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop_is_asked() -> bool:
    """Whether a signal has come that is to stop this process politely; may be asked from any thread."""
    return _active is not None and _active.signal is not None
