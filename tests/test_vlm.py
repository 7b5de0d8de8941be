"""The frozen vision-language models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from furl_lightning.tasks import INSTRUCTIONS
from furl_lightning.utils.errors import BadInput
from furl_lightning.vlm import CLIP, Embedded, EmbeddedCLIP, UnusableModel
from furl_lightning.vlm.prompts import Prompt, check_prompt

TEXTS = ["open a drawer", "push and close a window", "reach a goal position"]


def save_clip(folder: Path, **image_settings: Any) -> Path:
    """A tiny random CLIP with all its files, as ``save_pretrained`` writes them."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        vision_config={**tower, "image_size": 48, "patch_size": 16},
        text_config={
            **tower,
            "vocab_size": len(tokens),
            "max_position_embeddings": 24,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        },
        projection_dim=20,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[]).save_pretrained(folder)
    settings: dict[str, Any] = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
    CLIPImageProcessorPil(**(settings | image_settings)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of the folder to spoil."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture(scope="module")
def embedded() -> Embedded:
    return Embedded()


def smooth_frames(num: int, height: int, width: int) -> Tensor:
    """Frames with large patches of colour and some grain, as pictures have; uint8 [num, height, width, 3]."""
    random = np.random.default_rng(0)
    coarse = Tensor(random.uniform(0, 255, (num, 3, 6, 6)))
    fine = nn.functional.interpolate(coarse, (height, width), mode="nearest")
    grain = Tensor(random.normal(0, 8, fine.shape))
    return (fine + grain).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize(("height", "width"), [(192, 192), (120, 200), (200, 90), (40, 64), (48, 48)])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": {"height": 48, "width": 48}, "do_center_crop": False},
        {"resample": 2},
        {"size": {"shortest_edge": 56}},
    ],
)
def test_images_as_the_library_embeds_them(
    tmp_path: Path, settings: dict[str, object], height: int, width: int
) -> None:
    save_clip(tmp_path, **settings)
    frames = smooth_frames(3, height, width)
    pixels = CLIPImageProcessorPil.from_pretrained(tmp_path)(
        [Image.fromarray(frame.numpy()) for frame in frames], return_tensors="pt"
    )["pixel_values"]
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(tmp_path).eval().get_image_features(pixel_values=pixels).pooler_output
    embedding = CLIP(str(tmp_path)).encode_images(frames)
    assert embedding.shape == (3, 20) and embedding.dtype == torch.float32
    assert torch.cosine_similarity(embedding, expected).min() > 1 - 1e-3
    torch.testing.assert_close(embedding.norm(dim=1), expected.norm(dim=1), rtol=1e-2, atol=0)


def test_texts_as_the_library_embeds_them(folder: Path) -> None:
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    short = [text[:15] for text in TEXTS]
    vlm = CLIP(str(folder))
    for text, embedding in zip(short, vlm.encode_texts(short), strict=True):
        with torch.no_grad():
            expected = model.get_text_features(**tokenizer(text, return_tensors="pt")).pooler_output[0]
        torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-5)
    assert vlm.encode_texts([]).shape == (0, vlm.width)


def test_bfloat16_is_close_and_gives_float32(folder: Path) -> None:
    frames = smooth_frames(2, 60, 60)
    exact, coarse = CLIP(str(folder)).encode_images(frames), CLIP(str(folder), "bfloat16").encode_images(frames)
    assert coarse.dtype == torch.float32
    assert torch.cosine_similarity(exact, coarse).min() > 0.99


