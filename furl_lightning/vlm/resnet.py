"""The image tower of CLIP's ResNets (Radford et al. 2021, arXiv 2103.00020, section 2.4).

A ResNet with three changes: the stem has three 3 x 3 convolutions, every stride is an average
pooling before a convolution that has none ("anti-aliasing"), and the last pooling is an attention
whose query is the mean of all places. Parameters have the names of OpenAI's checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions around a shortcut: [N, inputs, H, W] to [N, 4 * width, H / stride, ...]."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(self.pool(y)))
        return F.relu(y + self.downsample(self.pool(x)))


class AttentionPool(nn.Module):
    """Multi-head attention from the mean of all places to the mean and the places: [N, C, S, S] to [N, outputs]."""

    def __init__(self, side: int, channels: int, heads: int, outputs: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.zeros(side * side + 1, channels))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(channels, channels) for _ in range(3))
        self.c_proj = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """The pooled embedding."""
        places = x.flatten(2).transpose(1, 2)  # [N, S * S, C]
        tokens = torch.cat([places.mean(1, keepdim=True), places], 1) + self.positional_embedding
        q, k, v = (
            projection(part).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [N, heads, tokens, C / heads]
            for projection, part in ((self.q_proj, tokens[:, :1]), (self.k_proj, tokens), (self.v_proj, tokens))
        )
        return self.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1))


class ModifiedResNet(nn.Module):
    """The tower: pixels [N, 3, size, size] to embeddings [N, outputs].

    Args:
        blocks: bottlenecks in each of the four stages; the three later ones halve the size.
        width: channels after the stem; the last stage has 32 times as many.
        size: of the pictures, a multiple of 32.
        outputs: width of the embeddings.
    """

    def __init__(self, blocks: Sequence[int], width: int, size: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width // 2)
        self.conv2, self.bn2 = (
            nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False), nn.BatchNorm2d(width // 2),
        )  # fmt: skip
        self.conv3, self.bn3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks[0], stride=1)
        self.layer2 = _stage(4 * width, 2 * width, blocks[1], stride=2)
        self.layer3 = _stage(8 * width, 4 * width, blocks[2], stride=2)
        self.layer4 = _stage(16 * width, 8 * width, blocks[3], stride=2)
        self.attnpool = AttentionPool(size // 32, 32 * width, heads=max(1, width // 2), outputs=outputs)

    def forward(self, pixels: Tensor) -> Tensor:
        """The embeddings."""
        x = F.relu(self.bn1(self.conv1(pixels)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.avg_pool2d(F.relu(self.bn3(self.conv3(x))), 2)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.attnpool(x)


def _stage(inputs: int, width: int, depth: int, stride: int) -> nn.Sequential:
    later = [Bottleneck(4 * width, width, stride=1) for _ in range(depth - 1)]
    return nn.Sequential(Bottleneck(inputs, width, stride), *later)
