"""A batch of transitions of a population: what an update learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from furl_lightning.agents.members import gather_rows


@dataclass
class Transitions:
    """Transitions of A agents, B each; what a method has no use for is None."""

    observation: Tensor
    """float32 [A, B, obs], or uint8 stacks of frames [A, B, F, S, S, 3] where policies see pixels."""
    action: Tensor
    """float32 [A, B, action], in [-1, 1]."""
    next_observation: Tensor
    """As ``observation``, after the action."""
    reward: Tensor
    """The task's reward, float32 [A, B]."""
    discount: Tensor
    """0 where the episode terminated with this transition, else 1; float32 [A, B]."""
    embedding: Tensor | None = None
    """The VLM's embedding of the frame after the action, float32 [A, B, D]."""
    goal_distance: Tensor | None = None
    """Its L2 distance to the goal image's embedding, float32 [A, B]; NaN for an agent without goal image."""
    later: Tensor | None = None
    """For n-step returns: which of the n - 1 steps after this one the return has, 1, or 0 where they would be past the
    episode's end or not taken yet; float32 [A, n - 1, B]. Next observation and discount are then the last one's."""
    later_reward: Tensor | None = None
    """The task's reward of those steps, float32 [A, n - 1, B]."""
    later_embedding: Tensor | None = None
    """The VLM's embedding of the frames after them, float32 [A, n - 1, B, D]."""

    def tensors(self) -> dict[str, Tensor]:
        """Those that are there, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def to(self, device: torch.device) -> Transitions:
        """The same on a device."""
        return self._map(lambda values: values.to(device))

    def of(self, agents: Sequence[int] | None) -> Transitions:
        """Those of K agents, [K, B, ...]; of all where None."""
        return self if agents is None else self._map(lambda values: gather_rows(values, agents))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Transitions:
        return Transitions(**{name: change(values) for name, values in self.tensors().items()})
