"""SigLIP (Zhai et al. 2023, arXiv 2303.15343) and SigLIP 2 (Tschannen et al. 2025, arXiv 2502.14786)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Siglip2Model, SiglipModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import (
    Siglip2ImageProcessorPil,
    get_image_size_for_max_num_patches,
)

from furl_lightning.pictures import FRAME_SIZE
from furl_lightning.vlm.preprocess import Preprocess, resize
from furl_lightning.vlm.transformers_model import TransformersModel


class SigLIP(TransformersModel):
    """Any SigLIP or SigLIP 2 in the transformers library's format, for example ``google/siglip2-base-patch16-224``.

    SigLIP 2 with a fixed picture size is of the library's type ``siglip``; its NaFlex variant, which
    keeps a picture's proportions, is of type ``siglip2``.

    Texts are lowercased and padded to the model's full context, as in training. Published SigLIP 2
    checkpoints name a tokenizer that does not lowercase, so it is done here.
    """

    KINDS: ClassVar[dict[str, tuple[Any, Any]]] = {
        "siglip": (SiglipModel, SiglipImageProcessorPil),
        "siglip2": (Siglip2Model, Siglip2ImageProcessorPil),
    }

    @staticmethod
    def _width_of(config: Any) -> int:
        return int(config.vision_config.hidden_size)

    def _make_preprocess(self, settings: dict[str, Any]) -> Preprocess:
        return NaFlexPreprocess(settings) if self.kind == "siglip2" else Preprocess(settings)

    def _refuse_other_size(self, vision: Any) -> None:
        if self.kind == "siglip":
            super()._refuse_other_size(vision)

    def _embed_frames(self, frames: Tensor) -> Tensor:
        if not isinstance(self._preprocess, NaFlexPreprocess):
            return super()._embed_frames(frames)
        # No CUDA graph: the library reads the grid's size back from the device.
        patches, mask, grid = self._preprocess.patches(frames)
        network: Any = self.network
        embedding: Tensor = network.get_image_features(
            pixel_values=patches.to(network.dtype), pixel_attention_mask=mask, spatial_shapes=grid
        ).pooler_output
        return embedding.float()

    def _embed_pixels(self, pixels: Tensor) -> Tensor:
        network: Any = self.network
        embedding: Tensor = network.get_image_features(pixel_values=pixels).pooler_output
        return embedding

    def _embed_tokens(self, tokens: Mapping[str, Tensor]) -> Tensor:
        network: Any = self.network
        embedding: Tensor = network.get_text_features(**tokens).pooler_output
        return embedding

    def _tokenize(self, texts: list[str]) -> Any:
        if getattr(self._tokenizer, "do_lower_case", True):
            texts = [text.lower() for text in texts]
        return self._tokenizer(texts, padding="max_length", max_length=self._context, return_tensors="pt")


class NaFlexPreprocess(Preprocess):
    """NaFlex's image preprocessing: as many whole patches as allowed, in the picture's proportions.

    Args:
        settings: what the model's ``preprocessor_config.json`` says.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__({**settings, "do_resize": False, "do_center_crop": False})
        self._patch, self._most = int(settings["patch_size"]), int(settings["max_num_patches"])

    @property
    def picture_size(self) -> int:
        """Side of the largest square of whole patches."""
        return int(get_image_size_for_max_num_patches(FRAME_SIZE, FRAME_SIZE, self._patch, self._most)[0])

    def patches(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cut uint8 [N, H, W, 3] into patches, padded to the most that the model takes.

        Returns:
            Patches float32 [N, most, patch * patch * 3], which of them are real int32 [N, most],
            and their rows and columns int64 [N, 2].
        """
        height, width = frames.shape[1:3]
        size = get_image_size_for_max_num_patches(height, width, self._patch, self._most)
        resized = resize(frames.permute(0, 3, 1, 2).float(), size, self._mode).permute(0, 2, 3, 1)
        pixels = self(resized)  # [N, 3, rows * patch, columns * patch]
        num, rows, columns = len(frames), size[0] // self._patch, size[1] // self._patch
        cut = pixels.unflatten(-2, (rows, self._patch)).unflatten(-1, (columns, self._patch))
        patches = cut.permute(0, 2, 4, 3, 5, 1).reshape(num, rows * columns, -1)
        mask = torch.ones(num, rows * columns, dtype=torch.int32, device=frames.device)
        unused = self._most - rows * columns
        grid = torch.tensor([[rows, columns]], device=frames.device).expand(num, 2)
        return F.pad(patches, (0, 0, 0, unused)), F.pad(mask, (0, unused)), grid
