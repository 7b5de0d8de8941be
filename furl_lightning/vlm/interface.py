"""The interface of a vision-language model, and what keeps it frozen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, Self

import torch
from torch import Tensor, nn

from furl_lightning.pictures import FRAME_SIZE, RenderQuality
from furl_lightning.utils.errors import BadInput

Precision = Literal["float32", "bfloat16"]


class UnusableModel(BadInput):
    """A model that does not exist, is incomplete or of another kind."""


class VLM(nn.Module, ABC):
    """A frozen vision-language model.

    The network inside is held, not owned: it is no registered submodule, so a parent's state
    dict, optimizers and ``train()`` never meet it, while ``.to(device)`` still moves it. A
    checkpoint therefore names the model by its fingerprint and does not carry its weights.

    Subclasses define ``width``, ``name``, ``fingerprint``, ``encode_images`` and ``encode_texts``. An
    embedding is a float32 tensor on the model's device, not L2-normalised, that may take part in autograd.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        network.requires_grad_(False).eval()
        self._unregistered = (network,)  # nn.Module does not look into tuples
        super().train(False)

    @property
    def network(self) -> nn.Module:
        """The network inside: without gradients, always in evaluation mode."""
        return self._unregistered[0]

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    @abstractmethod
    def width(self) -> int:
        """Width of every embedding."""

    @property
    def image_size(self) -> int | None:
        """Side of the square picture that the network sees; None where it takes any."""
        return None

    @property
    def picture_size(self) -> int:
        """Side of the square picture that is drawn for it in ``light``: one that its preprocessing need not resize."""
        return FRAME_SIZE

    @property
    def render(self) -> RenderQuality:
        """The picture that is drawn for it where nobody says which."""
        return "fast"

    @property
    @abstractmethod
    def name(self) -> str:
        """The model's name in logs and reports."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 over weights and preprocessing, in hexadecimal; equal where the embeddings are."""

    @abstractmethod
    def encode_images(self, frames: Tensor) -> Tensor:
        """Embed frames, uint8 [N, H, W, 3] in RGB on any device: float32 [N, width].

        Raises:
            ValueError: frames of another type or shape.
        """

    @abstractmethod
    def encode_texts(self, texts: list[str]) -> Tensor:
        """Embed sentences: float32 [M, width].

        Raises:
            BadInput: a sentence without a word, or one longer than the model can read.
        """

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever ``mode`` is."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.network._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self


def check_frames(frames: Tensor) -> None:
    """Check that frames are uint8 [N, H, W, 3].

    Raises:
        ValueError: they are not.
    """
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape[1:3]:
        raise ValueError(
            f"frames must be uint8 [N, height, width, 3], not {str(frames.dtype).removeprefix('torch.')} "
            f"{list(frames.shape)}"
        )
