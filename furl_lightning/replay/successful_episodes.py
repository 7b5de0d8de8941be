"""Which past episodes succeeded, so that batches can be drawn from them.

With a sparse reward nearly every transition says the same; drawing a share of each batch from
successful episodes lets the few that do not be seen often (Oh et al. 2018, "Self-Imitation
Learning", arXiv 1806.05635, has the idea; here it only changes which transitions are drawn).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from furl_lightning.tasks import EPISODE_STEPS


class SuccessfulEpisodes:
    """A bit for each agent's past episode, as far back as a replay buffer holds steps of it.

    Args:
        num_agents: A.
        capacity: steps that the replay buffer holds.
        episode_steps: length of every episode.
    """

    def __init__(self, num_agents: int, capacity: int, episode_steps: int = EPISODE_STEPS) -> None:
        self.episode_steps = episode_steps
        self.ended = 0
        """Episodes that have ended."""
        self.success = torch.zeros(-(-capacity // episode_steps) + 1, num_agents, dtype=torch.bool)
        """A ring over the episodes, [episodes, A]."""

    def add(self, success: Tensor) -> None:
        """Record an episode that has just ended: whether it was in success at any step, bool [A]."""
        self.success[self.ended % len(self.success)] = success
        self.ended += 1

    def replace(self, number: Tensor, count: int, oldest: int, generators: list[torch.Generator]) -> None:
        """Redraw the first ``count`` of the step numbers [A, B], in place, from successful episodes.

        They are uniform over the steps, from ``oldest`` on, of an agent's episodes with a success. An
        agent without such an episode keeps its numbers, and none are drawn for it.
        """
        episode = torch.arange(oldest // self.episode_steps, self.ended)
        start = (episode * self.episode_steps).clamp(min=oldest)
        length = (episode + 1) * self.episode_steps - start
        success = self.success[episode % len(self.success)]  # [episodes, A]
        for i, generator in enumerate(generators):
            held = length * success[:, i]
            total = int(held.sum())
            if total:
                drawn = torch.randint(total, (count,), generator=generator)
                end = held.cumsum(0)
                k = torch.searchsorted(end, drawn, right=True)
                number[i, :count] = (start + held - end)[k] + drawn

    def state_dict(self) -> dict[str, Any]:
        """Everything that a checkpoint needs."""
        return {"ended": self.ended, "success": self.success}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave."""
        self.ended = state["ended"]
        self.success.copy_(state["success"])
