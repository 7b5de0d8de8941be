"""The replay buffer: a ring of environment steps in a TorchRL storage.

An entry of the storage holds the transitions [A, ...] of all agents at one step, so that writing a
step is one copy and the steps since a checkpoint are one slice. Steps are drawn here and not by a
TorchRL sampler, because each agent draws from a generator of its own.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import LazyMemmapStorage, LazyTensorStorage

from furl_lightning.utils.settings import AtLeast, Below, Settings

FIELDS = ("observation", "action", "next_observation", "reward", "terminated", "embedding", "goal_distance")

ReplayStorage = Literal["memory", "disk"]


@dataclass(frozen=True)
class ReplaySettings(Settings, option="data.replay"):
    """Settings of the replay buffer and of the batches drawn from it."""

    size: Annotated[int, AtLeast(1)] = 500_000
    """Transitions kept for each agent."""
    storage: ReplayStorage = "memory"
    """memory: on the learner's device; disk: in the run's folder, for a buffer larger than memory."""
    batch_size: Annotated[int, AtLeast(1)] = 256
    """Transitions drawn for each agent and update."""
    success_share: Annotated[float, Below(0, 1)] = 0.0
    """Share of each batch that is drawn from episodes with a success, once there is one."""
    n_step: Annotated[int, AtLeast(1)] = 1
    """Rewards that a target sums before it bootstraps; fewer at an episode's end and at the newest transition."""


