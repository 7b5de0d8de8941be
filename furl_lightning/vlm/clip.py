"""CLIP with a vision transformer (Radford et al. 2021, arXiv 2103.00020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from torch import Tensor
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from furl_lightning.vlm.transformers_model import TransformersModel


class CLIP(TransformersModel):
    """Any CLIP in the transformers library's format, for example ``openai/clip-vit-base-patch32``."""

    KINDS: ClassVar[dict[str, tuple[Any, Any]]] = {"clip": (CLIPModel, CLIPImageProcessorPil)}

    @staticmethod
    def _width_of(config: Any) -> int:
        return int(config.projection_dim)

    def _embed_pixels(self, pixels: Tensor) -> Tensor:
        return cast(CLIPModel, self.network).get_image_features(pixel_values=pixels).pooler_output

    def _embed_tokens(self, tokens: Mapping[str, Tensor]) -> Tensor:
        return cast(CLIPModel, self.network).get_text_features(**tokens).pooler_output
