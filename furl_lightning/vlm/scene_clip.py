"""A CLIP whose image tower says where things are, and its folder on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModelWithProjection

from furl_lightning.vlm.preprocess import Preprocess
from furl_lightning.vlm.scene_encoder import SceneEncoder


class SceneCLIP(nn.Module):
    """Both towers: where things are in a picture, and what a text says.

    Args:
        image: the arguments of :class:`~furl_lightning.vlm.scene_encoder.SceneEncoder`.
        text: those of the transformers library's text tower.
        normalised: to be trained, see there.
    """

    def __init__(self, image: dict[str, Any], text: dict[str, Any], normalised: bool = False) -> None:
        super().__init__()
        self.image = SceneEncoder(**image, normalised=normalised)
        self.text = CLIPTextModelWithProjection(CLIPTextConfig(**text))


def load(folder: Path) -> tuple[SceneCLIP, Preprocess, Any, dict[str, Any]]:
    """Network, preprocessing, tokenizer and settings out of a folder that the training script wrote."""
    settings = json.loads((folder / "config.json").read_text())
    network = SceneCLIP(settings["image"], settings["text"])
    network.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    preprocess = Preprocess(json.loads((folder / "preprocessor_config.json").read_text()))
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return network.eval(), preprocess, tokenizer, settings
