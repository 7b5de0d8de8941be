"""``python -m furl_lightning.fit_process PID ...``: furl-fit as a child of the process PID, which ends with it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from furl_lightning.cli import furl_fit


def main() -> None:
    """``furl-fit`` with the arguments after the first, the parent's process id."""
    parent = int(sys.argv.pop(1))
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # Ray's workers block SIGINT, and a child inherits that
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before prctl took effect
            return
    furl_fit()


if __name__ == "__main__":
    main()
