"""A replay buffer that holds each frame once: stacks of frames are put together when a batch is drawn.

An episode of T steps has T + 1 frames. Step n's field ``frame`` is the one after its action; the one
that the episode's reset showed is kept beside the ring, one an episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tensordict import TensorDictBase
from torch import Tensor

from furl_lightning.agents.encoder import STACK
from furl_lightning.replay.buffer import Replay
from furl_lightning.tasks import EPISODE_STEPS


class PixelReplay(Replay):
    """A :class:`~furl_lightning.replay.buffer.Replay` with the field ``frame``, uint8 [A, S, S, 3].

    Batches have ``frames`` [A, B, F + 1, S, S, 3] in its place: the first F are the stack that the
    action was chosen by, the last F the one after it. Before an episode's first frame stands that frame.

    Args:
        capacity, device, fields, folder: see Replay.
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
        self._first: Tensor | None = None  # a ring over episodes: [episodes, A, S, S, 3]

    def begin_episode(self, frame: Tensor) -> None:
        """Take the frame [A, S, S, 3] that a reset showed, before the episode's steps."""
        if self.steps_written % self.episode_steps:
            raise ValueError(f"an episode of {self.episode_steps} steps cannot begin at step {self.steps_written}")
        self._set_first(self.steps_written // self.episode_steps, frame[None])

    def _set_first(self, episode: int, frames: Tensor) -> None:
        if self._first is None:
            self._first = torch.zeros(self.episodes, *frames.shape[1:], dtype=torch.uint8, device=self.device)
        place = torch.arange(episode, episode + len(frames), device=self.device) % self.episodes
        self._first[place] = frames.to(self.device)

    @property
    def first_drawable(self) -> int:
        """Number of the oldest step whose stack has not been overwritten in part."""
        begun = self.oldest % self.episode_steps
        return self.oldest + (min(self.stack, self.episode_steps - begun) if begun else 0)

    @property
    def bytes_per_transition(self) -> int:
        """What one agent's step takes, with its share of the reset's frame."""
        reset = self._first[0, 0].numel() / self.episode_steps if self._first is not None else 0
        return super().bytes_per_transition + round(reset)

    def extend(self, steps: TensorDictBase) -> None:
        """Append steps of one episode, which has begun."""
        if self._first is None:
            raise ValueError("the episode has not begun: its first frame is missing")
        super().extend(steps)

    def at(self, number: Tensor) -> dict[str, Tensor]:
        """The transitions of steps numbered [A, B] since the run began; see the class for ``frames``."""
        rest = {name: self._gather(name, number) for name in self.fields if name != "frame"}
        return {**rest, "frames": self.stacks(number)}

    def stacks(self, number: Tensor) -> Tensor:
        """Frames before and after steps numbered [A, B], oldest first: [A, B, F + 1, S, S, 3]."""
        assert self._first is not None
        step = number % self.episode_steps
        # Frame k of an episode was shown after k of its steps.
        k = (step[..., None] + torch.arange(1 - self.stack, 2)).clamp(min=0)
        frames = self._gather("frame", ((number - step)[..., None] + k - 1).clamp(min=0))
        agent, entry, place = (k == 0).nonzero(as_tuple=True)
        episode = number[agent, entry] // self.episode_steps % self.episodes
        frames[agent, entry, place] = self._first[episode, agent]
        return frames

    def steps(self, start: int, end: int) -> dict[str, Tensor]:
        """As the Replay's, and ``first_frame`` [episodes that begin among the steps, A, S, S, 3]."""
        fields = super().steps(start, end)
        assert self._first is not None
        begun = torch.arange(-(-start // self.episode_steps), -(-end // self.episode_steps))
        return {**fields, "first_frame": self._first[begun % self.episodes]}

    def restore(self, steps: Mapping[str, Tensor], end: int) -> None:
        """Put back what :meth:`steps` gave for steps up to number ``end`` - 1, as far as they fit."""
        frames = steps["first_frame"][-self.episodes :]
        self._set_first(-(-end // self.episode_steps) - len(frames), frames)
        super().restore(steps, end)
