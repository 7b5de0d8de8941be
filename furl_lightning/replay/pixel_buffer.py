"""A replay buffer that stores each frame once; stacks of frames are gathered when a batch is drawn.

An episode of T steps has T + 1 frames. Step n's field ``frame`` is the one after its action; the frame
of the episode's reset is stored beside the ring, one for each episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tensordict import TensorDictBase
from torch import Tensor

from furl_lightning.agents.encoder import STACK
from furl_lightning.replay.buffer import ReplayBuffer
from furl_lightning.tasks import EPISODE_STEPS


class PixelReplayBuffer(ReplayBuffer):
    """A :class:`~furl_lightning.replay.buffer.ReplayBuffer` with the field ``frame``, uint8 [A, S, S, 3].

    Batches have ``frames`` [A, B, F + 1, S, S, 3] in its place: the first F are the stack that the
    policy acted on, the last F the stack after the action. Stacks at an episode's beginning repeat its
    first frame.

    Args:
        capacity, device, fields, folder: see ReplayBuffer.
        episode_steps: length of every episode; they begin at multiples of it.
        stack: F.
    """

    def __init__(
        self,
        capacity: int,
        device: torch.device | str = "cpu",
        fields: Sequence[str] = ("action", "reward", "terminated", "frame"),
        episode_steps: int = EPISODE_STEPS,
        stack: int = STACK,
        folder: Path | None = None,
    ) -> None:
        super().__init__(capacity, device, fields, folder)
        self.episode_steps, self.stack = episode_steps, stack
        self.episodes = -(-capacity // episode_steps) + 1
        self._first: Tensor | None = None  # the resets' frames, a ring over episodes: [episodes, A, S, S, 3]

    def begin_episode(self, frame: Tensor) -> None:
        """Store the frame [A, S, S, 3] of a reset, before the episode's steps.

        Raises:
            ValueError: the episode before it is not complete.
        """
        if self.steps_written % self.episode_steps:
            raise ValueError(f"an episode of {self.episode_steps} steps cannot begin at step {self.steps_written}")
        self._set_first(self.steps_written // self.episode_steps, frame[None])

    def _set_first(self, episode: int, frames: Tensor) -> None:
        """Store the first frames [episodes, A, S, S, 3] of the episodes from number ``episode`` on."""
        if self._first is None:
            self._first = torch.zeros(self.episodes, *frames.shape[1:], dtype=torch.uint8, device=self.device)
        place = torch.arange(episode, episode + len(frames), device=self.device) % self.episodes
        self._first[place] = frames.to(self.device)

    @property
    def first_drawable(self) -> int:
        """Number of the oldest step whose stack has not been overwritten in part."""
        elapsed = self.oldest % self.episode_steps  # steps of its episode before the oldest one
        return self.oldest + (min(self.stack, self.episode_steps - elapsed) if elapsed else 0)

    @property
    def bytes_per_transition(self) -> int:
        """Size of one agent's step, with its share of the reset's frame; 0 before the first write."""
        first_frame = self._first[0, 0].numel() / self.episode_steps if self._first is not None else 0
        return super().bytes_per_transition + round(first_frame)

    def extend(self, steps: TensorDictBase) -> None:
        """Append steps of one episode, after its :meth:`begin_episode`.

        Raises:
            ValueError: there was no episode yet.
            OSError: see ReplayBuffer.
        """
        if self._first is None:
            raise ValueError("the episode has not begun: its first frame is missing")
        super().extend(steps)

    def at(self, number: Tensor) -> dict[str, Tensor]:
        """The transitions of the steps numbered [A, B]; see the class for ``frames``."""
        fields = self._gather([name for name in self.fields if name != "frame"], number)
        return {**fields, "frames": self.stacks(number)}

    def over(self, number: Tensor, n_step: int, episode_steps: int) -> dict[str, Tensor]:
        """As ReplayBuffer's; ``frames`` are the stack before the first action and, F later, the one after the last."""
        fields = super().over(number, n_step, episode_steps)
        frames, after = fields["frames"], fields.pop("frames_after")
        return {**fields, "frames": torch.cat([frames[:, :, :-1], after[:, :, 1:]], 2)}

    def _after(self, number: Tensor) -> dict[str, Tensor]:
        return {**self._gather(["terminated"], number), "frames_after": self.stacks(number)}

    def stacks(self, number: Tensor) -> Tensor:
        """Frames before and after the steps numbered [A, B], oldest first: [A, B, F + 1, S, S, 3]."""
        assert self._first is not None
        step = number % self.episode_steps
        # Frame k of an episode is the one after k of its steps.
        k = (step[..., None] + torch.arange(1 - self.stack, 2)).clamp(min=0)
        frames = self._gather(["frame"], ((number - step)[..., None] + k - 1).clamp(min=0))["frame"]
        agent, entry, place = (k == 0).nonzero(as_tuple=True)
        episode = number[agent, entry] // self.episode_steps % self.episodes
        frames[agent, entry, place] = self._first[episode, agent]
        return frames

    def steps(self, start: int, end: int) -> dict[str, Tensor]:
        """As ReplayBuffer's, and ``first_frame`` [episodes that begin among the steps, A, S, S, 3]."""
        fields = super().steps(start, end)
        assert self._first is not None
        episodes = torch.arange(-(-start // self.episode_steps), -(-end // self.episode_steps))
        return {**fields, "first_frame": self._first[episodes % self.episodes]}

    def restore(self, steps: Mapping[str, Tensor], end: int) -> None:
        """Append what :meth:`steps` returned for steps up to number ``end`` - 1; see ReplayBuffer."""
        frames = steps["first_frame"][-self.episodes :]
        self._set_first(-(-end // self.episode_steps) - len(frames), frames)
        super().restore(steps, end)
