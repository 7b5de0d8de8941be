"""Files that a crash or a power cut cannot leave half-written.

A file is written under another name in its own folder, flushed to the disk, and then renamed:
at every moment a reader sees the old contents or the new ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

PART = ".part"
"""Ending of a file that is being written; left behind by a crash, it means nothing."""


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then rename that file to ``path``.

    Raises:
        OSError: the disk is full or the like; ``path`` is as it was, and the other file is gone.
    """
    make_folder(path.parent)
    part = part_of(path)
    try:
        write(part)
        flush(part)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    flush(path.parent)


def link_file(source: Path, path: Path) -> None:
    """Make ``path`` a second name of ``source``, in the same folder, replacing what was there."""
    part = part_of(path)
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:  # a file system without hard links
        write_file(path, lambda copy: copy.write_bytes(source.read_bytes()))
        return
    os.replace(part, path)
    flush(path.parent)


def part_of(path: Path) -> Path:
    """The name under which a file is written."""
    return path.with_name(path.name + PART)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        flush(folder.parent)


def flush(path: Path) -> None:
    """Wait until a file's contents, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
