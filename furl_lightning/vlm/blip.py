"""BLIP's retrieval model (Li et al. 2022, arXiv 2201.12086)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from torch import Tensor
from transformers import BlipForImageTextRetrieval
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from furl_lightning.vlm.transformers_model import TransformersModel


class BLIP(TransformersModel):
    """A BLIP for image-text retrieval, for example ``Salesforce/blip-itm-base-coco``.

    Its embeddings are those of the contrastive head, which the library compares by cosine with
    ``use_itm_head=False``. The matching head, which takes picture and text together, is not used: it
    has no embedding. BLIPs for captioning and question answering lack the contrastive head.
    """

    KINDS: ClassVar[dict[str, tuple[Any, Any]]] = {"blip": (BlipForImageTextRetrieval, BlipImageProcessorPil)}

    @staticmethod
    def _width_of(config: Any) -> int:
        return int(config.image_text_hidden_size)

    def _embed_pixels(self, pixels: Tensor) -> Tensor:
        network = cast(BlipForImageTextRetrieval, self.network)
        return network.vision_proj(network.vision_model(pixel_values=pixels).last_hidden_state[:, 0])

    def _embed_tokens(self, tokens: Mapping[str, Tensor]) -> Tensor:
        network = cast(BlipForImageTextRetrieval, self.network)
        states = network.text_encoder(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        return network.text_proj(states.last_hidden_state[:, 0])
