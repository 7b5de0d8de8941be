"""The aligned reward: two projection heads over frozen VLM embeddings, and their ranking losses.

FuRL (arXiv 2406.00645), section 4.1. Shapes: A agents, B batch entries, D the VLM's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from furl_lightning.agents.members import index_of
from furl_lightning.agents.networks import PopulationMLP, reset_parameters
from furl_lightning.agents.optim import PopulationAdam
from furl_lightning.utils.settings import Above, AtLeast, Settings


def goal_mask(distance: Float[Tensor, "K B"], l2_margin: float) -> Float[Tensor, "K B B"]:
    """mask[i, j] = 1 where frame i is nearer the goal image than frame j by more than the margin.

    ``distance`` [A, B] is the L2 distance of a frame's embedding to the goal image's; mask [A, B, B].
    """
    return (distance[:, :, None] < distance[:, None, :] - l2_margin).to(distance.dtype)


def goal_loss(cosine: Float[Tensor, "K B"], mask: Float[Tensor, "K B B"], margin: float) -> Float[Tensor, " K"]:
    """Before the first success: sum_j mask_ij relu(margin - (cos_i - cos_j)), mean over i: [A].

    ``cosine`` [A, B], ``mask`` [A, B, B] from :func:`goal_mask`.
    """
    hinge = F.relu(margin - (cosine[:, :, None] - cosine[:, None, :]))
    return (mask * hinge).sum(-1).mean(-1)


def success_loss(
    positive: Float[Tensor, "K B"], lag: Float[Tensor, "K B"], negative: Float[Tensor, "K B"], margin: float
) -> tuple[Float[Tensor, " K"], Float[Tensor, " K"]]:
    """After the first success: two gated differences, each averaged over the batch: ([A], [A]).

    mean[1{other - pos + margin > 0} (other - pos)] for the negatives and for the lags. The margin
    gates and does not shift the value, as in the published code; the gradient is the hinge's.
    Arguments are cosines [A, B].
    """
    losses = []
    for other in (negative, lag):
        difference = other - positive
        losses.append(((difference + margin > 0).to(difference.dtype) * difference).mean(-1))
    return losses[0], losses[1]


@dataclass(frozen=True)
class AlignmentSettings(Settings, option="model.alignment"):
    """Reward alignment: projection heads over the VLM's embeddings, and their ranking losses."""

    lr: Annotated[float, Above(0)] = 1e-4
    """Adam's learning rate of the heads."""
    hidden: Annotated[int, AtLeast(1)] = 256
    """Hidden size of the heads, which are D-hidden-width, ReLU between and none at the end."""
    width: Annotated[int, AtLeast(1)] = 64
    """Output size of the heads."""
    margin: Annotated[float, AtLeast(0)] = 0.1
    """Of the ranking losses, in cosine."""
    l2_margin: Annotated[float, AtLeast(0)] = 0.25
    """Goal phase: by how much nearer the goal image a frame must be to rank higher, in L2 distance of embeddings."""


class AlignedReward(nn.Module):
    """Cosine of a projected frame and the projected instruction, with heads for each agent.

    Args:
        text_embedding: the instructions' embeddings, float32 [A, D].
        settings: of heads and losses.
    """

    text_embedding: Tensor

    def __init__(self, text_embedding: Tensor, settings: AlignmentSettings = AlignmentSettings()) -> None:
        super().__init__()
        num_agents, vlm_width = text_embedding.shape
        self.settings = settings
        self.register_buffer("text_embedding", text_embedding.clone())
        sizes = [vlm_width, settings.hidden, settings.width]
        self.image_head = PopulationMLP([num_agents], sizes)
        self.text_head = PopulationMLP([num_agents], sizes)

    def reset_parameters(self, generators: Sequence[torch.Generator]) -> None:
        """Fresh heads, each agent's from its own generator."""
        reset_parameters(self.image_head, generators)
        reset_parameters(self.text_head, generators)

    def optimizer(self) -> PopulationAdam:
        """Adam over both heads."""
        return PopulationAdam(self.parameters(), self.settings.lr)

    def forward(self, embedding: Float[Tensor, "K B D"], agents: Tensor | None = None) -> Float[Tensor, "K B"]:
        """Cosines [K, B] of frames [K, B, D], for all agents or the given ones (int64 [K])."""
        text = self.text_embedding if agents is None else self.text_embedding.index_select(0, agents)
        projected_text = self.text_head(text[:, None], agents)  # [K, 1, width]
        return F.cosine_similarity(self.image_head(embedding, agents), projected_text, dim=-1)

    def update_by_goal(
        self,
        embedding: Tensor,
        distance: Tensor,
        optimizer: PopulationAdam,
        agents: Sequence[int] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of the goal phase for all agents, or for the K given, whose rows these are.

        Args:
            embedding: frames of the replay batch [K, B, D].
            distance: their distances to the goal image [K, B].

        Returns:
            The cosines before the step [K, B], and, each [K], the loss and ``ordered``, the share of the
            batch's pairs of frames that the goal image puts in an order.
        """
        cosine = self(embedding, index_of(agents, embedding.device))
        mask = goal_mask(distance, self.settings.l2_margin)
        loss = goal_loss(cosine, mask, self.settings.margin)
        self._step(loss, optimizer, agents)
        pairs = mask.shape[-1] * (mask.shape[-1] - 1) / 2
        return cosine.detach(), {"loss": loss.detach(), "ordered": mask.sum((-2, -1)) / pairs}

    def update_by_success(
        self, triples: Tensor, optimizer: PopulationAdam, agents: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """One step of the success phase; means over the batch before it, each [K].

        Args:
            triples: embeddings of positives, lags and negatives [K, 3, B, D], from the success memory.

        Returns:
            loss (the sum), loss_negative, loss_lag, cos_positive, cos_lag, cos_negative.
        """
        cosine = self(triples.flatten(1, 2), index_of(agents, triples.device))
        positive, lag, negative = cosine.unflatten(1, triples.shape[1:3]).unbind(1)
        loss_negative, loss_lag = success_loss(positive, lag, negative, self.settings.margin)
        loss = loss_negative + loss_lag
        self._step(loss, optimizer, agents)
        return {
            "loss": loss.detach(),
            "loss_negative": loss_negative.detach(),
            "loss_lag": loss_lag.detach(),
            "cos_positive": positive.detach().mean(-1),
            "cos_lag": lag.detach().mean(-1),
            "cos_negative": negative.detach().mean(-1),
        }

    def _step(self, loss: Tensor, optimizer: PopulationAdam, agents: Sequence[int] | None) -> None:
        parameters = list(self.parameters())
        for parameter, grad in zip(parameters, torch.autograd.grad(loss.sum(), parameters), strict=True):
            parameter.grad = grad
        optimizer.step(agents=agents)
