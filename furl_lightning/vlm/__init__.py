"""Frozen vision-language models: frames and instructions in, embeddings of one width out."""

from furl_lightning.vlm.clip import CLIP
from furl_lightning.vlm.embedded import Embedded
from furl_lightning.vlm.interface import VLM, UnusableModel

__all__ = ["CLIP", "VLM", "Embedded", "UnusableModel"]
