"""The image tower of the embedded model: a small convolutional network for a camera that never moves.

Its embedding keeps places: nothing is pooled, every place of the picture has a bias of its own, which begins
as what cancels the average picture there, and a few heatmaps say where things are, whatever place that is
(their spatial softmax's mean, as in Levine et al. 2016, arXiv 1504.00702). All normalisation is folded into the
convolutions once it is trained, so that a frame costs some 15 million multiplications.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
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
        spots: heatmaps.
        hidden: width of the two layers above them.
        normalised: with batch normalisation, to be trained; without, as :meth:`fused` makes it.
    """

    def __init__(
        self,
        size: int = 112,
        width: int = 128,
        channels: tuple[int, int, int] = (24, 48, 96),
        spots: int = 8,
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
        self.near, self.wide = nn.Conv2d(second, spots, 1), nn.Conv2d(third, spots, 1)
        self.flat = nn.Linear(third * (size // 16) ** 2, hidden)
        self.spots = nn.Linear(2 * spots, hidden)
        self.head = nn.Sequential(
            nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, width)
        )
        middle = (torch.arange(size // 8) + 0.5) * 16 / size - 1  # of the heatmaps' cells, -1 to 1
        self.cells = nn.Buffer(torch.cartesian_prod(middle, middle), persistent=False)  # [cells, 2]: row, column

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed normalised pixels [B, 3, size, size]: [B, width]."""
        return self.with_heatmaps(pixels)[0]

    def with_heatmaps(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The embedding [B, width], and the heatmaps' logits [B, spots, (size / 8)^2], row by row."""
        x = self._layer(0, self.patches(pixels) + self.place)
        for number in range(1, 4):
            x = self._layer(number, self.layers[number - 1](x))
        y = self._layer(4, self.layers[3](x))
        y = self._layer(5, self.layers[4](y))
        logits = (self.near(x) + F.interpolate(self.wide(y), scale_factor=2.0)).flatten(2)
        spots = logits.softmax(-1) @ self.cells.to(logits.dtype)  # [B, spots, 2]
        embedding: Tensor = self.head(self.flat(y.flatten(1)) + self.spots(spots.flatten(1)))
        return embedding, logits

    def _layer(self, number: int, x: Tensor) -> Tensor:
        if self.norms:
            x = self.norms[number](x)
        return x.relu()

    @torch.no_grad()
    def cancel(self, mean: Tensor) -> None:
        """Have every place show how a picture differs from the mean picture, normalised pixels [3, size, size]."""
        self.place.copy_(-self.patches(mean[None])[0])

    @torch.no_grad()
    def fused(self) -> SceneEncoder:
        """A copy with the batch normalisation of evaluation mode folded into the convolutions."""
        assert self.norms, "has no normalisation"
        convolutions = [self.patches, *cast(list[nn.Conv2d], list(self.layers))]
        channels = (self.patches.out_channels, convolutions[1].out_channels, convolutions[4].out_channels)
        size, width = PATCH * self.place.shape[-1], cast(nn.Linear, self.head[-1]).out_features
        plain = SceneEncoder(size, width, channels, self.near.out_channels, self.flat.out_features)
        plain.load_state_dict(self.state_dict(), strict=False)  # all but the norms
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
