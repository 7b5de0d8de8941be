"""Standard output and error that nobody may be reading: ``| head -1``, a closed stream, a full disk behind ``>``.

A command's product is its files, so what is printed stops nothing: a stream that fails is led to the null device, and
the failure counts when the command ends. Imports nothing heavy.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn, TextIO

BROKEN_PIPE = 128 + 13
"""The status that a shell shows for a command that SIGPIPE ended."""


class _Screen(io.FileIO):
    """A file descriptor whose failure is kept, not raised."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.error: OSError | None = None
        """Why nothing is written any more."""

    def write(self, data: object) -> int:
        """Write, or drop what cannot be written."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            self.error = error
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())  # for what libraries write without Python
            os.close(null)
            return memoryview(data).nbytes  # type: ignore[arg-type]


def run(command: str, body: Callable[[], int], trains: bool = False) -> NoReturn:
    """Run a command, then leave with its status.

    Where standard output failed, the status is that of other tools: 141 where its reader has gone, 1 where it could
    not be written for another reason.

    Args:
        command: its name, for messages.
        body: returns the exit status.
        trains: whether the status tells how training ended, so that what became of the output does not change it.
    """
    _open_closed_streams()
    out, error = _Screen(1), _Screen(2)
    sys.stdout, sys.stderr = _text(out, sys.stdout), _text(error, sys.stderr)
    try:
        status = body()
    except SystemExit as end:  # --help, --print_config
        if end.code not in (None, 0):
            raise
        status, trains = 0, False
    sys.stdout.flush()
    if out.error is not None and not trains:
        if out.error.errno == errno.EPIPE:
            sys.exit(BROKEN_PIPE)
        print(f"{command}: standard output cannot be written: {out.error.strerror}", file=sys.stderr)
        sys.exit(status or 1)
    sys.exit(status)


def _open_closed_streams() -> None:
    """Lead closed standard streams to the null device; the next file to be opened would take their place."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def _text(raw: io.RawIOBase, before: TextIO | None) -> TextIO:
    """A text stream like the one before, None where that was closed; of one without a buffer each line is written."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", "utf-8"),
        errors=getattr(before, "errors", "backslashreplace"),
        line_buffering=getattr(before, "line_buffering", False) or getattr(before, "write_through", False),
    )
