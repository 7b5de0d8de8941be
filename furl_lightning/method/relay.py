"""The relay: which of an agent's two policies acts, and when the plain SAC policy retires.

FuRL (arXiv 2406.00645), section 4.2. Episodes of all agents march in lockstep.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Relay:
    """Turns of the VLM agent and the SAC agent within an episode.

    Each episode draws a turn's length from ``turns``; the agents alternate after every turn. Which
    one begins alternates from episode to episode; the VLM agent begins the first.

    Args:
        num_agents: A.
        turns: lengths to draw from, in environment steps.
        threshold: number of positives in the success memory at which the relay ends.
    """

    def __init__(self, num_agents: int, turns: Sequence[int] = (50, 100, 150, 200), threshold: int = 2500) -> None:
        self.turns = torch.tensor(turns)
        self.threshold = threshold
        self.active = torch.ones(num_agents, dtype=torch.bool)
        self.turn = torch.full((num_agents,), int(turns[0]))
        self.episode = -1

    def begin_episode(self, generators: Sequence[torch.Generator]) -> None:
        """Draw each agent's turn for the next episode, from its own generator."""
        draws = [torch.randint(len(self.turns), (), generator=g) for g in generators]
        self.begin_episode_with(self.turns[torch.stack(draws)])

    def begin_episode_with(self, turn: Tensor) -> None:
        """Begin the next episode with turns [A] of the given lengths."""
        self.turn = turn
        self.episode += 1

    def sac_acts(self, step: int) -> Tensor:
        """Whether the SAC agent acts at this step of the episode (0-based), bool [A]."""
        return self.active & ((step // self.turn + self.episode) % 2 == 1)

    def retire(self, positives: Tensor) -> None:
        """At an episode's end: agents with enough positives [A] leave the relay for good."""
        self.active &= positives < self.threshold

    def state_dict(self) -> dict[str, Tensor | int]:
        """Everything that a checkpoint needs."""
        return {"active": self.active, "turn": self.turn, "episode": self.episode}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Put back what :meth:`state_dict` gave."""
        self.active = torch.as_tensor(state["active"]).clone()
        self.turn = torch.as_tensor(state["turn"]).clone()
        self.episode = int(state["episode"])
