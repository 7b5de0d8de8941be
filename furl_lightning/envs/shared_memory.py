"""Memory that processes share. It lies in no file system, for /dev/shm is small in containers and may be full."""

from __future__ import annotations

import mmap
import os
from multiprocessing import reduction
from typing import Any


class SharedMemory:
    """A block of zeros; passed to a process that is being started, it is the same block there.

    Args:
        size: in bytes.
        file: descriptor of the block, where it exists already.

    Attributes:
        buffer: the bytes.
    """

    def __init__(self, size: int, file: int | None = None) -> None:
        self.size = size
        self._file = os.memfd_create("furl-arrays") if file is None else file
        if file is None:
            os.ftruncate(self._file, size)
        self.buffer = mmap.mmap(self._file, size)

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self.size, reduction.DupFd(self._file))

    def __del__(self) -> None:
        os.close(self._file)  # the mapping has one of its own


def _open(size: int, file: Any) -> SharedMemory:
    return SharedMemory(size, file.detach())
