"""Entry points of the commands: imported quickly, and safe to import where OpenGL is broken."""

from __future__ import annotations

import os
import sys

from furl_lightning.utils.stopping import Stopped, Stopping


def furl_fit() -> None:
    """``furl-fit``."""
    with Stopping() as stopping:  # the imports take seconds
        try:
            _check_mujoco("furl-fit")
            from furl_lightning.commands.fit import fit
        except Stopped as stop:
            print(f"\nfurl-fit: stopped by {stop} before anything was written", file=sys.stderr)
            sys.exit(stopping.status)
        sys.exit(fit())


def furl_eval() -> None:
    """``furl-eval``."""
    _check_mujoco("furl-eval")
    from furl_lightning.commands.evaluate import evaluate

    sys.exit(evaluate())


def furl_probe() -> None:
    """``furl-probe``."""
    _check_mujoco("furl-probe")
    from furl_lightning.commands.probe import probe

    sys.exit(probe())


def furl_report() -> None:
    """``furl-report``."""
    _check_mujoco("furl-report")
    from furl_lightning.commands.report import report

    sys.exit(report())


def furl_oracle() -> None:
    """``furl-oracle``."""
    _check_mujoco("furl-oracle")
    from furl_lightning.commands.oracle import oracle

    sys.exit(oracle())


def furl_sweep() -> None:
    """``furl-sweep``."""
    _check_mujoco("furl-sweep")
    from furl_lightning.sweep.command import sweep

    sys.exit(sweep())


def _check_mujoco(command: str) -> None:
    """Importing MuJoCo, which TorchRL does too, opens the library that ``MUJOCO_GL`` names and fails without it."""
    try:
        import mujoco  # noqa: F401
    except Exception as error:
        backend = os.environ.get("MUJOCO_GL", "")
        print(
            f"{command}: MUJOCO_GL={backend} does not work here ({str(error).splitlines()[0]}); unset it, or install "
            "its library, on Debian: apt-get install libegl1 libgl1-mesa-dri (egl) or libosmesa6 (osmesa)",
            file=sys.stderr,
        )
        sys.exit(2)
