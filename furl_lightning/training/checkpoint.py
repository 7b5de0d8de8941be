"""Checkpoints of a run: saved so that nothing can break them, and checked before they are trusted.

In ``checkpoints/``: ``last.ckpt`` and the newest ``step-*.ckpt``, small Lightning checkpoints that
load with ``weights_only=True``; ``rings/``, the files of replay steps and success-memory frames that
they name with a checksum. See docs/resume.md.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

from furl_lightning.data.datamodule import FuRLDataModule
from furl_lightning.replay.journal import DamagedFile, verify
from furl_lightning.training.divergence import refuse_nan_parameters
from furl_lightning.training.module import FuRLModule
from furl_lightning.utils.durable import PART, link_file, make_folder, write_file
from furl_lightning.utils.stopping import Stopping


class Checkpoints(Callback):
    """Saves at the beginning, every ``data.checkpoints.every`` environment steps, at the end, and when told to stop.

    A checkpoint gets its name when all that belongs to it is flushed to the disk; older ones and the
    files that only they need are removed after that. A full disk ends a save with a warning:
    training goes on, and each episode's end tries again.

    Args:
        folder: where they go.
        stopping: the signals; training stops after the update that one met.
    """

    def __init__(self, folder: Path, stopping: Stopping) -> None:
        self.folder, self.stopping = folder, stopping
        self.saved_steps: int | None = None
        """Environment steps of the newest checkpoint in the folder, if there is one."""
        self.failed = False
        """Whether the last save did not succeed."""
        self._needs: dict[Path, set[str]] = {}
        self._due = False
        """Whether a save waits for the end of the episode."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have Lightning write its files as durably as ours."""
        trainer.strategy.checkpoint_io = _DurableIO()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave a checkpoint to go on from, whatever happens; from here on a signal waits for the update."""
        self.stopping.install()
        self.stopping.waits = True
        data = _data(trainer)
        if data.restored_from is not None and data.restored_from.resolve() == self.folder.resolve():
            self.saved_steps = data.env_steps
        else:
            self.save(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Save where it is time to, and stop where a signal has come."""
        data = _data(trainer)
        between = data.env_steps % data.episode_steps == 0
        self._due = self._due or data.env_steps % data.checkpoints.every < data.steps_per_iteration
        stop = self.stopping.signal is not None
        end = data.env_steps >= data.env_steps_total
        if not (between or end or data.can_be_replayed):
            return  # a run could not go on from here: the episode is finished first
        if self._due or stop or end or (self.failed and between):
            self._due = False
            self.save(trainer)
        if stop:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if the trainer ended the run for a reason of its own, such as ``trainer.max_time``."""
        data = _data(trainer)
        goes_on = data.can_be_replayed or data.env_steps % data.episode_steps == 0
        if self.saved_steps != data.env_steps and not self.failed and goes_on:
            self.save(trainer)
        self.stopping.waits = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """There is nothing to wait for any more."""
        self.stopping.waits = False

    def save(self, trainer: Trainer) -> None:
        """Write a complete checkpoint of this moment and make it ``last.ckpt``; warn where the disk does not let us.

        Raises:
            Diverged: an agent's parameters are not finite.
        """
        data, module = _data(trainer), trainer.lightning_module
        assert isinstance(module, FuRLModule)
        refuse_nan_parameters(module.built, module.agents, data.env_steps)
        try:
            for logger in trainer.loggers:  # what it has logged is part of a checkpoint
                getattr(logger, "flush", logger.save)()
            make_folder(self.folder)
            self._remove_parts()
            data.experience.save_rings()
            path = self.folder / f"step-{data.env_steps:09d}.ckpt"
            trainer.save_checkpoint(path)
            link_file(path, self.folder / "last.ckpt")
        except OSError as error:
            self.failed = True
            self._remove_parts()
            before = "none is saved yet" if self.saved_steps is None else f"that of step {self.saved_steps:,} is whole"
            tqdm.write(
                f"furl-fit: no checkpoint of step {data.env_steps:,}: {error.strerror or error}; {before}; "
                "training goes on and tries again at the next episode's end",
                file=sys.stderr,
            )
            return
        self.failed = False
        self.saved_steps = data.env_steps
        self._needs[path] = {entry["file"] for entry in data.experience.journal.entries}
        self._remove_old(path, data.checkpoints.keep)

    def _remove_old(self, newest: Path, keep: int) -> None:
        """Remove all but the newest checkpoints, then the ring files that none of these needs.

        Later ones than the newest are of a run that was given up by resuming from an earlier one.
        """
        kept = sorted(path for path in self.folder.glob("step-*.ckpt") if path <= newest)[-keep:]
        for path in self.folder.glob("step-*.ckpt"):
            if path not in kept:
                path.unlink()
                self._needs.pop(path, None)
        for path in kept:
            if path not in self._needs:
                try:
                    self._needs[path] = {entry["file"] for entry in load_checkpoint(path)["FuRLDataModule"]["journal"]}
                except DamagedFile:  # it cannot say what it needs
                    return
        needed = set().union(*self._needs.values())
        for path in (self.folder / "rings").glob("*.safetensors"):
            if f"rings/{path.name}" not in needed:
                path.unlink()

    def _remove_parts(self) -> None:
        for part in [*self.folder.glob(f"*{PART}"), *self.folder.glob(f"rings/*{PART}")]:
            part.unlink(missing_ok=True)


class _DurableIO(TorchCheckpointIO):
    """Lightning's own goes through TMPDIR, which may be another file system, and does not flush."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint beside its place, flush it, give it its name."""
        contents = io.BytesIO()  # PyTorch's own file writer tells a full disk as a RuntimeError
        torch.save(checkpoint, contents)
        write_file(Path(path), lambda part: part.write_bytes(contents.getbuffer()))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's contents, checked against the checksums in it; without the files that it names.

    Raises:
        DamagedFile: it is truncated, changed or no checkpoint of ours.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # PyTorch writes checksums and never looks at them
            if archive.testzip() is not None:
                raise zipfile.BadZipFile
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved["identity"], saved["FuRLDataModule"]["journal"], saved["FuRLDataModule"]["env_steps"]
        return saved
    except Exception:
        raise DamagedFile(f"{path} is damaged, or no checkpoint of furl-fit") from None


def load_whole(path: Path) -> dict[str, Any]:
    """A checkpoint's contents, after every file that belongs to it has been checked.

    Raises:
        DamagedFile: names the file that is damaged or missing, and the newest other checkpoint that is whole.
    """
    try:
        return _load_whole(path)
    except DamagedFile as error:
        for other in sorted(path.parent.glob("step-*.ckpt"), reverse=True):
            if other.samefile(path):
                continue
            try:
                steps = int(_load_whole(other)["FuRLDataModule"]["env_steps"])
            except DamagedFile:
                continue
            raise DamagedFile(f"{error}; the one before it is whole: --ckpt_path {other} (step {steps:,})") from None
        raise DamagedFile(f"{error}; there is no whole checkpoint beside it") from None


def _load_whole(path: Path) -> dict[str, Any]:
    saved = load_checkpoint(path)
    verify(saved["FuRLDataModule"]["journal"], path.parent)
    return saved


def _data(trainer: Trainer) -> FuRLDataModule:
    data: FuRLDataModule = trainer.datamodule  # type: ignore[attr-defined]
    return data
