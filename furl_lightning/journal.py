"""The rings on disk: immutable files of what was written since the last save, named by a checkpoint.

A save so costs in proportion to what is new, and a crash in the middle of one harms nothing: files
that no checkpoint names are leftovers.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from furl_lightning.replay import Replay
from furl_lightning.success_memory import SuccessMemory

STEPS_PER_FILE = 5_000


class DamagedFile(ValueError):
    """A file that a checkpoint names is missing or is not what was written."""


class Journal:
    """Files of replay steps and success-memory frames in one folder.

    Args:
        folder: where the files go (in ``rings/``); None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.entries: list[dict[str, Any]] = []
        """What the files hold, oldest first: file, sha256, start and end (environment steps), and as
        positives and negatives the counts of frames [A] written before it and by its end."""

    def save(self, replay: Replay, memory: SuccessMemory) -> None:
        """Write what is new since the last entry; entries that the rings have outrun are dropped."""
        if self.folder is None:
            return
        positives, negatives = self._counts(memory)
        start = self.entries[-1]["end"] if self.entries else 0
        start = max(start, replay.steps_written - len(replay))
        while start < replay.steps_written:
            end = min(start + STEPS_PER_FILE, replay.steps_written)
            arrays = {name: values.cpu() for name, values in replay.steps(start, end).items()}
            counts = [positives.tolist(), negatives.tolist()] * 2
            if end == replay.steps_written:  # the frames go into the save's last file
                arrays.update(memory.written_since(positives, negatives))
                counts[2:] = [memory.positives_written.tolist(), memory.negatives_written.tolist()]
            name = f"rings/{start:09d}-{end:09d}.safetensors"
            self.entries.append(
                {
                    "file": name,
                    "sha256": _write(arrays, self.folder / name),
                    "start": start,
                    "end": end,
                    "positives": [counts[0], counts[2]],
                    "negatives": [counts[1], counts[3]],
                }
            )
            start = end
        self.entries = [entry for entry in self.entries if _needed(entry, replay, memory)]

    def restore(
        self, entries: list[dict[str, Any]], folder: Path | None, replay: Replay, memory: SuccessMemory
    ) -> None:
        """Fill empty rings from a checkpoint's entries, whose files lie under ``folder``.

        Raises:
            DamagedFile: a file is missing, or its contents are not those that were saved.
        """
        for entry in entries:
            assert folder is not None
            arrays = _read(folder / entry["file"], entry["sha256"])
            replay.restore(arrays, entry["end"])
            positives, negatives = (
                (torch.tensor(entry[kind][0]), torch.tensor(entry[kind][1])) for kind in ("positives", "negatives")
            )
            memory.restore(arrays, positives, negatives)
        if folder == self.folder:
            self.entries = list(entries)  # else the next save writes everything to the new folder

    def _counts(self, memory: SuccessMemory) -> tuple[Tensor, Tensor]:
        """Positives and negatives [A] that the files hold already."""
        if not self.entries:
            zero = torch.zeros_like(memory.positives_written)
            return zero, zero.clone()
        return torch.tensor(self.entries[-1]["positives"][1]), torch.tensor(self.entries[-1]["negatives"][1])


def _needed(entry: dict[str, Any], replay: Replay, memory: SuccessMemory) -> bool:
    """Whether the rings still hold anything of what the entry's file holds."""
    for kind, written in (("positives", memory.positives_written), ("negatives", memory.negatives_written)):
        start, end = torch.tensor(entry[kind][0]), torch.tensor(entry[kind][1])
        if bool(((end > start) & (end > written - memory.capacity)).any()):
            return True
    return bool(entry["end"] > replay.steps_written - len(replay))


def _write(arrays: dict[str, Tensor], path: Path) -> str:
    """Write and flush a file, then give it its name; returns its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({name: values.contiguous() for name, values in arrays.items()}, part)
    with part.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    os.replace(part, path)
    return digest


def _read(path: Path, sha256: str) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read: {error.strerror}") from None
    if digest != sha256:
        raise DamagedFile(f"{path} is damaged: its contents are not those that were saved")
    return load_file(path)
