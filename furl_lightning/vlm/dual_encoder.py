"""What the families share: an image and a text tower that embed into one space, with their preprocessing."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Self, get_args

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from furl_lightning.utils.errors import BadInput
from furl_lightning.vlm.cuda_graph import GraphPerShape
from furl_lightning.vlm.interface import VLM, Precision, UnusableModel, check_frames
from furl_lightning.vlm.preprocess import Preprocess
from furl_lightning.vlm.prompts import has_word

FRAMES_PER_PASS = 256
"""Frames that go through the network at once; bounds the memory, not the call."""


class DualEncoder(VLM):
    """A frozen network of two towers with its own tokenizer and its own image preprocessing.

    Preprocessing runs on tensors, for all frames of a call at once and on the model's device.
    Subclasses load the network and define how it embeds pixels and tokens.

    Args:
        network: both towers.
        name: the path or the name on the Hub that the model was loaded by.
        width: of the embeddings.
        context: tokens that a text may have.
        vocabulary: rows of the text tower's token table.
        preprocess: turns frames into the image tower's pixels.
        tokenizer: one of the transformers library's.
        cuda_graph: on a GPU, replay the image tower as a CUDA graph.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        width: int,
        context: int,
        vocabulary: int,
        preprocess: Preprocess,
        tokenizer: Any,
        cuda_graph: bool,
    ) -> None:
        super().__init__(network)
        self._name, self._width, self._context, self._vocabulary = name, width, context, vocabulary
        self._preprocess, self._tokenizer = preprocess, tokenizer
        self._graph = GraphPerShape(self._embed_pixels) if cuda_graph else None

    @abstractmethod
    def _embed_pixels(self, pixels: Tensor) -> Tensor:
        """Embed what :class:`Preprocess` gave, in the network's precision."""

    @abstractmethod
    def _embed_tokens(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Embed what the tokenizer gave."""

    @property
    def width(self) -> int:
        """Width of every embedding."""
        return self._width

    @property
    def name(self) -> str:
        """The path or the name on the Hub that the model was loaded by."""
        return self._name

    @property
    def picture_size(self) -> int:
        """Side of the square picture that is drawn for it in ``light``: one that its preprocessing need not resize."""
        return self._preprocess.picture_size

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over weights, image settings and tokenizer, computed at the first access."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        digest.update(self._preprocess.description().encode())
        digest.update(_tokenizer_description(self._tokenizer))
        return digest.hexdigest()

    def encode_images(self, frames: Tensor) -> Float32[Tensor, "N width"]:
        """Embed frames, uint8 [N, H, W, 3] in RGB on any device: float32 [N, width].

        Raises:
            ValueError: frames of another type or shape.
        """
        check_frames(frames)
        if not len(frames):
            return torch.empty(0, self.width, device=self.device)
        # Not in inference mode: its tensors could not be saved for a later backward pass.
        with torch.inference_mode(False), torch.no_grad():
            return torch.cat([self._embed_frames(part.to(self.device)) for part in frames.split(FRAMES_PER_PASS)])

    def _embed_frames(self, frames: Tensor) -> Tensor:
        pixels = self._preprocess(frames).to(next(self.network.parameters()).dtype)
        return (self._graph or self._embed_pixels)(pixels).float()

    def encode_texts(self, texts: list[str]) -> Float32[Tensor, "M width"]:
        """Embed sentences: float32 [M, width].

        Raises:
            BadInput: a sentence without a word, or one longer than the model can read.
            UnusableModel: the tokenizer is another model's.
        """
        if not texts:
            return torch.empty(0, self.width, device=self.device)
        for text in texts:
            if not has_word(text):
                raise BadInput(f"a text without a word cannot be embedded: '{text}'; write what the robot is to do")
            tokens: list[int] = self._tokenizer(text, verbose=False)["input_ids"]
            if len(tokens) > self._context:
                raise BadInput(
                    f"the text '{text[:40]}...' is {len(tokens)} tokens long; '{self.name}' reads {self._context}"
                )
            if max(tokens) >= self._vocabulary:
                raise UnusableModel(
                    f"the tokenizer of '{self.name}' is another model's: it gives token {max(tokens)}, but the text "
                    f"tower has {self._vocabulary} tokens"
                )
        with torch.inference_mode(False), torch.no_grad():
            return self._embed_tokens(self._tokenize(texts).to(self.device)).float()

    def _tokenize(self, texts: list[str]) -> Any:
        return self._tokenizer(texts, padding=True, return_tensors="pt")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if self._graph is not None:
            self._graph.forget()
        return super()._apply(fn, recurse)


def dtype_of(precision: Precision) -> torch.dtype:
    """PyTorch's type of a precision.

    Raises:
        BadInput: no precision's name.
    """
    if precision not in get_args(Precision):
        raise BadInput(f"precision must be {' or '.join(get_args(Precision))}, not '{precision}'")
    dtype: torch.dtype = getattr(torch, precision)
    return dtype


def first_line(error: BaseException) -> str:
    """An error's message without what follows its first line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _tokenizer_description(tokenizer: Any) -> bytes:
    """All that decides which tokens a text becomes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a SentencePiece model
        lower: bool = getattr(tokenizer, "do_lower_case", False)
        proto: bytes = tokenizer.sp_model.serialized_model_proto()
        return proto + str(lower).encode()
    settings = json.loads(backend.to_str())
    for changed_by_use in ("padding", "truncation"):
        settings.pop(changed_by_use, None)
    return json.dumps(settings, sort_keys=True).encode()
