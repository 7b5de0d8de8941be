"""A CLIP with random weights and a handful of parameters, in a folder like any other's."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer


def make_tiny_clip(folder: Path, seed: int = 0, width: int = 16) -> Path:
    """Write the model, its tokenizer (letters only) and its image settings; returns the folder."""
    letters = ByteLevel.alphabet()
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(sorted(words[:-2]))}
    vocabulary |= {word: len(vocabulary) + i for i, word in enumerate(words[-2:])}
    end = vocabulary["<|endoftext|>"]
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **shared,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": 77,
            "bos_token_id": vocabulary["<|startoftext|>"],
            "eos_token_id": end,
            "pad_token_id": end,
        },
        vision_config={**shared, "image_size": 32, "patch_size": 8},
        projection_dim=width,
    )
    torch.manual_seed(seed)
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
