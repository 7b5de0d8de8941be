"""A ResNet CLIP with OpenAI's parameter names: the published shapes, random weights, a tokenizer of letters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENS = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
NARROW = {
    "blocks": [2, 1, 1, 2], "width": 8, "side": 2, "outputs": 20, "vocabulary": len(TOKENS), "context": 24,
    "text_width": 128, "layers": 2,
}  # fmt: skip
RN50 = {
    "blocks": [3, 4, 6, 3], "width": 64, "side": 7, "outputs": 1024, "vocabulary": 49408, "context": 77,
    "text_width": 512, "layers": 12,
}  # fmt: skip


def openai_shapes(
    blocks: list[int], width: int, side: int, outputs: int, vocabulary: int, context: int, text_width: int, layers: int
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all parameters and statistics in OpenAI's checkpoint of a ResNet CLIP."""
    shapes: dict[str, tuple[int, ...]] = {}

    def normalisation(name: str, channels: int) -> None:
        for kind in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{kind}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def linear(name: str, outs: int, ins: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outs, ins), (outs,)

    for number, (ins, outs) in enumerate([(3, width // 2), (width // 2, width // 2), (width // 2, width)], start=1):
        shapes[f"visual.conv{number}.weight"] = (outs, ins, 3, 3)
        normalisation(f"visual.bn{number}", outs)
    ins = width
    for stage in range(4):
        inner = width * 2**stage
        for block in range(blocks[stage]):
            at = f"visual.layer{stage + 1}.{block}"
            for number, (a, b, kernel) in enumerate(
                [(ins, inner, 1), (inner, inner, 3), (inner, inner * 4, 1)], start=1
            ):
                shapes[f"{at}.conv{number}.weight"] = (b, a, kernel, kernel)
                normalisation(f"{at}.bn{number}", b)
            if block == 0:
                shapes[f"{at}.downsample.0.weight"] = (inner * 4, ins, 1, 1)
                normalisation(f"{at}.downsample.1", inner * 4)
            ins = inner * 4
    shapes["visual.attnpool.positional_embedding"] = (side * side + 1, ins)
    for letter in "qkv":
        linear(f"visual.attnpool.{letter}_proj", ins, ins)
    linear("visual.attnpool.c_proj", outputs, ins)
    shapes |= {"positional_embedding": (context, text_width), "token_embedding.weight": (vocabulary, text_width)}
    for layer in range(layers):
        at = f"transformer.resblocks.{layer}"
        linear(f"{at}.attn.in_proj", 3 * text_width, text_width)
        linear(f"{at}.attn.out_proj", text_width, text_width)
        linear(f"{at}.mlp.c_fc", 4 * text_width, text_width)
        linear(f"{at}.mlp.c_proj", text_width, 4 * text_width)
        for name in ("ln_1", "ln_2"):
            shapes |= {f"{at}.{name}.weight": (text_width,), f"{at}.{name}.bias": (text_width,)}
    shapes = {name.replace("in_proj.", "in_proj_"): shape for name, shape in shapes.items()}
    shapes |= {"ln_final.weight": (text_width,), "ln_final.bias": (text_width,)}
    return shapes | {"text_projection": (text_width, outputs), "logit_scale": ()}


def openai_weights(seed: int = 0, **sizes: Any) -> dict[str, Tensor]:
    """Random weights under OpenAI's names, of sizes at which each layer matters."""
    random = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for name, shape in openai_shapes(**(sizes or NARROW)).items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            weights[name] = torch.rand(shape, generator=random) + 0.5
        elif len(shape) > 1 and "embedding" not in name:
            weights[name] = torch.randn(shape, generator=random) * math.sqrt(2 / math.prod(shape[1:]))
        elif name.endswith("weight") and len(shape) == 1:
            weights[name] = 1 + 0.2 * torch.randn(shape, generator=random)
        else:
            weights[name] = 0.5 * torch.randn(shape, generator=random)
    return weights


def save_tokenizer(folder: Path) -> Path:
    """Write a CLIP tokenizer that knows letters only; returns the folder."""
    CLIPTokenizer(vocab={token: i for i, token in enumerate(TOKENS)}, merges=[]).save_pretrained(folder)
    return folder
