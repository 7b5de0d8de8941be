"""The rings on disk: immutable files of what was written since the last save, named by a checkpoint.

A save so costs in proportion to what is new, and a crash in the middle of one harms nothing: files
that no checkpoint names are leftovers.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from furl_lightning.method.success_memory import SuccessMemory
from furl_lightning.replay.buffer import Replay
from furl_lightning.utils.durable import flush, make_folder, part_of

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
        """Write what is new since the last entry; entries that the rings have outrun are dropped.

        Raises:
            OSError: the disk is full or the like; what was written before that stays noted.
        """
        if self.folder is None:
            return
        positives, negatives = self._counts(memory)
        start = self.entries[-1]["end"] if self.entries else 0
        start = max(start, replay.steps_written - len(replay))
        while start < replay.steps_written:
            wrap = (start // replay.capacity + 1) * replay.capacity  # up to there steps are views, not copies
            end = min(start + STEPS_PER_FILE, wrap, replay.steps_written)
            arrays = {name: values.cpu() for name, values in replay.steps(start, end).items()}
            counts = [positives.tolist(), negatives.tolist()] * 2
            if end == replay.steps_written:  # the frames go into the save's last file
                arrays.update(memory.written_since(positives, negatives))
                counts[2:] = [memory.positives_written.tolist(), memory.negatives_written.tolist()]
            digest, name = _write(arrays, self.folder / "rings", f"{start:09d}-{end:09d}")
            self.entries.append(
                {
                    "file": f"rings/{name}",
                    "sha256": digest,
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
        """Fill empty rings from a checkpoint's entries, whose files lie under ``folder``; see :func:`verify`."""
        for entry in entries:
            assert folder is not None
            arrays = load_file(folder / entry["file"])
            replay.restore(arrays, entry["end"])
            positives, negatives = (
                (torch.tensor(entry[kind][0]), torch.tensor(entry[kind][1])) for kind in ("positives", "negatives")
            )
            memory.restore(arrays, positives, negatives)
        if folder and self.folder and folder.resolve() == self.folder.resolve():
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


def verify(entries: list[dict[str, Any]], folder: Path) -> None:
    """Check a checkpoint's files under ``folder``.

    Raises:
        DamagedFile: one is missing, or its contents are not those that were saved.
    """
    for entry in entries:
        path = folder / entry["file"]
        try:
            digest = _sha256(path)
        except OSError as error:
            raise DamagedFile(f"{path} cannot be read: {error.strerror}") from None
        if digest != entry["sha256"]:
            raise DamagedFile(f"{path} is damaged: its contents are not those that were saved")


_DTYPES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL"},
}


def _write(arrays: dict[str, Tensor], folder: Path, stem: str) -> tuple[str, str]:
    """Write a file in safetensors' format and name it by its contents; returns their sha256 and the name.

    So a file is never replaced by another, and one that a checkpoint names stays what it was. The
    library's own writer leaves files of other names behind when it is killed, and needs a second
    reading for the sha256.
    """
    header, offset = {}, 0
    for key, values in arrays.items():
        end = offset + values.numel() * values.element_size()
        header[key] = {"dtype": _DTYPES[values.dtype], "shape": list(values.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    make_folder(folder)
    part = part_of(folder / stem)
    sha256 = hashlib.sha256()
    try:
        with part.open("wb", buffering=0) as file:
            for data in (memoryview(len(text).to_bytes(8, "little") + text), *map(_bytes_of, arrays.values())):
                sha256.update(data)
                while len(data):
                    data = data[file.write(data) :]
        flush(part)
        name = f"{stem}-{sha256.hexdigest()[:8]}.safetensors"
        part.rename(folder / name)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    flush(folder)
    return sha256.hexdigest(), name


def _bytes_of(values: Tensor) -> memoryview:
    return values.contiguous().flatten().view(torch.uint8).numpy().data


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
