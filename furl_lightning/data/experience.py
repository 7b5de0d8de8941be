"""What a population has lived through: replay buffer, success memory, successful episodes; and batches out of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from furl_lightning.agents.encoder import draw_shifts, random_shift
from furl_lightning.agents.transitions import Transitions
from furl_lightning.method.learner import Batch
from furl_lightning.method.success_memory import MemorySettings, SuccessMemory
from furl_lightning.replay.buffer import ReplayBuffer, ReplaySettings
from furl_lightning.replay.journal import Journal
from furl_lightning.replay.pixel_buffer import PixelReplayBuffer
from furl_lightning.replay.successful_episodes import SuccessfulEpisodes


class EpisodeOutcome(NamedTuple):
    """What became of every agent's episode, each [A]."""

    success: Tensor  # bool, at the last step
    success_any: Tensor  # bool, at any step
    returns: Tensor  # sum of the task reward
    successes: dict[str, Tensor]  # so far, by what model.relay.counts may name: positives, successes


class Experience:
    """Rings of an agent's past, for A agents in lockstep.

    Args:
        num_agents: A.
        episode_steps: T, the length of every episode.
        capacity: environment steps that the replay buffer holds.
        fields: what it holds of a step; with ``frame`` policies see pixels.
        replay: settings of the replay buffer.
        memory: settings of the success memory.
        memory_width: D of the frames that the success memory holds; 0 counts them only, None has no such memory.
        device: of rings and batches.
        replay_folder: for a replay buffer on disk.
        journal_folder: where the rings' files are kept between checkpoints.
    """

    def __init__(
        self,
        num_agents: int,
        episode_steps: int,
        capacity: int,
        fields: Sequence[str],
        replay: ReplaySettings,
        memory: MemorySettings,
        memory_width: int | None,
        device: torch.device,
        replay_folder: Path | None = None,
        journal_folder: Path | None = None,
    ) -> None:
        self.settings, self.num_agents, self.episode_steps = replay, num_agents, episode_steps
        self.replay = (
            PixelReplayBuffer(capacity, device, fields, episode_steps, folder=replay_folder)
            if "frame" in fields
            else ReplayBuffer(capacity, device, fields, folder=replay_folder)
        )
        self.remembers = memory_width is not None
        """Whether there is a success memory."""
        self.memory = SuccessMemory(num_agents if self.remembers else 0, memory_width or 0, memory, device=device)
        self.successful = SuccessfulEpisodes(num_agents, capacity, episode_steps) if replay.success_share else None
        self.journal = Journal(journal_folder)
        self.with_goal: list[int] = []
        """The agents that have a goal image."""
        self._success_steps = torch.zeros(num_agents, dtype=torch.int64)
        self._success = torch.zeros(episode_steps, num_agents, dtype=torch.bool)  # of this episode so far
        self._returns = torch.zeros(num_agents)

    @property
    def pixels(self) -> PixelReplayBuffer | None:
        """The replay buffer, where it holds frames for policies that see pixels."""
        return self.replay if isinstance(self.replay, PixelReplayBuffer) else None

    def add(self, steps: dict[str, Tensor], success: Tensor, first_frame: Tensor | None = None) -> None:
        """Append steps of one episode.

        Args:
            steps: the replay buffer's fields, [A, T, ...]; others are passed over.
            success: bool [A, T].
            first_frame: uint8 [A, S, S, 3], what the episode's reset showed; looked at where it begins.
        """
        step = self.replay.steps_written % self.episode_steps
        num, length = success.shape
        if self.pixels is not None and step == 0:
            assert first_frame is not None
            self.pixels.begin_episode(first_frame)
        fields = {name: steps[name].transpose(0, 1) for name in self.replay.fields}
        self.replay.extend(TensorDict(fields, [length, num]))
        self._success[step : step + length] = success.T
        self._returns += steps["reward"].sum(1)

    def end_episode(self) -> EpisodeOutcome | None:
        """If an episode has just ended: remember it, and say what became of it."""
        if self.replay.steps_written % self.episode_steps:
            return None
        if self.remembers:
            embedding = self.replay.last(self.episode_steps, "embedding")[..., : self.memory.width]  # [T, A, D]
            for i in range(self.num_agents):
                self.memory.add_episode(i, embedding[:, i], self._success[:, i])
        if self.successful is not None:
            self.successful.add(self._success.any(0))
        self._success_steps += self._success.sum(0)
        counts = {"successes": self._success_steps.clone()}
        if self.remembers:
            counts["positives"] = self.memory.positives
        outcome = EpisodeOutcome(self._success[-1].clone(), self._success.any(0), self._returns.clone(), counts)
        self._returns.zero_()
        return outcome

    def sample(self, generators: list[torch.Generator]) -> Batch:
        """Draw one update's batch, each agent's from its own generator."""
        size = self.settings.batch_size
        number = self.replay.draw(size, generators)
        if self.successful is not None:
            count = round(self.settings.success_share * size)
            self.successful.replace(number, count, self.replay.first_drawable, generators)
        n_step = self.settings.n_step
        fields = self.replay.at(number) if n_step == 1 else self.replay.over(number, n_step, self.episode_steps)
        for name in {"embedding", "later_embedding"} & fields.keys():
            fields[name] = fields[name].float()
        if self.pixels is not None:
            frames, count = fields.pop("frames"), self.pixels.stack
            shift = draw_shifts(generators, 2, size)
            fields["observation"] = random_shift(frames[:, :, :count], shift[:, 0])
            fields["next_observation"] = random_shift(frames[:, :, -count:], shift[:, 1])
        fields["discount"] = 1.0 - fields.pop("terminated").float()
        success_phase = self.memory.drawable.nonzero().flatten().tolist() if self.memory.width else []
        triples = self.memory.draw(success_phase, size, generators) if success_phase else None
        goal_phase = [i for i in self.with_goal if i not in success_phase]
        return Batch(Transitions(**fields), success_phase, triples, goal_phase)

    # -- checkpoints: the rings' contents go to files of their own, see training/checkpoint.py

    def save_rings(self) -> None:
        """Write what is new in the rings.

        Raises:
            OSError: the disk is full or the like.
        """
        self.journal.save(self.replay, self.memory)

    def state_dict(self) -> dict[str, Any]:
        """All but the rings' contents."""
        return {
            "memory": self.memory.counters(),
            "success_steps": self._success_steps,
            "successful": self.successful.state_dict() if self.successful is not None else None,
            "journal": self.journal.entries,
            "returns": self._returns,
            "success": self._success,
        }

    def load_state_dict(self, state: dict[str, Any], folder: Path | None) -> None:
        """Put back what :meth:`state_dict` gave, and the rings from the files under the checkpoint's folder."""
        self.memory.load_counters(state["memory"])
        self._success_steps.copy_(state["success_steps"])
        if self.successful is not None:
            self.successful.load_state_dict(state["successful"])
        self.journal.restore(state["journal"], folder, self.replay, self.memory)
        self._returns.copy_(state["returns"])
        self._success.copy_(state["success"])

    def close(self) -> None:
        """Remove the files of a replay buffer on disk."""
        self.replay.close()
