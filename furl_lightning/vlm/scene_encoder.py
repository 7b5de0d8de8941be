"""The image tower of the embedded model: a small convolutional network for a camera that never moves.

Its embedding keeps places: nothing is pooled, and every place of the picture has a bias of its own, which
begins as what cancels the average picture there. All normalisation is folded into the convolutions once it
is trained, so that a frame costs some 20 million multiplications.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_weights

PATCH = 4
"""Height and width in pixels of what the first convolution sees at once, without overlap."""


class SceneEncoder(nn.Module):
    """Embeds pictures [B, 3, size, size] as [B, width].

    Args:
        size: height and width of a picture, a multiple of 16.
        width: of the embedding.
        channels: of the convolutions at a quarter, an eighth and a sixteenth of the picture's size.
        hidden: width of the two layers above them.
        normalised: with batch normalisation, to be trained; without, as :meth:`fused` makes it.
    """

    def __init__(
        self,
        size: int = 112,
        width: int = 128,
        channels: tuple[int, int, int] = (24, 48, 96),
        hidden: int = 256,
        normalised: bool = False,
    ) -> None:
        super().__init__()
        first, second, third = channels
        self.patches = nn.Conv2d(3, first, PATCH, PATCH)
        self.place = nn.Parameter(torch.zeros(first, size // PATCH, size // PATCH))
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(first, second, 3, 2, 1),
                nn.Conv2d(second, second, 3, 1, 1),
                nn.Conv2d(second, second, 3, 1, 1),
                nn.Conv2d(second, third, 3, 2, 1),
                nn.Conv2d(third, third, 3, 1, 1),
            ]
        )
        outputs = (first, second, second, second, third, third)
        self.norms = nn.ModuleList([nn.BatchNorm2d(number) for number in outputs] if normalised else [])
        self.head = nn.Sequential(
            nn.Linear(third * (size // 16) ** 2, hidden),
            nn.LayerNorm(hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, width),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed normalised pixels [B, 3, size, size]: [B, width]."""
        x = self.patches(pixels) + self.place
        for number in range(len(self.layers) + 1):
            if number:
                x = self.layers[number - 1](x)
            if self.norms:
                x = self.norms[number](x)
            x = x.relu()
        embedding: Tensor = self.head(x.flatten(1))
        return embedding

    @torch.no_grad()
    def cancel(self, mean: Tensor) -> None:
        """Have every place show how a picture differs from the mean picture, normalised pixels [3, size, size]."""
        self.place.copy_(-self.patches(mean[None])[0])

    @torch.no_grad()
    def fused(self) -> SceneEncoder:
        """A copy with the batch normalisation of evaluation mode folded into the convolutions."""
        assert self.norms, "has no normalisation"
        first, second, third = (cast(nn.Conv2d, self.layers[n]).in_channels for n in (0, 1, 4))
        hidden, last = cast(nn.Linear, self.head[0]), cast(nn.Linear, self.head[-1])
        size = PATCH * self.place.shape[-1]
        plain = SceneEncoder(size, last.out_features, (first, second, third), hidden.out_features)
        plain.head.load_state_dict(self.head.state_dict())
        convolutions = [self.patches, *cast(list[nn.Conv2d], list(self.layers))]
        for conv, norm, to in zip(convolutions, self.norms, [plain.patches, *plain.layers], strict=True):
            assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
            weight, bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            to.load_state_dict({"weight": weight, "bias": bias})
            if conv is self.patches:
                scale = norm.weight / (norm.running_var + norm.eps).sqrt()
                plain.place.copy_(self.place * scale[:, None, None])
        return plain.eval()
