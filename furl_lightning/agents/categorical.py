"""A categorical critic: a value as a distribution over bins, trained by cross entropy.

Farebrother et al. 2024, "Stop Regressing: Training Value Functions via Classification for Scalable Deep RL"
(arXiv 2403.03950), section 3.1, "HL-Gauss". Shapes: A agents, B batch entries, M bins.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

SIGMA = 0.75
"""Standard deviation of a target's Gaussian, in widths of a bin (the paper's choice)."""


class Bins(nn.Module):
    """Equal bins over a range of values.

    Args:
        count: M.
        low, high: the range's ends.
    """

    edges: Tensor

    def __init__(self, count: int, low: float, high: float) -> None:
        super().__init__()
        self.count, self.low, self.high = count, low, high
        self.sigma = SIGMA * (high - low) / count
        self.register_buffer("edges", torch.linspace(low, high, count + 1), persistent=False)

    def value(self, logits: Float[Tensor, "A 2 B M"]) -> Float[Tensor, "A 2 B"]:
        """Means of the distributions with these logits: sum_i p_i z_i, z_i the middle of bin i."""
        middle = (self.edges[:-1] + self.edges[1:]) / 2
        return (logits.softmax(-1) * middle).sum(-1)

    def distribution(self, value: Float[Tensor, "A B"]) -> Float[Tensor, "A B M"]:
        """What a Gaussian at each value, clipped to the range, has in each bin, as a share of what it has in the range.

        p_i = (Phi(right_i) - Phi(left_i)) / (Phi(high) - Phi(low)), Phi the distribution function of N(value, sigma^2).
        """
        middle = value.clamp(self.low, self.high)[..., None]
        below = 0.5 * torch.erf((self.edges - middle) / (math.sqrt(2.0) * self.sigma))
        return below.diff(dim=-1) / (below[..., -1:] - below[..., :1])

    def loss(self, logits: Float[Tensor, "A 2 B M"], target: Float[Tensor, "A B"]) -> Float[Tensor, " A"]:
        """Cross entropies of both critics with the targets' distributions, summed, mean over the batch: [A]."""
        cross = self.distribution(target)[:, None] * logits.log_softmax(-1)
        return -cross.sum(-1).sum(1).mean(-1)