class ReplayBuffer:
    """Transitions of A agents, the last ``capacity`` steps of each. Steps are numbered since the run began.

    Fields of a step: observation, next_observation float32 [A, obs]; action float32 [A, action];
    reward float32 [A]; terminated bool [A]; embedding of the frame after the action, float16
    [A, D]; goal_distance float32 [A], its L2 distance to the goal image's embedding.

    Args:
        capacity: number of steps.
        device: of a buffer in memory.
        fields: the fields to store; the others are not in the batches either.
        folder: for memory-mapped files, where the buffer is larger than memory. The folder is emptied
            first: its files do not outlive a run, which resumes from its checkpoints.
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
            self.storage = LazyTensorStorage(capacity, device=device)
        else:
            self.close()
            self.storage = LazyMemmapStorage(capacity, scratch_dir=folder)
        self.steps_written = 0
        self.origin = 0
        """Number of the first step written, which lies at the storage's place 0; not 0 after :meth:`restore`."""
        self._entries: dict[str, Tensor] = {}
        self._num_entries = 0

    def __len__(self) -> int:
        return min(self.steps_written - self.origin, self.capacity)

    def extend(self, steps: TensorDictBase) -> None:
        """Append steps, batch size [T, A] with the fields above.

        Raises:
            OSError: the first steps of a buffer on disk, and its folder has no room for ``capacity`` steps.
        """
        entries = TensorDict({name: steps[name] for name in self.fields}, steps.batch_size[:1])
        first_write = not len(self.storage)
        if first_write and self.folder is not None:
            self._refuse_small_disk(entries)
        start = self.steps_written
        self.steps_written += len(entries)
        for first, end in self.parts(start, longest=self.capacity):
            place = self._place(first)
            self.storage.set(slice(place, place + end - first), entries[first - start : end - start])
        if first_write and self.folder is not None:
            for path in self.folder.glob("*.memmap"):  # or a full disk would kill the process at a write
                with path.open("rb+") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)

    @property
    def oldest(self) -> int:
        """Number of the oldest step in the buffer."""
        return self.steps_written - len(self)

    @property
    def first_drawable(self) -> int:
        """Number of the oldest step that may be drawn."""
        return self.oldest

    @property
    def num_agents(self) -> int:
        """A; 0 before the first write."""
        return self._views()[self.fields[0]].shape[1] if len(self.storage) else 0

    @property
    def bytes_per_transition(self) -> int:
        """Size of one agent's step; 0 before the first write."""
        return sum(values[0, 0].nbytes for values in self._views().values())

    def draw(self, batch_size: int, generators: Sequence[torch.Generator]) -> Tensor:
        """Numbers of steps, uniform with replacement, independent for each agent: int64 [A, B]."""
        oldest = self.first_drawable
        size = self.steps_written - oldest
        return oldest + torch.stack([torch.randint(size, (batch_size,), generator=g) for g in generators])

    def sample(self, batch_size: int, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """The transitions of the steps that :meth:`draw` returns, fields [A, B, ...]."""
        return self.at(self.draw(batch_size, generators))

    def at(self, number: Tensor) -> dict[str, Tensor]:
        """The transitions of the steps numbered [A, B], fields [A, B, ...]."""
        return self._gather(self.fields, number)

    def over(self, number: Tensor, n_step: int, episode_steps: int) -> dict[str, Tensor]:
        """As :meth:`at`, with what happens until ``n_step`` steps have been made.

        No step is past an episode's end, where each has ``episode_steps`` and begins at a multiple of that, nor past
        the newest one: there a transition has fewer. What is after an action is that after the last of its steps.

        Args:
            number: of the first steps, int64 [A, B].
            n_step: at least 2.
            episode_steps: length of every episode.

        Returns:
            Fields [A, B, ...], and, [A, n_step - 1, B, ...], ``later``, ``later_reward`` and ``later_embedding``; see
            :class:`~furl_lightning.agents.transitions.Transitions`.
        """
        newest = (number - number % episode_steps + episode_steps).clamp(max=self.steps_written) - 1
        following = number[:, None] + torch.arange(1, n_step)[:, None]  # [A, n_step - 1, B]
        present = following.minimum(newest[:, None])
        names = [name for name in ("reward", "embedding") if name in self.fields]
        later = {f"later_{name}": values for name, values in self._gather(names, present).items()}
        return {**self.at(number), **self._after(present[:, -1]), **later, "later": (following == present).float()}

    def _after(self, number: Tensor) -> dict[str, Tensor]:
        """What there is after the actions of the steps numbered [A, B]."""
        return self._gather(["next_observation", "terminated"], number)

    def _gather(self, names: Sequence[str], number: Tensor) -> dict[str, Tensor]:
        """Fields of the steps numbered [A, ...]: [A, ..., field]."""
        views = self._views()
        agent = torch.arange(self.num_agents).view(-1, *[1] * (number.dim() - 1))
        row = ((number - self.origin) % self.capacity * self.num_agents + agent).flatten().to(views[names[0]].device)
        return {name: views[name].flatten(0, 1).index_select(0, row).unflatten(0, number.shape) for name in names}

    def last(self, count: int, field: str) -> Tensor:
        """One field of the last ``count`` steps, oldest first: [count, A, ...]."""
        return self.steps(self.steps_written - count, self.steps_written)[field]

    def steps(self, start: int, end: int) -> dict[str, Tensor]:
        """All fields of the steps start <= n < end, [end - start, A, ...]; views unless they wrap, see :meth:`parts`.

        Raises:
            ValueError: the buffer does not have all of them.
        """
        if not self.oldest <= start <= end <= self.steps_written:
            raise ValueError(
                f"steps {start} to {end} are not held; the buffer has {self.oldest} to {self.steps_written}"
            )
        first = self._place(start)
        after_end = first + end - start - self.capacity
        views = self._views()
        if after_end <= 0:
            return {name: values[first : first + end - start] for name, values in views.items()}
        return {name: torch.cat([values[first:], values[:after_end]]) for name, values in views.items()}

    def parts(self, start: int, longest: int) -> Iterator[tuple[int, int]]:
        """Cut the steps from ``start`` on into ranges first <= n < end of steps that are neighbours in the storage.

        Args:
            start: number of the first step.
            longest: most steps in a range.
        """
        while start < self.steps_written:
            end = min(start + longest, start + self.capacity - self._place(start), self.steps_written)
            yield start, end
            start = end

    def restore(self, steps: Mapping[str, Tensor], end: int) -> None:
        """Append what :meth:`steps` returned for steps up to number ``end`` - 1.

        If they do not follow those in the buffer, the buffer begins anew with them.
        """
        values = {name: steps[name][-self.capacity :] for name in self.fields}
        length, num_agents = values["reward"].shape
        if self.steps_written != end - length:
            self.origin = self.steps_written = end - length
        self.extend(TensorDict(values, [length, num_agents]))

    def close(self) -> None:
        """Remove the files of a buffer on disk."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _place(self, number: int) -> int:
        """Where the storage has a step."""
        return (number - self.origin) % self.capacity

    def _views(self) -> dict[str, Tensor]:
        """The storage's fields, [entries, A, ...]; none before the first write."""
        if self._num_entries != len(self.storage):  # only while the ring is not full
            entries = self.storage[:]
            self._entries = {name: entries[name] for name in self.fields}
            self._num_entries = len(self.storage)
        return self._entries

    def _refuse_small_disk(self, entries: TensorDict) -> None:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        size = self.capacity * sum(values[0].nbytes for values in entries.values())
        free = shutil.disk_usage(self.folder).free
        if free < size:
            raise OSError(errno.ENOSPC, f"the replay buffer needs {size:,} bytes, {free:,} are free", str(self.folder))
