"""Image preprocessing on tensors: many frames at once, as the transformers library does it picture by picture."""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from furl_lightning.pictures import FRAME_SIZE
from furl_lightning.vlm.interface import UnusableModel

FILTERS = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers for the two resampling filters that PyTorch has too."""


class Preprocess:
    """Resize, centre crop, rescale, normalise: all frames of a call at once, on their device.

    Args:
        settings: what the model's ``preprocessor_config.json`` says.

    Raises:
        UnusableModel: a size or a filter that is not supported.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._size: dict[str, int] | None = settings["size"] if settings.get("do_resize", True) else None
        self._crop: dict[str, int] | None = settings["crop_size"] if settings.get("do_center_crop") else None
        self._scale = float(settings["rescale_factor"]) if settings.get("do_rescale", True) else 1.0
        normalise = settings.get("do_normalize", True)
        self._mean = [float(x) for x in settings["image_mean"]] if normalise else [0.0] * 3
        self._std = [float(x) for x in settings["image_std"]] if normalise else [1.0] * 3
        if int(settings["resample"]) not in FILTERS:
            raise UnusableModel(f"resampling filter {settings['resample']} is not supported; use 2 or 3 (bicubic)")
        if self._size is not None and set(self._size) not in ({"height", "width"}, {"shortest_edge"}):
            raise UnusableModel(
                f"image size {dict(self._size)} is not supported; use height and width, or shortest_edge"
            )
        self._mode = FILTERS[int(settings["resample"])]

    def description(self) -> str:
        """All settings, as one line of JSON."""
        return json.dumps(vars(self), sort_keys=True)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that a frame of height x width is brought to."""
        if self._crop:
            return self._crop["height"], self._crop["width"]
        return self._resized(height, width)

    @property
    def picture_size(self) -> int:
        """Side of a square picture that is resized no further; the usual frame's where none ever is."""
        return max(self._resized(FRAME_SIZE, FRAME_SIZE))

    def __call__(self, frames: Tensor) -> Tensor:
        """Turn uint8 [N, H, W, 3] into what the network takes, float32 [N, 3, height, width]."""
        pixels = frames.permute(0, 3, 1, 2).float()
        pixels = self._resize(pixels, self._resized(pixels.shape[-2], pixels.shape[-1]))
        if self._crop:
            height, width = self._crop["height"], self._crop["width"]
            top, left = (pixels.shape[-2] - height) // 2, (pixels.shape[-1] - width) // 2
            # A negative padding crops; a picture smaller than the crop gets a black border.
            border = [-left, width + left - pixels.shape[-1], -top, height + top - pixels.shape[-2]]
            pixels = F.pad(pixels, border)
        mean = torch.tensor(self._mean, device=pixels.device)[:, None, None]
        std = torch.tensor(self._std, device=pixels.device)[:, None, None]
        return (pixels * self._scale - mean) / std

    def _resize(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        return resize(pixels, size, self._mode)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self._size is None:
            return height, width
        if "shortest_edge" not in self._size:
            return self._size["height"], self._size["width"]
        short = self._size["shortest_edge"]
        if height <= width:
            return short, int(short * width / height)
        return int(short * height / width), short


class TensorPreprocess(Preprocess):
    """The same, but resized without antialiasing and without rounding, as torchvision resizes tensors.

    Args:
        settings: what the model's ``preprocessor_config.json`` says.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self._antialias = False  # for the description

    def _resize(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(pixels, size, mode=self._mode)


def resize(pixels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Resize [N, 3, H, W] of 0 to 255 with antialiasing, rounded to whole numbers as image libraries do."""
    if size == tuple(pixels.shape[-2:]):
        return pixels
    return F.interpolate(pixels, size, mode=mode, antialias=True).round().clamp(0, 255)
