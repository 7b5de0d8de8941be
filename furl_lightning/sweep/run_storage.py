"""Runs on storage that is no file system here: fetched to a folder before an attempt, pushed while it goes on."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any

from furl_lightning.runs.lock import LOCK, OWNER
from furl_lightning.utils.durable import PART, link_file
from furl_lightning.utils.errors import BadInput

Stamp = tuple[int, int]
"""Size and time of change."""


class RunStorage:
    """A mirror of runs under an fsspec URL (``s3://``, ``gs://``, ``file://`` ...).

    Files that a checkpoint names are never changed, and are pushed before it. Nothing is removed
    before what replaces it is there. So whatever ends a push, the storage holds a whole checkpoint
    if it ever had one: the newest for which :func:`furl_lightning.sweep.trial.newest_whole` answers.

    Args:
        url: holds a folder and a log for each run.
        folder: the same on this machine.

    Raises:
        BadInput: there is no such kind of URL, or it needs a package that is not installed.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        self._fs: Any
        try:
            from fsspec.core import url_to_fs

            self._fs, root = url_to_fs(url)
        except (ImportError, ValueError) as error:  # what fsspec raises for a URL
            raise BadInput(f"storage: {' '.join(str(error).split())}") from error
        self._root = str(root).rstrip("/")
        self._there: dict[str, Stamp] = {}

    def fetch(self, name: str, checkpoints: bool = True) -> None:
        """Copy a run and its log to this machine, as far as the storage has them."""
        run, log = self._path(name), self._path(f"{name}.log")
        paths = self._fs.find(run) if self._fs.exists(run) else []
        for path in [*paths, *([log] if self._fs.exists(log) else [])]:
            relative = posixpath.relpath(path, self._path(""))
            if not checkpoints and relative.startswith(f"{name}/checkpoints/"):
                continue
            local = self.folder / relative
            local.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(path, str(local))
            self._there[relative] = _stamp(local)
        newest = max((self.folder / name / "checkpoints").glob("step-*.ckpt"), default=None)
        if newest is not None:
            link_file(newest, newest.with_name("last.ckpt"))

    def push(self, name: str, final: bool = False) -> None:
        """Copy a run to the storage if it has a checkpoint that is not there yet, or if this is the last push."""
        steps = [f"{name}/checkpoints/{path.name}" for path in (self.folder / name).glob("checkpoints/step-*.ckpt")]
        if not final and all(step in self._there for step in steps):
            return
        try:
            for relative in sorted(self._local(name), key=lambda path: (path in steps, path)):
                stamp = _stamp(self.folder / relative)
                if self._there.get(relative) != stamp:
                    self._fs.makedirs(posixpath.dirname(self._path(relative)), exist_ok=True)
                    self._fs.put_file(str(self.folder / relative), self._path(relative))
                    self._there[relative] = stamp
        except FileNotFoundError:  # a later save has just removed it: the next push will notice
            return
        local = self._local(name)
        for relative in [path for path in self._there if path not in local]:
            self._fs.rm_file(self._path(relative))
            del self._there[relative]

    def _local(self, name: str) -> set[str]:
        """What is to be there, relative to the folder; ``last.ckpt`` is another name of a file."""
        paths = [*(self.folder / name).rglob("*"), self.folder / f"{name}.log"]
        return {
            path.relative_to(self.folder).as_posix()
            for path in paths
            if path.is_file()
            and path.name not in (LOCK, OWNER, "last.ckpt")
            and path.suffix != PART
            and path.parent != self.folder / name / "replay"
        }

    def _path(self, relative: str) -> str:
        return f"{self._root}/{relative}".rstrip("/")


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
