"""A run's folder: what lies in it, who may write to it, and which checkpoint it resumes from."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from furl_lightning.utils.durable import write_file
from furl_lightning.utils.errors import BadInput


class FolderRefused(BadInput):
    """A run cannot be started or resumed in this folder."""


class RunFolder:
    """``<runs>/<name>/`` with config.yaml, metrics.csv, TensorBoard events, goals/ and checkpoints/.

    Args:
        runs: where runs lie.
        name: of this one; a plain folder name.
    """

    def __init__(self, runs: Path, name: str) -> None:
        if not name or name in (".", "..") or any(c in name for c in "/\\\0"):
            raise FolderRefused(f"--name must be a plain folder name such as 'mt10', not '{name}'")
        self.path = runs / name
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.csv"
        self.checkpoints = self.path / "checkpoints"

    def refuse_if_taken(self) -> None:
        """A new run needs a folder that does not exist, is empty, or holds only what a start that was cut off left.

        Raises:
            FolderRefused: it holds something else.
        """
        if self.path.exists() and any(not self._is_left_by_a_start(path) for path in self.path.iterdir()):
            resume = (
                f"resume it with --name {self.path.name} --ckpt_path last, or "
                if (self.checkpoints / "last.ckpt").exists()
                else ""
            )
            raise FolderRefused(f"the run folder {self.path} exists already; {resume}choose another --name")

    def _is_left_by_a_start(self, path: Path) -> bool:
        """Whether furl-fit writes it before training begins, which is when the first checkpoint is saved."""
        if path == self.checkpoints:
            return not any(path.glob("*.ckpt"))
        return (
            path.name in (".lock", "goals", "replay", "hparams.yaml")
            or path.name.startswith("events.out.tfevents")
            or path.name.startswith("config")
        )

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

    def checkpoint(self, name: str) -> Path:
        """The checkpoint file to resume from: ``last`` or a path.

        Raises:
            FolderRefused: it does not exist.
        """
        path = self.checkpoints / "last.ckpt" if name == "last" else Path(name)
        if not path.is_file():
            others = sorted(p.name for p in path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
            hint = f"there are: {', '.join(others)}" if others else "start the run without --ckpt_path"
            raise FolderRefused(f"no checkpoint at {path}; {hint}")
        return path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A context that locks the folder for this process.

        The lock is released explicitly, not by closing its file: a child forked in between has that file open too.

        Raises:
            FolderRefused: another process is writing to it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                owner = file.read().strip() or "unknown"
                raise FolderRefused(
                    f"the run folder {self.path} is in use by process {owner}; choose another --name"
                ) from None
            try:
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)


def is_locked(path: Path) -> bool:
    """Whether a process has locked this ``.lock``; one on another machine counts where the file system shares locks."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except OSError:
        return True
