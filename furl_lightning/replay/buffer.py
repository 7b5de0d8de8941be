"""The replay buffer: a TorchRL TensorDictReplayBuffer whose every entry is one step of all agents.

Entry t holds the agents' transitions [A, ...] of one environment step, so that writing is one copy
and what is new since a checkpoint is one slice.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import LazyMemmapStorage, LazyTensorStorage, TensorDictReplayBuffer
from torchrl.data.replay_buffers.writers import RoundRobinWriter

FIELDS = ("observation", "action", "next_observation", "reward", "terminated", "embedding", "goal_distance")


class Replay:
    """Transitions of A agents, the last ``capacity`` steps of each.

    Fields of a step: observation, next_observation float32 [A, obs]; action float32 [A, action];
    reward float32 [A]; terminated bool [A]; embedding of the frame after the action, float16
    [A, D]; goal_distance float32 [A], its L2 distance to the goal image's embedding.

    Args:
        capacity: steps held.
        device: where they are held, if in memory.
        fields: those of the above that a method uses; no other is held.
        folder: keep them in files in this folder instead, for a buffer larger than memory. The folder
            is emptied first: it holds a copy to work on, what a run resumes from are its checkpoints.
    """

    def __init__(
        self,
        capacity: int,
        device: torch.device | str = "cpu",
        fields: Sequence[str] = FIELDS,
        folder: Path | None = None,
    ) -> None:
        self.capacity, self.fields, self.device, self.folder = capacity, tuple(fields), torch.device(device), folder
        if folder is None:
            storage = LazyTensorStorage(capacity, device=device)
        else:
            self.close()
            storage = LazyMemmapStorage(capacity, scratch_dir=folder)
        self.buffer = TensorDictReplayBuffer(storage=storage, writer=RoundRobinWriter(), batch_size=1)
        self.steps_written = 0
        self._flat: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return min(self.steps_written, self.capacity)

    def extend(self, steps: TensorDictBase) -> None:
        """Append steps, batch size [T, A] with the fields above.

        Raises:
            OSError: the first steps of a buffer on disk, and its folder has no room for all that may come.
        """
        self._refuse_small_disk(steps)
        self.buffer.extend(TensorDict(dict(steps.items()), steps.batch_size[:1]))
        self.steps_written += steps.batch_size[0]
        self._bind(steps.batch_size[1])

    @property
    def oldest(self) -> int:
        """Number of the oldest step that is held."""
        return self.steps_written - len(self)

    @property
    def first_drawable(self) -> int:
        """Number of the oldest step that may be drawn."""
        return self.oldest

    @property
    def bytes_per_transition(self) -> int:
        """What one agent's step takes; 0 before the first write."""
        return sum(values[0].nbytes for values in self._flat.values())

    def draw(self, batch_size: int, generators: Sequence[torch.Generator]) -> Tensor:
        """Numbers of steps, uniform with replacement, independent for each agent: int64 [A, B]."""
        oldest = self.first_drawable
        size = self.steps_written - oldest
        return oldest + torch.stack([torch.randint(size, (batch_size,), generator=g) for g in generators])

    def sample(self, batch_size: int, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """The transitions that :meth:`draw` names, fields [A, B, ...]."""
        return self.at(self.draw(batch_size, generators))

    def at(self, number: Tensor) -> dict[str, Tensor]:
        """The transitions of steps numbered [A, B] since the run began, fields [A, B, ...]."""
        return {name: self._gather(name, number) for name in self.fields}

    def _gather(self, name: str, number: Tensor) -> Tensor:
        """One field of steps numbered [A, ...], which are held: [A, ..., field]."""
        values = self._flat[name]
        agent = torch.arange(self.num_agents).view(-1, *[1] * (number.dim() - 1))
        row = (number % self.capacity) * self.num_agents + agent
        return values.index_select(0, row.flatten().to(values.device)).unflatten(0, number.shape)

    def last(self, count: int, field: str) -> Tensor:
        """One field of the last ``count`` steps, oldest first: [count, A, ...]."""
        return self.steps(self.steps_written - count, self.steps_written)[field]

    def steps(self, start: int, end: int) -> dict[str, Tensor]:
        """All fields of the steps numbered start <= n < end since the run began, [end - start, A, ...]."""
        if not self.oldest <= start <= end <= self.steps_written:
            has = f"{self.oldest} to {self.steps_written}"
            raise ValueError(f"steps {start} to {end} are not held; the buffer has {has}")
        place = torch.arange(start, end) % self.capacity
        stored = self.buffer.storage._storage
        if len(place) and place[0] <= place[-1]:
            return {name: stored[name][place[0] : place[-1] + 1] for name in self.fields}
        return {name: stored[name][place] for name in self.fields}

    def restore(self, steps: Mapping[str, Tensor], end: int) -> None:
        """Put back what :meth:`steps` gave for steps up to number ``end`` - 1, as far as they fit."""
        held = {name: steps[name][-self.capacity :] for name in self.fields}
        self._refuse_small_disk(held)
        length, num_agents = held["reward"].shape
        place = torch.arange(end - length, end) % self.capacity
        self.buffer.storage.set(place, TensorDict(held, [length]))
        writer_state = self.buffer.writer.state_dict()
        self.buffer.writer.load_state_dict({**writer_state, "_cursor": end % self.capacity})
        self.steps_written = end
        self._bind(num_agents)

    def close(self) -> None:
        """Remove the files of a buffer on disk."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _refuse_small_disk(self, steps: TensorDictBase) -> None:
        if self.folder is None or self._flat:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        needed = self.capacity * sum(values[0].numel() * values.element_size() for values in steps.values())
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(
                errno.ENOSPC, f"the replay buffer needs {needed:,} bytes, {free:,} are free", str(self.folder)
            )

    def _bind(self, num_agents: int) -> None:
        if not self._flat:  # the storage takes its memory at the first write
            stored = self.buffer.storage._storage
            if self.folder is not None:
                for path in self.folder.glob("*.memmap"):  # or a full disk would kill the process at a write
                    with path.open("rb+") as file:
                        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            self._flat = {name: stored[name].flatten(0, 1) for name in self.fields}
            self.num_agents = num_agents
