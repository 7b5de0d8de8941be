"""The rings on disk: immutable files of what was written since the last save, named in a checkpoint.

So the cost of a save is proportional to what is new, and a crash in the middle of one harms nothing:
files that no checkpoint names are leftovers.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from furl_lightning.method.success_memory import SuccessMemory
from furl_lightning.replay.buffer import ReplayBuffer
from furl_lightning.utils.durable import write_file
from furl_lightning.utils.errors import BadInput

RINGS = "rings"
"""The folder of the files, beside the checkpoints."""
STEPS_PER_FILE = 5_000
BYTES_PER_FILE = 64 * 2**20
"""Of steps in a file, and as many of frames: the contents of a file are put together in memory."""


class DamagedFile(BadInput):
    """A file that belongs to a checkpoint is missing, or its contents are not those that were saved."""


class Journal:
    """Files of replay steps and success-memory frames in one folder.

    Args:
        folder: where the files go (in ``rings/``); None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.entries: list[dict[str, Any]] = []
        """What the files contain, oldest first: file, sha256, start and end (numbers of environment steps), and
        frames, the success memory's counts ``written`` [2, A] before the file's first and after its last frame."""

    def save(self, replay: ReplayBuffer, memory: SuccessMemory) -> None:
        """Write what is new since the last entry; drop entries whose contents the rings have overwritten.

        Raises:
            OSError: the disk is full or the like; the files that were complete by then keep their entries.
        """
        if self.folder is None:
            return
        step, frames, written = 0, torch.zeros_like(memory.written), memory.written
        if self.entries:
            step, frames = self.entries[-1]["end"], _counts(self.entries[-1]["frames"][1])
        step, frames = max(step, replay.oldest), frames.maximum(written - memory.capacity)
        steps_per_file = min(STEPS_PER_FILE, _most(replay.bytes_per_transition * replay.num_agents))
        frames_per_file = _most(memory.positive[:, 0].nbytes + memory.negative[:, 0].nbytes)
        while step < replay.steps_written or bool((frames < written).any()):
            _, end = next(replay.parts(step, steps_per_file), (step, step))
            # Frames follow when all steps are written, as a rule in the last file of these.
            until = written.minimum(frames + frames_per_file) if end == replay.steps_written else frames
            arrays = {name: values.cpu() for name, values in replay.steps(step, end).items()} if end > step else {}
            arrays |= memory.frames(frames, until)
            file, digest = _write(arrays, self.folder, f"{RINGS}/{step:09d}-{end:09d}")
            counts = [frames.tolist(), until.tolist()]
            self.entries.append({"file": file, "sha256": digest, "start": step, "end": end, "frames": counts})
            step, frames = end, until
        self.entries = [entry for entry in self.entries if _needed(entry, replay, memory)]

    def restore(
        self, entries: list[dict[str, Any]], folder: Path | None, replay: ReplayBuffer, memory: SuccessMemory
    ) -> None:
        """Fill empty rings from a checkpoint's entries, whose files lie under ``folder``; see :func:`verify`."""
        for entry in entries:
            assert folder is not None
            arrays = safetensors.torch.load_file(folder / entry["file"])
            if entry["end"] > entry["start"]:
                replay.restore(arrays, entry["end"])
            start, end = map(_counts, entry["frames"])
            memory.restore(arrays, start, end)
        if folder and self.folder and folder.resolve() == self.folder.resolve():
            self.entries = list(entries)  # else the next save writes everything to the new folder


def verify(entries: list[dict[str, Any]], folder: Path) -> None:
    """Check a checkpoint's files under ``folder``.

    Raises:
        DamagedFile: one is missing or elsewhere, or its contents are not those that were saved.
    """
    for entry in entries:
        path = folder / entry["file"]
        if path.parent != folder / RINGS:
            raise DamagedFile(f"a checkpoint in {folder} names {path}: its files lie in {folder / RINGS}")
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DamagedFile(f"{path} cannot be read: {error.strerror}") from None
        if digest != entry["sha256"]:
            raise DamagedFile(f"{path} is damaged: its contents are not those that were saved")


def _counts(values: list[list[int]]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def _most(size: int) -> int:
    """How many things of so many bytes go into a file."""
    return max(1, BYTES_PER_FILE // max(1, size))


def _needed(entry: dict[str, Any], replay: ReplayBuffer, memory: SuccessMemory) -> bool:
    """Whether the rings still have anything of what the entry's file contains."""
    start, end = map(_counts, entry["frames"])
    if bool(((end > start) & (end > memory.written - memory.capacity)).any()):
        return True
    return entry["start"] < entry["end"] and bool(entry["end"] > replay.oldest)


def _write(arrays: dict[str, Tensor], folder: Path, stem: str) -> tuple[str, str]:
    """Write a file in safetensors' format, named by its contents; returns its path in the folder and the sha256.

    Because of the name no file is ever replaced by another: one that a checkpoint names stays what it was.
    """
    contents = safetensors.torch.save({name: values.contiguous() for name, values in arrays.items()})
    digest = hashlib.sha256(contents).hexdigest()
    file = f"{stem}-{digest[:8]}.safetensors"
    write_file(folder / file, lambda part: part.write_bytes(contents))
    return file, digest
