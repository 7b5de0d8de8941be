"""Folders and names that a user gives to write to: looked at before work begins."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import unicodedata
from pathlib import Path

from furl_lightning.utils.errors import BadInput

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk that is full: it may have room by the time that there is something to write."""
NOT_IN_NAMES = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, bytes that are no text, and ends of lines and paragraphs."""


def refuse_name(name: str) -> None:
    """Check a name for a folder of runs or of one run.

    Raises:
        BadInput: it is blank, a path, or has a line break or the like in it.
    """
    if not name.strip() or name in (".", "..") or any(c in "/\\" for c in name) or not _is_text(name):
        raise BadInput(f"--name must be a plain folder name such as 'mt10', not {name!r}")


def refuse_unwritable(folder: Path, option: str) -> None:
    """Check that a folder can be written to, or made, by a file that is gone at once; nothing else is made.

    Args:
        folder: need not exist, nor those above it.
        option: that names it, such as ``--out``.

    Raises:
        BadInput: it is, or lies below, something that cannot be written to; says what.
    """
    another = f"name another with {option}"
    if not str(folder).strip() or not _is_text(str(folder)):
        raise BadInput(f"{str(folder)!r} is no folder's path: it is blank, or has a line break or the like; {another}")
    there = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), folder)
    what = str(folder) if there == folder else f"{folder}: {there}"
    if there.is_symlink() and not there.exists():
        raise BadInput(f"{what} is a link to {os.readlink(there)}, which is not there; {another}")
    if not there.is_dir():
        raise BadInput(f"{what} is no folder; {another}")
    try:
        for path in (folder, *(there / part for part in folder.relative_to(there).parts)):
            with contextlib.suppress(FileNotFoundError):
                os.lstat(path)  # fails where it, or a name in it, is too long
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise BadInput(f"{folder} is too long a name; {another}") from error
        if error.errno not in NO_ROOM:
            raise BadInput(f"{what} cannot be written to ({error.strerror}); {another}") from error


def _is_text(name: str) -> bool:
    return not any(unicodedata.category(character) in NOT_IN_NAMES for character in name)
