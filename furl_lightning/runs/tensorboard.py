"""TensorBoard's events; a full disk loses some of them, and the run goes on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger


class TensorBoard(TensorBoardLogger):
    """Lightning's TensorBoardLogger; events that cannot be written are lost (``metrics.csv`` will have them)."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log scalars, or lose them."""
        with self.losing():
            super().log_metrics(metrics, step)

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


def silence_writer_thread() -> None:
    """Print no traceback when TensorBoard's thread meets a full disk: the next event raises the error again."""
    threading.excepthook = _excepthook


def _excepthook(args: Any) -> None:
    if not (type(args.thread).__name__ == "_AsyncWriterThread" and issubclass(args.exc_type, OSError)):
        threading.__excepthook__(args)
