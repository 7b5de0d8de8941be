"""Metrics as a CSV file, one row a scalar: appended, never rewritten, and exact on resume.

Lightning's own CSVLogger empties the folder of a run that is resumed.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from tqdm import tqdm

from furl_lightning.utils.durable import write_file

HEADER = ("env_steps", "metric", "value")


class MetricsCSV(Logger):
    """Appends ``env_steps,metric,value`` rows to ``metrics.csv``.

    While the disk is full, rows are queued in memory.

    Args:
        path: the file.
        resume_at: drop rows past this number of environment steps, which the resumed run will write again.
    """

    def __init__(self, path: Path, resume_at: int | None = None) -> None:
        super().__init__()
        self.path, self.resume_at = path, resume_at
        self._file: io.FileIO | None = None
        self._queue = b""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.parent.name

    @property
    def version(self) -> str:
        """Empty: a folder is one run."""
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a row for each metric; if the disk refuses them, warn and keep them for later."""
        self._queue += _lines((step, name, repr(float(v))) for name, v in metrics.items())
        try:
            self._write()
        except OSError as error:
            tqdm.write(f"furl-fit: {self.path}: {error.strerror}; its rows are queued in memory", file=sys.stderr)

    def flush(self) -> None:
        """Wait until every row is on the disk.

        Raises:
            OSError: it is full or the like.
        """
        if self._queue or self._file is not None:
            self._write()
            assert self._file is not None
            os.fsync(self._file.fileno())

    def _write(self) -> None:
        if self._file is None:
            self._file = self._open()
        while self._queue:  # unbuffered: how much of a row a full disk took is known, and that is not repeated
            self._queue = self._queue[self._file.write(self._queue) :]

    def _open(self) -> io.FileIO:
        before = []
        if self.resume_at is not None and self.path.exists():
            with self.path.open(newline="", errors="replace") as file:
                # A crash may have torn the last row; those up to a checkpoint were flushed before it.
                rows = [row for row in csv.reader(file) if len(row) == len(HEADER) and row[0].isdecimal()]
            before = [row for row in rows if int(row[0]) <= self.resume_at]
        write_file(self.path, lambda part: part.write_bytes(_lines([HEADER, *before])))
        return self.path.open("ab", buffering=0)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: they are in config.yaml."""

    def finalize(self, status: str) -> None:
        """Close the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._write()
            self._file.close()
            self._file = None
            self.resume_at = sys.maxsize  # should more rows come, they are appended


def _lines(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
