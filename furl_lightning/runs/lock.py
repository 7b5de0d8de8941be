"""A run's folder belongs to one process at a time: by a lock, or where the file system has none, by an owner's file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from furl_lightning.utils.errors import BadInput

LOCK, OWNER = ".lock", ".owner"
"""Names in the folder: what is locked, and what is there only while its maker has the folder."""
IN_USE = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
"""Errors of flock that another process's lock causes. All others come from file systems without locks."""


class FolderInUse(BadInput):
    """Another process is writing to the folder."""


@dataclass(frozen=True)
class Owner:
    """A process that has a folder, as it is written there."""

    host: str
    pid: int
    process: str
    """Which of all that ever have this id: its PID namespace, and its start in clock ticks since the host's."""
    since: str

    @classmethod
    def this(cls) -> Self:
        """This process, from now on."""
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        return cls(os.uname().nodename, os.getpid(), _process(os.getpid()), since)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """From a file, None where it says nothing."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def text(self) -> str:
        """For a file."""
        return json.dumps(asdict(self)) + "\n"

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"

    def has_ended(self) -> bool:
        """Whether it is gone for sure; of other hosts, and of other containers on this one, nobody here can say."""
        if self.host != os.uname().nodename or not self.process.startswith(f"{_namespace()} "):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's
            return False
        return _process(self.pid) != self.process


def _namespace() -> str:
    return os.readlink("/proc/self/ns/pid")


def _process(pid: int) -> str:
    """What tells a process from others of the same id; of one that has ended, something else."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        fields = ["X"]
    return f"{_namespace()} ended" if fields[0] in "ZX" else f"{_namespace()} {fields[19]}"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A context that has a folder for this process.

    The lock is released explicitly, not by closing its file: a child forked in between has that file open too.

    Raises:
        FolderInUse: another process has it.
    """
    lock, owner, ours = folder / LOCK, folder / OWNER, Owner.this()
    with lock.open("a+") as file, contextlib.ExitStack() as at_end:
        refusal = None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            at_end.callback(fcntl.flock, file, fcntl.LOCK_UN)
        except OSError as error:
            refusal = error
        if refusal is not None and refusal.errno in IN_USE:
            holder = Owner.read(lock) or "another process"
            raise FolderInUse(f"the run folder {folder} is in use by {holder}; choose another --name")
        _take_over(owner)  # also where there are locks: other machines may see this folder without
        if refusal is None:
            file.truncate(0)
            file.write(ours.text())
            file.flush()
        else:
            at_end.callback(_remove, owner, ours)
            _create(owner, ours)
            print(
                f"furl-fit: the file system of {folder} has no locks ({refusal.strerror}); until the run ends, "
                f"{owner.name} there keeps others out",
                file=sys.stderr,
            )
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process has this run's folder; one on another machine counts where the file system tells of it."""
    try:
        with (folder / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in IN_USE:
            return True
    owner = Owner.read(folder / OWNER)
    return (folder / OWNER).exists() if owner is None else not owner.has_ended()


def _take_over(path: Path) -> None:
    """Remove an owner's file that a process of this host left behind when it was killed.

    Raises:
        FolderInUse: its process goes on, or may do so.
    """
    owner = Owner.read(path)
    if owner is not None and owner.has_ended():
        path.unlink(missing_ok=True)
    elif path.exists():
        raise _in_use(path, owner)


def _create(path: Path, owner: Owner) -> None:
    """Write the owner's file, which must not be there.

    Raises:
        FolderInUse: it is.
    """
    try:
        file = path.open("x")
    except FileExistsError:
        raise _in_use(path, Owner.read(path)) from None
    try:
        with file:
            file.write(owner.text())
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink()
        raise


def _remove(path: Path, owner: Owner) -> None:
    """Remove the owner's file, unless it is of another owner by now."""
    if Owner.read(path) == owner:
        path.unlink(missing_ok=True)


def _in_use(path: Path, owner: Owner | None) -> FolderInUse:
    return FolderInUse(
        f"the run folder {path.parent} is in use by {owner or 'another process'}; "
        f"if that has ended, remove {path}, or choose another --name"
    )
