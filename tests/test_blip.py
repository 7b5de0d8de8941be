"""BLIP's retrieval model: its embeddings are those of the library's own contrastive score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipForImageTextRetrieval
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from furl_lightning.vlm import BLIP, UnusableModel

from .test_vlm import smooth_frames

TEXTS = ["open a drawer", "push and close a window", "reach a goal position"]


def save_blip(folder: Path) -> Path:
    """A tiny random retrieval model with all its files."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(ord("a") + i) for i in range(26)]
    tokens = [*special, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(tokens)})
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={
            **tower,
            "encoder_hidden_size": 32,
            "vocab_size": len(tokens),
            "max_position_embeddings": 24,
            "bos_token_id": 2,
            "sep_token_id": 3,
        },
        vision_config={**tower, "image_size": 48, "patch_size": 16},
        image_text_hidden_size=20,
    )
    torch.manual_seed(0)
    model = BlipForImageTextRetrieval(config)
    for parameter in model.parameters():  # the library's initial weights are so small that all pictures look alike
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 48, "width": 48}).save_pretrained(folder)
    return folder


def test_cosines_are_the_librarys_scores(tmp_path: Path) -> None:
    """The library gives no embeddings, but the cosine of each picture with each text."""
    library = BlipForImageTextRetrieval.from_pretrained(save_blip(tmp_path)).eval()
    frames = smooth_frames(4, 120, 200)
    images = [Image.fromarray(frame.numpy()) for frame in frames]
    pixels = BlipImageProcessorPil.from_pretrained(tmp_path)(images, return_tensors="pt")["pixel_values"]
    words = BertTokenizer.from_pretrained(tmp_path)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        scores = library(
            input_ids=words["input_ids"], attention_mask=words["attention_mask"], pixel_values=pixels,
            use_itm_head=False,
        ).itm_score  # fmt: skip
    vlm = BLIP(str(tmp_path))
    image, text = vlm.encode_images(frames), vlm.encode_texts(TEXTS)
    assert image.shape == (4, 20) and text.shape == (3, 20)
    cosines = torch.cosine_similarity(image[:, None], text[None], dim=-1)
    torch.testing.assert_close(cosines, scores, rtol=0, atol=1e-3)
    assert scores.std() > 0.01  # else anything would be close


def test_a_captioning_model_is_refused(tmp_path: Path) -> None:
    folder = save_blip(tmp_path)
    config = BlipConfig(**json.loads((folder / "config.json").read_text()))
    BlipForConditionalGeneration(config).save_pretrained(folder)
    with pytest.raises(UnusableModel, match=r"the weights of .* are incomplete: they lack "):
        BLIP(str(folder))
