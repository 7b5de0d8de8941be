"""Seeing pixels as DrQ does: stacked frames, random shifts, and a convolutional encoder for a population.

Kostrikov et al. 2020, "Image Augmentation Is All You Need" (arXiv 2004.13649). Frames are uint8
[..., height, width, 3]. Shapes: A agents, B batch entries, F frames of a stack, S their size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from furl_lightning.agents.networks import PopulationConv2d, PopulationLayerNorm, PopulationLinear

STACK = 3
"""Frames that a policy sees at once."""
SHIFT = 4
"""Greatest random shift, in pixels."""
FILTERS, STRIDES, WIDTH = 32, (2, 1, 1, 1), 50
SMALLEST = 15
"""Least size of a frame of which the four convolutions leave anything."""


class FrameStack:
    """The last frames of every agent's episode; at its start the first one stands for those before it.

    Args:
        count: F.
    """

    def __init__(self, count: int = STACK) -> None:
        self.count = count
        self.frames: Tensor | None = None
        """[A, F, S, S, 3], oldest first."""

    def push(self, frame: Tensor, first: bool) -> Tensor:
        """Take the next frame [A, S, S, 3], the ``first`` of an episode or not; returns the stack."""
        if first:
            self.frames = frame[:, None].repeat(1, self.count, 1, 1, 1)
        else:
            assert self.frames is not None, "an episode's first frame is missing"
            self.frames = torch.cat([self.frames[:, 1:], frame[:, None]], 1)
        return self.frames


def draw_shifts(generators: Sequence[torch.Generator], *shape: int, most: int = SHIFT) -> Tensor:
    """Uniform shifts (down, right) from -most to most, int64 [len(generators), *shape, 2]."""
    return torch.stack([torch.randint(-most, most + 1, (*shape, 2), generator=g) for g in generators])


def random_shift(stacks: Tensor, shift: Tensor) -> Tensor:
    """Move each stack [A, B, F, S, S, 3] by its (down, right) [A, B, 2]; the border's pixels fill in.

    The same as padding with copies of the border and cropping at another place; all frames of a
    stack move alike.
    """
    flat, down_right = stacks.flatten(0, 1), shift.flatten(0, 1).to(stacks.device)
    height, width = stacks.shape[-3:-1]
    row = (torch.arange(height, device=flat.device) - down_right[:, :1]).clamp(0, height - 1)  # [A * B, S]
    column = (torch.arange(width, device=flat.device) - down_right[:, 1:]).clamp(0, width - 1)
    entry = torch.arange(len(flat), device=flat.device)[:, None, None]
    moved = flat[entry, :, row[:, :, None], column[:, None, :]]  # [A * B, S, S, F, 3]
    return moved.permute(0, 3, 1, 2, 4).unflatten(0, stacks.shape[:2])


class ConvEncoder(nn.Module):
    """Four 3 x 3 convolutions of 32 filters with ReLU, the first of stride 2; linear to 50, LayerNorm, tanh.

    Args:
        num_agents: A.
        size: S of the frames.
        frames: F.
    """

    def __init__(self, num_agents: int, size: int, frames: int = STACK) -> None:
        super().__init__()
        if size < SMALLEST:
            raise ValueError(f"frames must be at least {SMALLEST} pixels wide for four convolutions, not {size}")
        channels = [3 * frames, *[FILTERS] * len(STRIDES)]
        self.convolutions = nn.ModuleList(
            PopulationConv2d(num_agents, channels[i], channels[i + 1], 3, stride) for i, stride in enumerate(STRIDES)
        )
        for stride in STRIDES:
            size = (size - 3) // stride + 1
        self.linear = PopulationLinear([num_agents], FILTERS * size * size, WIDTH)
        self.norm = PopulationLayerNorm([num_agents], WIDTH)

    @property
    def width(self) -> int:
        """Width of the features."""
        return WIDTH

    def forward(self, stacks: Tensor, agents: Tensor | None = None) -> Tensor:
        """Features [A, B, 50] in (-1, 1) of stacks, uint8 [A, B, F, S, S, 3]; or of the given agents' (int64 [K])."""
        num, size = stacks.shape[:2]
        x = stacks.permute(1, 0, 2, 5, 3, 4).flatten(1, 3).float() / 255.0  # [B, A * F * 3, S, S]
        for convolution in self.convolutions:
            x = F.relu(convolution(x, agents))
        x = x.reshape(size, num, -1).transpose(0, 1)
        return torch.tanh(self.norm(self.linear(x, agents), agents))
