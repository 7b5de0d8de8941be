"""TensorBoard's events; a full disk loses some of them, and the run goes on."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

EVENTS = "events.out.tfevents."
"""What files of events are called, before the second of their making."""


class TensorBoard(TensorBoardLogger):
    """Lightning's TensorBoardLogger; events that cannot be written are lost (``metrics.csv`` will have them).

    The scalars of a moment are one event: of fifty agents there are thousands, and as many events would take
    twice the room.

    Args:
        folder: of the run.
        resume_at: drop what was logged past this number of environment steps, which the resumed run will log again.
    """

    def __init__(self, folder: Path, resume_at: int | None = None) -> None:
        # The first event from here on asks TensorBoard to forget later ones, should it have read them already.
        purge = None if resume_at is None else resume_at + 1
        super().__init__(folder.parent, name=folder.name, version="", purge_step=purge)
        self._folder, self._resume_at = folder, resume_at

    @property
    def experiment(self) -> Any:
        """PyTorch's SummaryWriter."""
        if self._experiment is None:
            put_before_now(self._folder)
            if self._resume_at is not None:
                for file in self._folder.glob(f"{EVENTS}*"):
                    drop_later_events(file, self._resume_at)
                self._resume_at = None
        return super().experiment

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log scalars, or lose them."""
        scalars = Summary(value=[Summary.Value(tag=tag, simple_value=float(value)) for tag, value in metrics.items()])
        with self.losing():
            self.experiment._get_file_writer().add_summary(scalars, step)

    def flush(self) -> None:
        """Write what TensorBoard has queued; of itself it does so every two minutes."""
        with self.losing():
            if self._experiment is not None:
                self._experiment.flush()

    def finalize(self, status: str) -> None:
        """Close the file."""
        with self.losing():
            super().finalize(status)

    @contextlib.contextmanager
    def losing(self) -> Iterator[None]:
        """A context in which events that cannot be written are lost without an error."""
        try:
            yield
        except (OSError, ValueError) as error:  # Lightning raises a ValueError from whatever went wrong
            if not isinstance(error, OSError) and not isinstance(error.__cause__, OSError):
                raise
            self._experiment = None  # its writer has ended; the next event opens another file
            self._kwargs.pop("purge_step", None)  # which would have TensorBoard forget what this one has written


def put_before_now(folder: Path) -> None:
    """Rename files of events whose names are not before one that is made now.

    TensorBoard reads files in the order of their names, which begin with the second of their making: that of a machine
    whose clock is ahead, or this one. Those of the second before are renamed too, to keep their place among them.
    """
    now = int(time.time())
    for number, file in enumerate(sorted(folder.glob(f"{EVENTS}*"))):
        second, _, rest = file.name.removeprefix(EVENTS).partition(".")
        if second.isdecimal() and int(second) >= now - 1:
            file.rename(folder / f"{EVENTS}{now - 1}.{number:04}.{rest}")


def drop_later_events(file: Path, env_steps: int) -> None:
    """Cut off a file of events at the first one that is past a number of environment steps, or torn.

    What TensorBoard does with an event that asks it to forget others depends on which of its readers reads it.
    """
    end = 0
    with file.open("rb") as events:
        while len(header := events.read(12)) == 12:  # length, and its checksum
            length, checksum = struct.unpack("<QI", header)
            if checksum != masked_crc32c(header[:8]):
                break
            record = events.read(length + 4)
            try:
                if len(record) < length + 4 or Event.FromString(record[:-4]).step > env_steps:
                    break
            except DecodeError:
                break
            end = events.tell()
    if end < file.stat().st_size:
        os.truncate(file, end)


def silence_writer_thread() -> None:
    """Print no traceback when TensorBoard's thread meets a full disk: the next event raises the error again."""
    threading.excepthook = _excepthook


def _excepthook(args: Any) -> None:
    if not (type(args.thread).__name__ == "_AsyncWriterThread" and issubclass(args.exc_type, OSError)):
        threading.__excepthook__(args)
