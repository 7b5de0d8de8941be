"""Zero-shot rewards: the VLM as it is, without heads and without training.

Shapes: A agents, B batch entries, D the VLM's width.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from furl_lightning.utils.errors import BadInput


def cosine_reward(embedding: Float[Tensor, "K B D"], goal: Float[Tensor, "K D"]) -> Float[Tensor, "K B"]:
    """Cosine of frames [A, B, D] and each agent's instruction [A, D]: [A, B]."""
    return F.cosine_similarity(embedding, goal[:, None], dim=-1)


def goal_baseline_reward(
    embedding: Float[Tensor, "K B D"], goal: Float[Tensor, "K D"], baseline: Float[Tensor, "K D"], strength: float
) -> Float[Tensor, "K B"]:
    """Goal-baseline regularised reward of VLM-RM (Rocamonde et al. 2023, arXiv 2310.12921, section 3): [A, B].

    1 - 1/2 || strength * proj_L(s) + (1 - strength) * s - g ||^2, where s, g and b are frame, goal
    and baseline at length 1, and proj_L is the projection onto the line through b and g. What a
    frame has to do with neither text is taken out: at strength 0 this is the cosine of s and g, at
    1 only the place along the line counts.

    Args:
        embedding: frames s [A, B, D].
        goal: instructions g [A, D].
        baseline: descriptions b [A, D] of what is there at any time.
        strength: the paper's alpha, 0 to 1.
    """
    s, g, b = F.normalize(embedding, dim=-1), F.normalize(goal, dim=-1)[:, None], F.normalize(baseline, dim=-1)[:, None]
    along = F.normalize(g - b, dim=-1)  # [A, 1, D]
    offset = s - g
    on_line = (offset * along).sum(-1, keepdim=True) * along  # proj_L(s) - g, for g is on L
    return 1 - (strength * on_line + (1 - strength) * offset).square().sum(-1) / 2


class ZeroShotReward(nn.Module):
    """A reward straight from the VLM's embeddings, with the call of ``AlignedReward`` and nothing to train.

    Args:
        text_embedding: the instructions' embeddings, float32 [A, D].
        baseline_embedding: the baseline's, [D]; without it the reward is the cosine.
        strength: of the regularisation towards the baseline, 0 to 1.

    Raises:
        BadInput: an instruction that embeds as the baseline does, which leaves no line between.
    """

    text_embedding: Tensor
    baseline_embedding: Tensor | None

    def __init__(self, text_embedding: Tensor, baseline_embedding: Tensor | None = None, strength: float = 0.5) -> None:
        super().__init__()
        self.strength = strength
        self.register_buffer("text_embedding", text_embedding.clone())
        self.register_buffer("baseline_embedding", None if baseline_embedding is None else baseline_embedding.clone())
        if baseline_embedding is not None:
            likeness = F.cosine_similarity(text_embedding, baseline_embedding[None], dim=-1)
            if likeness.max() > 1 - 1e-6:
                raise BadInput("the baseline prompt and an instruction have the same embedding; write another one")

    def forward(self, embedding: Float[Tensor, "K B D"], agents: Tensor | None = None) -> Float[Tensor, "K B"]:
        """Rewards [K, B] of frames [K, B, D], for all agents or the given ones (int64 [K])."""
        goal = self.text_embedding if agents is None else self.text_embedding.index_select(0, agents)
        if self.baseline_embedding is None:
            return cosine_reward(embedding, goal)
        return goal_baseline_reward(embedding, goal, self.baseline_embedding.expand_as(goal), self.strength)
