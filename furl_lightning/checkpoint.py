"""Checkpoints of a run, and stopping politely.

In ``checkpoints/``: ``last.ckpt`` and the newest ``step-*.ckpt``, small Lightning checkpoints that
load with ``weights_only=True``; ``rings/``, the files of replay steps and success-memory frames that
they name with a checksum.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from furl_lightning.data import FuRLDataModule
from furl_lightning.module import Diverged


class Checkpoints(Callback):
    """Saves every ``data.save_every`` environment steps, at the end, and when told to stop.

    A checkpoint gets its name when it is complete and flushed; older ones and the files that only
    they need are removed after that.

    Args:
        folder: where they go.
        save_top_k: how many of the newest are kept; at least 2.
    """

    def __init__(self, folder: Path, save_top_k: int = 2) -> None:
        self.folder, self.save_top_k = folder, max(2, save_top_k)
        self.saved_steps: int | None = None
        """Environment steps of the newest checkpoint of this process, if there is one."""
        self.stop_signal: signal.Signals | None = None
        """SIGINT or SIGTERM once it has come; training stops after the update that it met."""
        self._handlers: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals; a second one ends the process at once."""
        self.saved_steps = _data(trainer).env_steps or None
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stop_signal = signal.Signals(number)
        signal.signal(number, signal.SIG_DFL)

    def _release_signals(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Save where it is time to, and stop where a signal has come."""
        data = _data(trainer)
        due = data.env_steps % data.save_every < data.steps_per_iteration
        last = data.env_steps >= data.env_steps_total
        if due or last or self.stop_signal is not None:
            self.save(trainer)
        if self.stop_signal is not None:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._release_signals()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._release_signals()

    def save(self, trainer: Trainer) -> None:
        """Write a complete checkpoint of this moment and point ``last.ckpt`` to it."""
        data = _data(trainer)
        for name, values in trainer.lightning_module.state_dict().items():
            if values.is_floating_point() and not values.isfinite().all():
                raise Diverged(f"{name} has entries that are no finite numbers at step {data.env_steps}")
        self.folder.mkdir(parents=True, exist_ok=True)
        data.journal.save(data.replay, data.memory)
        path = self.folder / f"step-{data.env_steps:09d}.ckpt"
        part = path.with_suffix(".part")
        trainer.save_checkpoint(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        part = self.folder / "last.part"
        shutil.copyfile(path, part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, self.folder / "last.ckpt")
        _flush_folder(self.folder)
        self.saved_steps = data.env_steps
        self._remove_old()

    def _remove_old(self) -> None:
        kept = sorted(self.folder.glob("step-*.ckpt"))
        for path in kept[: -self.save_top_k]:
            path.unlink()
        needed = {
            entry["file"]
            for path in kept[-self.save_top_k :]
            for entry in torch.load(path, map_location="cpu", weights_only=True)["FuRLDataModule"]["journal"]
        }
        for path in (self.folder / "rings").glob("*.safetensors"):
            if f"rings/{path.name}" not in needed:
                path.unlink()


def _data(trainer: Trainer) -> FuRLDataModule:
    data: FuRLDataModule = trainer.datamodule  # type: ignore[attr-defined]
    return data


def _flush_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
