"""The relay: which of an agent's two policies acts, and when the plain SAC policy retires.

FuRL (arXiv 2406.00645), section 4.2. Episodes of all agents march in lockstep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.settings import AtLeast, Settings


@dataclass(frozen=True)
class RelaySettings(Settings, option="model.relay"):
    """The relay of the VLM agent and a plain SAC agent."""

    enabled: bool = True
    """Let a plain SAC agent take turns with the VLM agent; false: the VLM agent acts alone."""
    turns: tuple[Annotated[int, AtLeast(1)], ...] = (50, 100, 150, 200)
    """Lengths of the agents' turns, in environment steps, one drawn each episode."""
    threshold: Annotated[int, AtLeast(1)] = 2500
    """The relay of an agent ends when so many successes are counted."""
    counts: Literal["positives", "successes"] = "positives"
    """What is counted: positives: frames in the success memory's ring; successes: environment steps in success."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.turns:
            raise BadInput("model.relay.turns must name at least one length, e.g. [50, 100]")


class Relay:
    """Turns of the VLM agent and the SAC agent within an episode.

    Each episode draws a turn's length; the agents alternate after every turn. Which
    one begins alternates from episode to episode; the VLM agent begins the first.

    Args:
        num_agents: A.
        settings: lengths of turns, and when the relay ends.
    """

    def __init__(self, num_agents: int, settings: RelaySettings = RelaySettings()) -> None:
        self.settings = settings
        self.turns = torch.tensor(settings.turns)
        self.active = torch.ones(num_agents, dtype=torch.bool)
        self.turn = torch.full((num_agents,), settings.turns[0])
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

    def retire(self, successes: Tensor) -> None:
        """At an episode's end: agents of whom enough successes [A], on any device, are counted leave it for good."""
        self.active &= successes.to(self.active.device) < self.settings.threshold

    def state_dict(self) -> dict[str, Tensor | int]:
        """Everything that a checkpoint needs."""
        return {"active": self.active, "turn": self.turn, "episode": self.episode}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Put back what :meth:`state_dict` gave."""
        self.active = torch.as_tensor(state["active"]).clone()
        self.turn = torch.as_tensor(state["turn"]).clone()
        self.episode = int(state["episode"])
