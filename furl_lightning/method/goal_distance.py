"""The closeness to the goal image as it is: a reward without heads and without training.

Shapes: A agents, B batch entries, D the VLM's width.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class GoalDistanceReward(nn.Module):
    """Minus the L2 distance of a frame's embedding to the goal image's, with the call of ``AlignedReward``.

    Args:
        num_agents: A.
        width: D.
    """

    goal_embedding: Tensor

    def __init__(self, num_agents: int, width: int) -> None:
        super().__init__()
        self.register_buffer("goal_embedding", torch.full((num_agents, width), math.nan))

    def aim(self, goal_embedding: Tensor) -> None:
        """Take the goal images' embeddings [A, D]; NaN for an agent that has none."""
        self.goal_embedding.copy_(goal_embedding)

    def forward(self, embedding: Float[Tensor, "K B D"], agents: Tensor | None = None) -> Float[Tensor, "K B"]:
        """Rewards [K, B] of frames [K, B, D]; 0 for an agent without goal image."""
        goal = self.goal_embedding if agents is None else self.goal_embedding.index_select(0, agents)
        return -(embedding - goal[:, None]).norm(dim=-1).nan_to_num(0.0)
