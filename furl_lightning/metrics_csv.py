"""Metrics as a CSV file, one row a scalar: appended, never rewritten, and exact on resume.

Lightning's own CSVLogger empties the folder of a run that is resumed.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger

HEADER = ["env_steps", "metric", "value"]


class MetricsCSV(Logger):
    """Appends ``env_steps,metric,value`` rows to ``metrics.csv``.

    Args:
        path: the file.
        resume_at: drop rows past this number of environment steps: the run will write them again.
    """

    def __init__(self, path: Path, resume_at: int | None = None) -> None:
        super().__init__()
        self.path, self.resume_at = path, resume_at
        self._file: Any = None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.parent.name

    @property
    def version(self) -> str:
        """None is kept: a folder is one run."""
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a row for each metric."""
        if self._file is None:
            self._open()
        rows = [(step, name, repr(float(v))) for name, v in metrics.items()]
        csv.writer(self._file).writerows(rows)
        self._file.flush()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not self.path.exists()
        if not fresh and self.resume_at is not None:
            with self.path.open(newline="") as file:
                rows = [row for row in csv.reader(file) if len(row) == 3][1:]
            part = self.path.with_suffix(".part")
            with part.open("w", newline="") as file:
                csv.writer(file).writerows([HEADER, *(row for row in rows if int(row[0]) <= self.resume_at)])
            os.replace(part, self.path)
        self._file = self.path.open("a", newline="")
        if fresh:
            csv.writer(self._file).writerow(HEADER)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: they are in config.yaml."""

    def finalize(self, status: str) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
