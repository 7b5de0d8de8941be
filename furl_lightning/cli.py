"""Entry points of the commands: imported quickly, and safe to import where OpenGL is broken."""

from __future__ import annotations

import os
import sys

from furl_lightning.utils.output import run
from furl_lightning.utils.stopping import Stopped, Stopping

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


def furl_fit() -> None:
    """``furl-fit``."""

    def body() -> int:
        with Stopping() as stopping:  # the imports take seconds
            try:
                _import_libraries("furl-fit")
                from furl_lightning.commands.fit import fit
            except Stopped as stop:
                print(f"\nfurl-fit: stopped by {stop} before anything was written", file=sys.stderr)
                return stopping.status
            return fit()

    run("furl-fit", body, trains=True)


def furl_eval() -> None:
    """``furl-eval``."""

    def body() -> int:
        _import_libraries("furl-eval")
        from furl_lightning.commands.evaluate import evaluate

        return evaluate()

    run("furl-eval", body)


def furl_probe() -> None:
    """``furl-probe``."""

    def body() -> int:
        _import_libraries("furl-probe")
        from furl_lightning.commands.probe import probe

        return probe()

    run("furl-probe", body)


def furl_report() -> None:
    """``furl-report``."""

    def body() -> int:
        _import_libraries("furl-report")
        from furl_lightning.commands.report import report

        return report()

    run("furl-report", body)


def furl_oracle() -> None:
    """``furl-oracle``."""

    def body() -> int:
        _import_libraries("furl-oracle")
        from furl_lightning.commands.oracle import oracle

        return oracle()

    run("furl-oracle", body)


def furl_export() -> None:
    """``furl-export``."""

    def body() -> int:
        _import_libraries("furl-export")
        from furl_lightning.commands.export import export

        return export()

    run("furl-export", body)


def furl_sweep() -> None:
    """``furl-sweep``."""

    def body() -> int:
        _import_libraries("furl-sweep")
        from furl_lightning.sweep.command import sweep

        return sweep()

    run("furl-sweep", body, trains=True)


def _import_libraries(command: str) -> None:
    """Import what fails where the environment says something else than it expects.

    MuJoCo, which TorchRL imports too, opens the library that ``MUJOCO_GL`` names. Lightning and its torchmetrics read
    this process's rank, which is zero (training/single_device.py), from variables that may be empty.
    """
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
    ranks = {name: os.environ.pop(name) for name in RANKS if name in os.environ}
    try:
        import pytorch_lightning  # noqa: F401
    finally:
        os.environ.update(ranks)
