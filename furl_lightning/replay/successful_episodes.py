"""Which past episodes succeeded, so that batches can be drawn from them.

With a sparse reward nearly all transitions have the same one. Drawing a share of each batch from
successful episodes shows the learner the few others more often. The idea is that of Oh et al. 2018,
"Self-Imitation Learning" (arXiv 1806.05635); here it changes nothing but which transitions are drawn.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from furl_lightning.tasks import EPISODE_STEPS


class SuccessfulEpisodes:
    """One bit for each past episode of each agent, as far back as a replay buffer has steps of it.

    Args:
        num_agents: A.
        capacity: steps in the replay buffer.
        episode_steps: length of every episode.
    """

    def __init__(self, num_agents: int, capacity: int, episode_steps: int = EPISODE_STEPS) -> None:
        self.episode_steps = episode_steps
        self.ended = 0
        """Episodes that have ended."""
        self.success = torch.zeros(-(-capacity // episode_steps), num_agents, dtype=torch.bool)
        """A ring over the episodes, [episodes, A]."""

    def add(self, success: Tensor) -> None:
        """Record an episode that has just ended: whether any of its steps was a success, bool [A]."""
        self.success[self.ended % len(self.success)] = success
        self.ended += 1

    def replace(self, number: Tensor, count: int, oldest: int, generators: list[torch.Generator]) -> None:
        """Redraw the first ``count`` of an agent's step numbers from its successful episodes, in place.

        The new numbers are uniform over the steps, from ``oldest`` on, of the agent's episodes with a
        success. An agent without such an episode keeps its numbers, and its generator is not used.

        Args:
            number: of the steps in a batch, int64 [A, B].
            count: at most B.
            oldest: number of the oldest step that may be drawn.
            generators: one for each agent.
        """
        episode = torch.arange(oldest // self.episode_steps, self.ended)
        start = (episode * self.episode_steps).clamp(min=oldest)
        length = (episode + 1) * self.episode_steps - start
        success = self.success[episode % len(self.success)]  # [episodes, A]
        for i, generator in enumerate(generators):
            eligible = length * success[:, i]
            total = int(eligible.sum())
            if total:
                index = torch.randint(total, (count,), generator=generator)  # among the eligible steps
                end = eligible.cumsum(0)
                k = torch.searchsorted(end, index, right=True)
                number[i, :count] = (start + eligible - end)[k] + index

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {"ended": self.ended, "success": self.success}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.ended = state["ended"]
        self.success.copy_(state["success"])
