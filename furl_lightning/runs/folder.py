"""A run's folder: what lies in it, who may write to it, and which checkpoint it resumes from."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from furl_lightning.runs.lock import LOCK, OWNER, locked
from furl_lightning.utils.durable import write_file
from furl_lightning.utils.errors import BadInput

AUTO = "auto"
"""In the place of a checkpoint: go on if there is one, else start."""


class FolderRefused(BadInput):
    """A run cannot be started or resumed in this folder."""


class RunFolder:
    """``<runs>/<name>/`` with config.yaml, metrics.csv, TensorBoard events, goals/ and checkpoints/.

    Args:
        runs: where runs lie.
        name: of this one; a plain folder name.
    """

    def __init__(self, runs: Path, name: str) -> None:
        self.path = runs / name
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.csv"
        self.machine = self.path / "machine.yaml"
        self.checkpoints = self.path / "checkpoints"

    def refuse_if_taken(self) -> None:
        """A new run needs a folder that does not exist, is empty, or holds only what a start that was cut off left.

        Raises:
            FolderRefused: it holds something else.
        """
        if self.path.exists() and any(not self._is_left_by_a_start(path) for path in self.path.iterdir()):
            resume = f"resume it with --name {self.path.name} --ckpt_path auto, or " if self.newest_checkpoint() else ""
            raise FolderRefused(f"the run folder {self.path} exists already; {resume}choose another --name")

    def _is_left_by_a_start(self, path: Path) -> bool:
        """Whether furl-fit writes it before training begins, which is when the first checkpoint is saved."""
        if path == self.checkpoints:
            return not any(path.glob("*.ckpt"))
        return (
            path.name in (LOCK, OWNER, "goals", "replay", "hparams.yaml", "machine.yaml", "wandb", "wandb_run.txt")
            or path.name.startswith("events.out.tfevents")
            or path.name.startswith("config")
        )

    def refuse_links(self) -> None:
        """A run goes on in its files, so none of them may be a link to one elsewhere: the folder may be a stranger's.

        Raises:
            FolderRefused: one is.
        """
        here = self.path.resolve()
        for path in self.path.iterdir():
            if path.is_symlink() and not path.is_dir() and not path.resolve().is_relative_to(here):
                raise FolderRefused(f"{path} is a link to {path.resolve()}; for the run to go on, copy the file")

    def newest_config(self) -> Path | None:
        """The last of config.yaml, config-2.yaml and so on, None where there is none."""
        paths = [path for path in (self.config, *self.path.glob("config-*.yaml")) if path.is_file()]
        return max(paths, key=self._number, default=None)

    def write_config(self, text: str, resumes: bool) -> None:
        """Write a new run's configuration as config.yaml, and a resumed run's, if it differs, under the next name."""
        newest = self.newest_config() if resumes else None
        if newest is None:
            path = self.config
        elif newest.read_text() == text:
            return
        else:
            path = self.path / f"config-{self._number(newest) + 1}.yaml"
        write_file(path, lambda part: part.write_text(text))

    @staticmethod
    def _number(config: Path) -> int:
        number = config.stem.removeprefix("config").removeprefix("-")
        return int(number) if number.isdecimal() else 1

    def newest_checkpoint(self) -> Path | None:
        """The checkpoint file that ``auto`` goes on from, None where there is none."""
        last = self.checkpoints / "last.ckpt"
        # The very first save may have been cut off before its file got this name too.
        return last if last.is_file() else max(self.checkpoints.glob("step-*.ckpt"), default=None)

    def checkpoint(self, name: str) -> Path:
        """The checkpoint file to resume from: ``last`` or a path.

        Raises:
            FolderRefused: it does not exist.
        """
        path = self.checkpoints / "last.ckpt" if name == "last" else Path(name)
        if not path.is_file():
            others = sorted(p.name for p in path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
            start = "start the run with --ckpt_path auto, or without it"
            hint = f"there are: {', '.join(others)}" if others else start
            raise FolderRefused(f"no checkpoint at {path}; {hint}")
        return path

    def locked(self) -> AbstractContextManager[None]:
        """A context that has the folder, which is made, for this process.

        Raises:
            FolderInUse: another process is writing to it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        return locked(self.path)
