"""Whether memory stays flat over many evaluations with pictures.

    python benchmarks/memory.py
    python benchmarks/memory.py --evaluations 45 --workers 2

Runs furl-fit with three agents, short episodes and rings that are full before the third evaluation, and prints the
memory of the process and of its workers after each; then the medians of ten at both ends, for what allocators keep goes
up and down by tens of MB.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from pathlib import Path
from statistics import median
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from furl_lightning.commands.fit import prepare
from furl_lightning.envs.rendering import close_gl
from furl_lightning.training.evaluation import Evaluation
from furl_lightning.utils.stopping import Stopping

EVERY = 20
"""Environment steps between evaluations."""
FIRST = 3
"""Evaluation by which everything that is made once has been made."""
SMALL = {
    "data.tasks": "[drawer-close, reach, window-close]",
    "data.env.episode_steps": "40",
    "data.collection.start_steps": "20",
    "data.collection.steps_per_iteration": "10",
    "data.replay.batch_size": "16",
    "data.replay.size": "40",
    "data.memory.size": "40",
    "data.checkpoints.every": "100",
    "data.evaluation.every": str(EVERY),
    "model.sac.hidden": "[32, 32]",
    "model.alignment.hidden": "16",
    "model.log_every": "20",
    "trainer.accelerator": "cpu",
}


class Memory(Callback):
    """Prints, after each evaluation and its pictures, the memory that is not a file's, in MB."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float]] = []
        self._seen = -1
        print(f"{'evaluation':>10} {'process':>11} {'workers':>11} {'threads':>8}")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Where there has just been an evaluation: look."""
        (evaluation,) = (c for c in trainer.callbacks if isinstance(c, Evaluation))  # type: ignore[attr-defined]
        if evaluation.env_steps == self._seen:
            return
        self._seen = evaluation.env_steps
        row = _megabytes("self"), sum(map(_megabytes, _children()))
        self.rows.append(row)
        print(f"{len(self.rows):>10} {row[0]:>8.1f} MB {row[1]:>8.1f} MB {threading.active_count():>8}", flush=True)


def _megabytes(process: str) -> float:
    """Memory of a process that is not a file's."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024 / 1e6


def _children() -> list[str]:
    return [child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()]


def main() -> None:
    """Parse the command line and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--evaluations", type=int, default=40)
    options.add_argument("--workers", type=int, default=0)
    arguments = options.parse_args()
    settings = {
        **SMALL,
        "data.env_steps": str(arguments.evaluations * EVERY),
        "data.collection.num_workers": str(arguments.workers),
        "trainer.enable_progress_bar": "false",
    }
    argv = [part for name, value in settings.items() for part in (f"--{name}", value)]
    with tempfile.TemporaryDirectory() as runs, Stopping() as stopping:
        plan = prepare([*argv, "--runs", runs, "--name", "memory"], stopping)
        memory = Memory()
        plan.trainer.callbacks.append(memory)  # type: ignore[attr-defined]
        plan.trainer.fit(plan.module, datamodule=plan.data)
    close_gl()
    for name, begin in (("first", FIRST - 1), ("last", len(memory.rows) - 10)):
        process, workers = (median(column) for column in zip(*memory.rows[begin : begin + 10], strict=True))
        print(f"{name:>6} ten: {process:8.1f} MB {workers:8.1f} MB")


if __name__ == "__main__":
    main()
