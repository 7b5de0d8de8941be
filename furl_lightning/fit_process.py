"""``python -m furl_lightning.fit_process PID ...``: furl-fit as a trial's child, which ends with that process."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from furl_lightning.cli import furl_fit


def main() -> None:
    """``furl-fit`` as a child that ends with its parent, whose process id is the first argument."""
    parent = int(sys.argv.pop(1))
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # Ray's workers are deaf to Ctrl-C, and we inherit that
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before that
            return
    furl_fit()


if __name__ == "__main__":
    main()
