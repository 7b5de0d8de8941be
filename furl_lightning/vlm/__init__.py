"""Frozen vision-language models: frames and instructions in, embeddings of one width out."""

from furl_lightning.vlm.blip import BLIP
from furl_lightning.vlm.clip import CLIP
from furl_lightning.vlm.clip_resnet import LIV, CLIPResNet
from furl_lightning.vlm.embedded import Embedded, EmbeddedCLIP
from furl_lightning.vlm.interface import VLM, UnusableModel
from furl_lightning.vlm.siglip import SigLIP

__all__ = ["BLIP", "CLIP", "LIV", "VLM", "CLIPResNet", "Embedded", "EmbeddedCLIP", "SigLIP", "UnusableModel"]
