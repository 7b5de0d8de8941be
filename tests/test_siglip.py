"""SigLIP and SigLIP 2: as the library computes them, texts lowercased and padded as in training."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    GemmaTokenizer,
    Siglip2Config,
    Siglip2Model,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipModel,
    SiglipTokenizer,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from furl_lightning.tasks import INSTRUCTIONS
from furl_lightning.utils.errors import BadInput
from furl_lightning.vlm import CLIP, SigLIP, UnusableModel

from .test_vlm import smooth_frames

TEXTS = ["open a drawer", "push and close a window", "reach a goal position"]
LENGTH = 24
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def sentencepiece_tokenizer(folder: Path) -> SiglipTokenizer:
    """A SentencePiece model trained on the catalogue's sentences, as SigLIP's is on the web's."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(list(INSTRUCTIONS.values())), model_writer=model, vocab_size=100, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(model.getvalue())
    return SiglipTokenizer(str(folder / "spiece.model"), model_max_length=LENGTH, model_input_names=["input_ids"])


def gemma_vocabulary() -> dict[str, int]:
    """Letters of both cases apart, so that lowercasing makes a difference."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁"]
    letters = [chr(ord(first) + i) for first in "aA" for i in range(26)]
    return {token: i for i, token in enumerate([*special, *letters])}


def save_siglip(folder: Path, tokenizer: str = "siglip") -> Path:
    """A tiny random model with all its files; ``tokenizer`` is siglip, gemma or siglip2."""
    if tokenizer == "siglip":
        words: Any = sentencepiece_tokenizer(folder)
    else:
        kind = {"gemma": GemmaTokenizer, "siglip2": Siglip2Tokenizer}[tokenizer]
        words = kind(vocab=gemma_vocabulary(), merges=[], padding_side="right", model_input_names=["input_ids"])
    text = {**TOWER, "vocab_size": len(words), "max_position_embeddings": LENGTH, "projection_size": 32}
    torch.manual_seed(0)
    config = SiglipConfig(text_config=text, vision_config={**TOWER, "image_size": 48, "patch_size": 16})
    SiglipModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 48, "width": 48}, resample=2).save_pretrained(folder)
    return folder


def save_naflex(folder: Path) -> Path:
    """A tiny random SigLIP 2 that takes pictures in their own proportions."""
    tokenizer = Siglip2Tokenizer(vocab=gemma_vocabulary(), merges=[], padding_side="right")
    text = {**TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH, "projection_size": 32}
    torch.manual_seed(0)
    config = Siglip2Config(text_config=text, vision_config={**TOWER, "num_patches": 16, "patch_size": 8})
    Siglip2Model(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16).save_pretrained(folder)
    return folder


def pictures(frames: Tensor) -> list[Image.Image]:
    return [Image.fromarray(frame.numpy()) for frame in frames]


@pytest.mark.parametrize(("height", "width"), [(192, 192), (120, 200), (40, 64), (48, 48)])
def test_images_as_the_library_embeds_them(tmp_path: Path, height: int, width: int) -> None:
    save_siglip(tmp_path)
    frames = smooth_frames(3, height, width)
    pixels = SiglipImageProcessorPil.from_pretrained(tmp_path)(pictures(frames), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = SiglipModel.from_pretrained(tmp_path).eval().get_image_features(pixel_values=pixels).pooler_output
    vlm = SigLIP(str(tmp_path))
    embedding = vlm.encode_images(frames)
    assert embedding.shape == (3, vlm.width) and embedding.dtype == torch.float32
    assert torch.cosine_similarity(embedding, expected).min() > 1 - 1e-3
    torch.testing.assert_close(embedding.norm(dim=1), expected.norm(dim=1), rtol=1e-2, atol=0)


@pytest.mark.parametrize(("height", "width"), [(192, 192), (120, 200), (200, 90), (20, 16)])
def test_naflex_images_as_the_library_embeds_them(tmp_path: Path, height: int, width: int) -> None:
    save_naflex(tmp_path)
    frames = smooth_frames(3, height, width)
    inputs = Siglip2ImageProcessorPil.from_pretrained(tmp_path)(pictures(frames), return_tensors="pt")
    with torch.no_grad():
        expected = Siglip2Model.from_pretrained(tmp_path).eval().get_image_features(**inputs).pooler_output
    embedding = SigLIP(str(tmp_path)).encode_images(frames)
    assert torch.cosine_similarity(embedding, expected).min() > 1 - 1e-3
    torch.testing.assert_close(embedding.norm(dim=1), expected.norm(dim=1), rtol=1e-2, atol=0)


@pytest.mark.parametrize("tokenizer", ["siglip", "gemma", "siglip2", "naflex"])
def test_texts_as_in_training(tmp_path: Path, tokenizer: str) -> None:
    """Lowercase, padded to the full context; also where the checkpoint names a tokenizer that keeps capitals."""
    if tokenizer == "naflex":
        library: Any = Siglip2Model.from_pretrained(save_naflex(tmp_path)).eval()
        words: Any = Siglip2Tokenizer.from_pretrained(tmp_path)
    else:
        library = SiglipModel.from_pretrained(save_siglip(tmp_path, tokenizer)).eval()
        kinds: dict[str, Any] = {"siglip": SiglipTokenizer, "gemma": GemmaTokenizer, "siglip2": Siglip2Tokenizer}
        words = kinds[tokenizer].from_pretrained(tmp_path)
    inputs = words(TEXTS, padding="max_length", max_length=LENGTH, return_tensors="pt")
    assert inputs["input_ids"].shape == (3, LENGTH)
    with torch.no_grad():
        expected = library.get_text_features(**inputs).pooler_output
    vlm = SigLIP(str(tmp_path))
    torch.testing.assert_close(vlm.encode_texts(TEXTS), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vlm.encode_texts([text.upper() for text in TEXTS]), expected, rtol=1e-4, atol=1e-5)


def test_a_text_does_not_depend_on_its_companions(tmp_path: Path) -> None:
    """Without padding to the full length it would."""
    vlm = SigLIP(str(save_siglip(tmp_path)))
    together = vlm.encode_texts(["reach", "push and close a window"])
    torch.testing.assert_close(vlm.encode_texts(["reach"])[0], together[0], rtol=1e-5, atol=1e-6)


def test_bfloat16_is_close_and_gives_float32(tmp_path: Path) -> None:
    folder, frames = str(save_siglip(tmp_path)), smooth_frames(2, 60, 60)
    exact, coarse = SigLIP(folder).encode_images(frames), SigLIP(folder, "bfloat16").encode_images(frames)
    assert coarse.dtype == torch.float32
    assert torch.cosine_similarity(coarse, exact).min() > 0.99


def test_fingerprint_tells_tokenizers_apart(tmp_path: Path) -> None:
    """SentencePiece has no description in JSON; its model counts."""
    first = SigLIP(str(save_siglip(tmp_path / "a"))).fingerprint
    assert SigLIP(str(save_siglip(tmp_path / "b"))).fingerprint == first
    config = tmp_path / "b" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"do_lower_case": False}))
    assert SigLIP(str(tmp_path / "b")).fingerprint != first


def test_refusals(tmp_path: Path) -> None:
    folder = save_siglip(tmp_path)
    with pytest.raises(UnusableModel, match=r"of type 'siglip', not 'clip'; load it with SigLIP$"):
        CLIP(str(folder))
    vlm = SigLIP(str(folder))
    with pytest.raises(BadInput, match="a text without a word"):
        vlm.encode_texts(["!?"])
    with pytest.raises(BadInput, match=rf"tokens long; .* reads {LENGTH}"):
        vlm.encode_texts(["reach " * 40])
    settings = folder / "preprocessor_config.json"
    before = settings.read_text()
    settings.write_text(json.dumps(json.loads(before) | {"size": {"height": 64, "width": 64}}))
    with pytest.raises(UnusableModel, match=r"make pictures of 64 x 64, but its image tower takes 48 x 48; set size"):
        SigLIP(str(folder))
    settings.write_text(json.dumps(json.loads(before) | {"size": {"longest_edge": 64}}))
    with pytest.raises(UnusableModel, match=r"image size .* is not supported"):
        SigLIP(str(folder))
    settings.write_text(before)
    (folder / "spiece.model").unlink()
    with pytest.raises(UnusableModel) as error:
        SigLIP(str(folder))
    assert len(str(error.value).splitlines()) == 1


def test_a_bin_file_loads_where_it_holds_tensors_only(tmp_path: Path) -> None:
    """Older checkpoints on the Hub have no safetensors; nothing in a pickle is run."""
    folder = save_siglip(tmp_path)
    fingerprint = SigLIP(str(folder)).fingerprint
    weights = SiglipModel.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert SigLIP(str(folder)).fingerprint == fingerprint
    torch.save({**weights, "logit_scale": Path("/")}, folder / "pytorch_model.bin")
    with pytest.raises(UnusableModel, match="cannot be read") as error:
        SigLIP(str(folder))
    assert len(str(error.value).splitlines()) == 1