def test_many_frames_are_embedded_as_few(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, vlm = smooth_frames(7, 50, 50), CLIP(str(folder))
    whole = vlm.encode_images(frames)
    monkeypatch.setattr("furl_lightning.vlm.dual_encoder.FRAMES_PER_PASS", 3)
    torch.testing.assert_close(vlm.encode_images(frames), whole, rtol=1e-4, atol=1e-5)
    assert vlm.encode_images(frames[:0]).shape == (0, vlm.width)


def test_embeddings_take_part_in_autograd(folder: Path) -> None:
    vlm, head = CLIP(str(folder)), nn.Linear(20, 1)
    with torch.inference_mode():
        image, text = vlm.encode_images(smooth_frames(2, 50, 50)), vlm.encode_texts(["push", "pull"])
    for embedding in (image, text):
        assert not embedding.is_inference() and not embedding.requires_grad
        head(embedding).sum().backward()


class Parent(nn.Module):
    def __init__(self, vlm: nn.Module) -> None:
        super().__init__()
        self.vlm, self.head = vlm, nn.Linear(20, 1)


def test_frozen_whatever_the_parent_does(folder: Path) -> None:
    vlm = CLIP(str(folder))
    parent = Parent(vlm).train().requires_grad_(True)
    assert parent.head.training and not vlm.training
    assert not any(module.training for module in vlm.network.modules())
    assert not any(parameter.requires_grad for parameter in vlm.network.parameters())
    assert {id(p) for p in parent.parameters()} == {id(p) for p in parent.head.parameters()}


def test_weights_are_not_the_parents_to_save(folder: Path) -> None:
    parent, other = Parent(CLIP(str(folder))), Parent(CLIP(str(folder)))
    assert set(parent.state_dict()) == {"head.weight", "head.bias"}
    other.load_state_dict(parent.state_dict(), strict=True)
    assert torch.equal(other.head.weight, parent.head.weight)


def test_the_network_moves_with_the_parent(folder: Path) -> None:
    vlm = CLIP(str(folder))
    Parent(vlm).to("meta")
    assert vlm.device.type == "meta"


def test_fingerprint_tells_weights_and_settings_apart(folder: Path, copy: Path) -> None:
    fingerprint = CLIP(str(folder)).fingerprint
    assert len(fingerprint) == 64 and CLIP(str(copy)).fingerprint == fingerprint
    settings = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps(settings | {"image_mean": [0.5, 0.5, 0.5]}))
    assert CLIP(str(copy)).fingerprint != fingerprint
    (copy / "preprocessor_config.json").write_text(json.dumps(settings))
    assert CLIP(str(copy)).fingerprint == fingerprint
    weights = load_file(copy / "model.safetensors")
    weights["visual_projection.weight"][0, 0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert CLIP(str(copy)).fingerprint != fingerprint


def test_embedded_loads_and_is_small(embedded: Embedded) -> None:
    assert embedded.name == "embedded" and len(embedded.fingerprint) == 64
    assert next(embedded.network.parameters()).dtype == torch.float32
    image, text = embedded.encode_images(smooth_frames(2, 192, 192)), embedded.encode_texts(TEXTS)
    assert image.shape == (2, embedded.width) and text.shape == (3, embedded.width)
    assert image.isfinite().all() and text.isfinite().all()
    assert (Embedded.FOLDER / "model.safetensors").stat().st_size <= 12e6
    assert (Embedded.FOLDER / "README.md").is_file()
    assert (embedded.render, embedded.picture_size, embedded.image_size) == ("light", 128, 112)


def test_the_earlier_model_is_still_there() -> None:
    """Under the fingerprint and the name that checkpoints made with it have, drawn as it was."""
    earlier = EmbeddedCLIP()
    assert (earlier.name, earlier.width, earlier.render) == ("embedded", 256, "fast")
    assert earlier.fingerprint.startswith("2ab855782b3f80ec")


def test_embedded_reads_every_instruction_and_any_text(embedded: Embedded) -> None:
    texts = [*INSTRUCTIONS.values(), "Öffne die Schublade!", "拉开抽屉", "open 3 drawers 🤖"]
    embedding = nn.functional.normalize(embedded.encode_texts(texts), dim=-1)
    assert embedding.isfinite().all()
    likeness = embedding @ embedding.T - 2 * torch.eye(len(texts))
    assert likeness.max() < 0.9999  # no two are read as the same


@pytest.mark.parametrize(
    "frames",
    [torch.zeros(1, 8, 8, 3), torch.zeros(8, 8, 3, dtype=torch.uint8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)],
)
def test_refuses_other_frames(folder: Path, frames: Tensor) -> None:
    with pytest.raises(ValueError, match=r"frames must be uint8 \[N, height, width, 3\], not"):
        CLIP(str(folder)).encode_images(frames)


def test_refuses_empty_and_too_long_texts(folder: Path) -> None:
    vlm = CLIP(str(folder))
    with pytest.raises(BadInput, match="a text without a word"):
        vlm.encode_texts(["push", "  "])
    with pytest.raises(BadInput, match=r"is 27 tokens long; .* reads 24"):
        vlm.encode_texts(["a" * 25])


def test_refuses_another_models_tokenizer(copy: Path) -> None:
    letters = [f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokens = ["<|startoftext|>", "<|endoftext|>", *(f"filler{i}" for i in range(60)), *letters]
    CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[]).save_pretrained(copy)
    with pytest.raises(UnusableModel, match=r"is another model's: it gives token 62, but the text tower has 54 tokens"):
        CLIP(str(copy)).encode_texts(["a"])


@pytest.mark.parametrize("prompt", ["", " ", [], ["open it", "\t"]])
def test_refuses_an_empty_prompt(prompt: Prompt) -> None:
    with pytest.raises(BadInput, match=r"^data.prompts of reach has an empty sentence; write what the robot is to do$"):
        check_prompt(prompt, "data.prompts of reach")


@pytest.mark.parametrize("prompt", ["...", ["open it", "..."]])
def test_refuses_a_prompt_without_a_word(prompt: Prompt) -> None:
    with pytest.raises(BadInput, match=r"^a.b has a sentence without a word, '\.\.\.'; write what the robot is to do$"):
        check_prompt(prompt, "a.b")


def test_accepts_prompts_of_any_script() -> None:
    for prompt in ("push", "拉开抽屉", ["Öffne!", "3"]):
        check_prompt(prompt, "a.b")


def refusal(path: str | Path) -> str:
    with pytest.raises(UnusableModel) as error:
        CLIP(str(path))
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_refuses_paths_that_are_no_model(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no folder" in refusal(copy / "nowhere")
    assert "is a file" in refusal(copy / "config.json")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("someone/no-such-model", "someone/no such model"):
        assert f"hf download {name}" in refusal(name)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"])
def test_refuses_a_folder_without_a_file(copy: Path, file: str) -> None:
    (copy / file).unlink()
    assert f"has no {file}" in refusal(copy)


def test_refuses_what_is_no_clip_or_broken(copy: Path) -> None:
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "weights" in refusal(copy) and "cannot be read" in refusal(copy)
    (copy / "model.safetensors").write_bytes(whole)
    weights = load_file(copy / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert "incomplete: they lack visual_projection.weight" in refusal(copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "siglip"}))
    assert "of type 'siglip', not 'clip'" in refusal(copy)
    (copy / "config.json").write_text("{")
    assert "config.json" in refusal(copy)


def test_refuses_another_precision(folder: Path) -> None:
    with pytest.raises(BadInput, match="precision must be float32 or bfloat16, not 'float16'"):
        CLIP(str(folder), "float16")  # type: ignore[arg-type]
