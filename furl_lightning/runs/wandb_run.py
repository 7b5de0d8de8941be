"""Weights & Biases: a run that goes on is one W&B run, whose step is the environment step."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning.loggers import Logger, WandbLogger

from furl_lightning.utils.construct import import_class
from furl_lightning.utils.durable import write_file

FILE = "wandb_run.txt"
"""In a run's folder: the id of its W&B run."""


class WandbRun(WandbLogger):
    """Lightning's WandbLogger, which has W&B count its own steps.

    Here W&B's step is the environment step too: there is one row of each, and where a run goes on from a checkpoint and
    logs again what W&B has already, W&B leaves out the repetition, which is the same.
    """

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log scalars, pictures and the like."""
        prefix = f"{self._prefix}{self.LOGGER_JOIN_CHAR}" if self._prefix else ""
        row = {f"{prefix}{name}": value for name, value in metrics.items()}
        self.experiment.log(row if step is None else {**row, "trainer/global_step": step}, step=step)

    def finalize(self, status: str) -> None:
        """End the W&B run, so that all of it is sent, and another run of this process is another one."""
        super().finalize(status)
        if self._experiment is not None:
            self._experiment.finish(exit_code=int(status != "success"))
            self._experiment = None


def as_one_run(logger: Any, folder: Path, resumes: bool) -> Any:
    """A trainer's ``logger`` argument, as parsed, where one of W&B goes on as the run that it was, or gets an id.

    An id of the user's own, also in ``WANDB_RUN_ID``, stays. Files go to the run's folder unless told otherwise.

    Args:
        logger: a class with its arguments, a list of them, or something else.
        folder: of the run.
        resumes: whether the run goes on.
    """
    if isinstance(logger, list):
        return [as_one_run(each, folder, resumes) for each in logger]
    name = getattr(logger, "class_path", None)
    if name is None or not issubclass(cls := import_class(name), WandbLogger):
        return logger
    kept = folder / FILE
    identity = kept.read_text().strip() if resumes and kept.is_file() else secrets.token_hex(4)
    given = dict(vars(getattr(logger, "init_args", None) or Namespace()))
    for option, value in {"id": os.environ.get("WANDB_RUN_ID") or identity, "name": folder.name}.items():
        given[option] = given.get(option) or value
    if given.get("save_dir", ".") == "." and not given.get("dir"):
        given["save_dir"] = str(folder)
    path = f"{WandbRun.__module__}.{WandbRun.__name__}" if cls is WandbLogger else name
    return {**vars(logger), "class_path": path, "init_args": given}


def keep_id(loggers: Iterable[Logger], folder: Path) -> None:
    """Have a run's folder say which W&B run it is."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and logger.version:
            text = f"{logger.version}\n"
            write_file(folder / FILE, lambda part: part.write_text(text))  # noqa: B023 (called at once)
