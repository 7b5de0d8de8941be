"""Files that a crash or a power cut cannot leave half-written.

A file is written under another name in its own folder, flushed to the disk, and then renamed:
at every moment a reader sees the old contents or the new ones.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

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


def write_folder(folder: Path, mark: str, write: Callable[[Path], T]) -> T:
    """Let ``write`` fill a folder of its own, then move its files to ``folder``, the one named ``mark`` before others.

    So a crash leaves a folder that :func:`is_other` still takes for one of the kind. Returns what ``write`` does.

    Raises:
        OSError: the disk is full or the like.
    """
    make_folder(folder)
    parts = folder / PART
    shutil.rmtree(parts, ignore_errors=True)
    try:
        parts.mkdir()
        result = write(parts)
        for part in sorted(parts.iterdir(), key=lambda part: part.name != mark):
            flush(part)
            os.replace(part, folder / part.name)
    finally:
        shutil.rmtree(parts, ignore_errors=True)
    flush(folder)
    return result


def is_other(folder: Path, mark: str) -> bool:
    """Whether there is something at ``folder`` that :func:`write_folder` has not written with this mark."""
    if not folder.is_dir():
        return folder.exists()
    return not (folder / mark).exists() and any(path.name != PART for path in folder.iterdir())
