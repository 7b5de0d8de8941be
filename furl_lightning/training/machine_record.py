"""Keeps with a run what it is made with, and says where that is not what it was begun with."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from furl_lightning.data.datamodule import FuRLDataModule
from furl_lightning.envs.rendering import renderer_name
from furl_lightning.runs.machine import changes, this_machine, write_machine
from furl_lightning.training.module import FuRLModule


class MachineRecord(Callback):
    """Has every checkpoint and ``machine.yaml`` say which libraries, device and renderer the steps were made with.

    A run that goes on with others than its checkpoint was made with says so in one line, and goes on.

    Args:
        path: of the run's ``machine.yaml``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at this machine."""
        assert isinstance(pl_module, FuRLModule)
        draws = pl_module.data.draws_with_gl
        device = trainer.strategy.root_device
        pl_module.machine = this_machine(_name(device), renderer_name() if draws else None)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Compare with the checkpoint's; an old one may not say."""
        assert isinstance(pl_module, FuRLModule)
        different = changes(checkpoint.get("machine") or {}, pl_module.machine)
        if different:
            print(
                f"furl-fit: warning: the run goes on with {different}; "
                "what follows need not be what it would have been without the change",
                file=sys.stderr,
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the entry; a full disk is for checkpoints to report, and they hold the same."""
        assert isinstance(pl_module, FuRLModule)
        data: FuRLDataModule = trainer.datamodule  # type: ignore[attr-defined]
        with contextlib.suppress(OSError):
            write_machine(self.path, data.env_steps, pl_module.machine)


def _name(device: torch.device) -> str:
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
