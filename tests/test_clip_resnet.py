"""LIV and OpenAI's ResNet CLIP: names, shapes, and every layer against a straightforward computation."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from furl_lightning.utils.errors import BadInput
from furl_lightning.vlm import LIV, CLIPResNet, UnusableModel
from furl_lightning.vlm.clip_resnet import MEAN, STD, build_network

from .openai_clip import NARROW, RN50, TOKENS, openai_shapes, openai_weights, save_tokenizer
from .test_vlm import smooth_frames

TEXTS = ["open a drawer", "push and close a window", "reach a goal position"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "narrow.pt"
    torch.save(openai_weights(), path)
    return str(path)


# -- an independent computation: NumPy, float64, one loop for each thing that the paper's text names


class Plain:
    """OpenAI's ResNet CLIP from its state dict, layer by layer."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.w = {name: tensor.double().numpy() for name, tensor in weights.items()}

    def conv(self, x: NDArray[Any], name: str, stride: int = 1) -> NDArray[Any]:
        """Cross-correlation of [N, C, H, W], padded so that a stride of 1 keeps the size."""
        kernel = self.w[name]
        pad = kernel.shape[-1] // 2
        padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        rows = range(0, x.shape[2], stride)
        columns = range(0, x.shape[3], stride)
        out = np.zeros((x.shape[0], kernel.shape[0], len(rows), len(columns)))
        for i, top in enumerate(rows):
            for j, left in enumerate(columns):
                patch = padded[:, :, top : top + kernel.shape[2], left : left + kernel.shape[3]]
                out[:, :, i, j] = np.einsum("nchw,ochw->no", patch, kernel)
        return out

    def normalise(self, x: NDArray[Any], name: str) -> NDArray[Any]:
        mean, var, weight, bias = (
            self.w[f"{name}.{kind}"][:, None, None] for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * weight + bias

    @staticmethod
    def halve(x: NDArray[Any]) -> NDArray[Any]:
        return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4

    def bottleneck(self, x: NDArray[Any], name: str, halve: bool) -> NDArray[Any]:
        y = np.maximum(self.normalise(self.conv(x, f"{name}.conv1.weight"), f"{name}.bn1"), 0)
        y = np.maximum(self.normalise(self.conv(y, f"{name}.conv2.weight"), f"{name}.bn2"), 0)
        if halve:
            y = self.halve(y)
        y = self.normalise(self.conv(y, f"{name}.conv3.weight"), f"{name}.bn3")
        if f"{name}.downsample.0.weight" in self.w:
            x = self.halve(x) if halve else x
            x = self.normalise(self.conv(x, f"{name}.downsample.0.weight"), f"{name}.downsample.1")
        return np.maximum(y + x, 0)

    def linear(self, x: NDArray[Any], name: str) -> NDArray[Any]:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def image(self, pixels: Tensor, blocks: list[int]) -> NDArray[Any]:
        x = pixels.double().numpy()
        for number, stride in ((1, 2), (2, 1), (3, 1)):
            x = np.maximum(self.normalise(self.conv(x, f"visual.conv{number}.weight", stride), f"visual.bn{number}"), 0)
        x = self.halve(x)
        for stage, depth in enumerate(blocks, start=1):
            for block in range(depth):
                x = self.bottleneck(x, f"visual.layer{stage}.{block}", halve=stage > 1 and block == 0)
        out = []
        for picture in x:  # [C, S, S]
            places = picture.reshape(picture.shape[0], -1).T
            tokens = (
                np.concatenate([places.mean(0, keepdims=True), places]) + self.w["visual.attnpool.positional_embedding"]
            )
            q, k, v = (self.linear(tokens, f"visual.attnpool.{letter}_proj") for letter in "qkv")
            heads = []
            for at in range(0, tokens.shape[1], 64):  # heads are 64 wide
                score = k[:, at : at + 64] @ q[0, at : at + 64] / np.sqrt(64)
                weight = np.exp(score - score.max())
                heads.append(weight / weight.sum() @ v[:, at : at + 64])
            out.append(self.linear(np.concatenate(heads), "visual.attnpool.c_proj"))
        return np.stack(out)

    def layer_norm(self, x: NDArray[Any], name: str) -> NDArray[Any]:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def text(self, ids: list[int], layers: int) -> NDArray[Any]:
        """OpenAI's rule: padded with 0 to the context, the embedding at the greatest token number."""
        padded = ids + [0] * (len(self.w["positional_embedding"]) - len(ids))
        x = self.w["token_embedding.weight"][padded] + self.w["positional_embedding"]
        for layer in range(layers):
            at = f"transformer.resblocks.{layer}"
            y = self.layer_norm(x, f"{at}.ln_1")
            q, k, v = np.split(y @ self.w[f"{at}.attn.in_proj_weight"].T + self.w[f"{at}.attn.in_proj_bias"], 3, axis=1)
            heads = np.zeros_like(y)
            for head in range(0, y.shape[1], 64):
                for i in range(len(y)):  # a token sees itself and what stands before it
                    score = k[: i + 1, head : head + 64] @ q[i, head : head + 64] / np.sqrt(64)
                    weight = np.exp(score - score.max())
                    heads[i, head : head + 64] = weight / weight.sum() @ v[: i + 1, head : head + 64]
            x = x + self.linear(heads, f"{at}.attn.out_proj")
            y = self.linear(self.layer_norm(x, f"{at}.ln_2"), f"{at}.mlp.c_fc")
            x = x + self.linear(y / (1 + np.exp(-1.702 * y)), f"{at}.mlp.c_proj")  # QuickGELU
        return self.layer_norm(x, "ln_final")[int(np.argmax(padded))] @ self.w["text_projection"]


def test_the_image_tower_is_the_plain_computation() -> None:
    weights = openai_weights()
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = build_network(weights, "narrow").eval().visual(pixels)
    expected = torch.from_numpy(Plain(weights).image(pixels, NARROW["blocks"]))  # type: ignore[arg-type]
    torch.testing.assert_close(ours.double(), expected, rtol=1e-3, atol=1e-4)


def test_the_text_tower_is_the_plain_computation(file: str, tokenizer: str) -> None:
    """Also that the library's padding, with the end token, and OpenAI's, with 0, give the same."""
    plain, words = Plain(openai_weights()), CLIPTokenizer.from_pretrained(tokenizer)
    embedding = CLIPResNet(file, tokenizer).encode_texts([text[:18] for text in TEXTS])
    for text, ours in zip(TEXTS, embedding, strict=True):
        expected = torch.from_numpy(plain.text(words(text[:18])["input_ids"], 2))
        torch.testing.assert_close(ours.double(), expected, rtol=1e-3, atol=1e-4)


def test_frames_as_the_librarys_processor_prepares_them(file: str, tokenizer: str) -> None:
    frames = smooth_frames(3, 120, 200)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    pixels = processor([Image.fromarray(frame.numpy()) for frame in frames], return_tensors="pt")["pixel_values"]
    vlm = CLIPResNet(file, tokenizer)
    network: Any = vlm.network
    with torch.no_grad():
        expected = network.visual(pixels)
    assert torch.cosine_similarity(vlm.encode_images(frames), expected).min() > 1 - 1e-3


def test_full_size_has_openais_names_and_shapes() -> None:
    """The published RN50: 102,007,137 parameters."""
    shapes = openai_shapes(**RN50)  # type: ignore[arg-type]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert sum(math.prod(s) for name, s in shapes.items() if not name.endswith(statistics)) == 102_007_137
    weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
    network = build_network(weights, "RN50")
    assert sum(p.numel() for p in network.parameters()) == 102_007_137
    ours = {f"visual.{name}": tuple(t.shape) for name, t in network.visual.state_dict().items()}
    assert ours == {name: shape for name, shape in shapes.items() if name.startswith("visual.")}
    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8,
        max_position_embeddings=77, projection_dim=1024,
    )  # fmt: skip
    with torch.device("meta"):
        library = CLIPTextModelWithProjection(config)
    assert {n: p.shape for n, p in network.text.named_parameters()} == {
        n: p.shape for n, p in library.named_parameters()
    }
    assert network.size == 224


def test_liv_is_the_same_network_in_its_wrapping(tmp_path: Path, file: str, tokenizer: str) -> None:
    """From the file, and from the folder with it; half precision is taken as it is stored."""
    wrapped = {f"module.model.{name}": tensor for name, tensor in openai_weights().items()}
    torch.save({"liv": wrapped, "global_step": 3}, tmp_path / "model.pt")
    frames, plain = smooth_frames(2, 90, 90), CLIPResNet(file, tokenizer)
    for path in (tmp_path / "model.pt", tmp_path):
        liv = LIV(str(path), tokenizer)
        assert torch.equal(liv.encode_images(frames), plain.encode_images(frames))
        assert torch.equal(liv.encode_texts(["push"]), plain.encode_texts(["push"]))
        assert liv.fingerprint == plain.fingerprint and liv.width == 20
    half = {name: t.half() if t.is_floating_point() else t for name, t in wrapped.items()}
    torch.save({"liv": half}, tmp_path / "model.pt")
    assert (
        torch.cosine_similarity(LIV(str(tmp_path), tokenizer).encode_images(frames), plain.encode_images(frames)).min()
        > 0.999
    )


def test_a_snapshot_of_livs_fine_tuning(tmp_path: Path, file: str, tokenizer: str) -> None:
    """As LIV's own training saves it: without the outer wrapper, in half precision, with its optimizer's state."""
    weights = {name: t.half() if t.is_floating_point() else t for name, t in openai_weights().items()}
    parameter = torch.nn.Parameter(torch.ones(3))
    adam = torch.optim.Adam([parameter])
    parameter.sum().backward()
    adam.step()
    inner = {f"model.{name}": tensor for name, tensor in weights.items()}
    torch.save({"liv": inner, "optimizer": adam.state_dict(), "global_step": 7}, tmp_path / "snapshot.pt")
    torch.save({"liv": {f"module.{n}": t for n, t in inner.items()}}, tmp_path / "model.pt")
    liv, released = LIV(str(tmp_path / "snapshot.pt"), tokenizer), LIV(str(tmp_path), tokenizer)
    assert liv.fingerprint == released.fingerprint
    torch.save({"liv": weights}, tmp_path / "model.pt")
    assert "begin neither with module.model. nor with model., so it is no LIV" in refusal(tmp_path, tokenizer, LIV)


def linear_interpolation(new: int, old: int) -> Tensor:
    """The matrix [new, old] that resizes by the two nearest pixels, whose centres are at halves."""
    places = ((torch.arange(new, dtype=torch.float64) + 0.5) * old / new - 0.5).clamp(0, old - 1)
    return (1 - (places[:, None] - torch.arange(old)).abs()).clamp(min=0)


@pytest.mark.parametrize("side", [40, 64, 150])
def test_liv_as_its_code_resizes_tensors(side: int, tmp_path: Path, tokenizer: str) -> None:
    """Larger, as it is, and smaller: bilinear between the two nearest pixels, not rounded; another model by name."""
    torch.save({"liv": {f"module.model.{name}": t for name, t in openai_weights().items()}}, tmp_path / "model.pt")
    frames = torch.randint(0, 256, (3, side, side, 3), dtype=torch.uint8)
    liv, other = LIV(str(tmp_path), tokenizer, resize="bilinear"), LIV(str(tmp_path), tokenizer)
    matrix = linear_interpolation(64, side)
    resized = (matrix @ frames.permute(0, 3, 1, 2).double() @ matrix.T) / 255
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (MEAN, STD))
    network: Any = liv.network
    with torch.no_grad():
        expected = network.visual(((resized - mean) / std).float())
    torch.testing.assert_close(liv.encode_images(frames), expected, rtol=1e-3, atol=1e-3)
    assert liv.fingerprint != other.fingerprint
    assert torch.allclose(other.encode_images(frames), expected, rtol=1e-3, atol=1e-3) == (side == 64)
    with pytest.raises(BadInput, match="resize must be bicubic or bilinear, not 'nearest'"):
        LIV(str(tmp_path), tokenizer, resize="nearest")  # type: ignore[arg-type]


def test_safetensors_with_openais_names_and_extra_numbers(tmp_path: Path, file: str, tokenizer: str) -> None:
    extra = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    save_file(openai_weights() | extra, tmp_path / "open_clip_model.safetensors")
    assert CLIPResNet(str(tmp_path), tokenizer).fingerprint == CLIPResNet(file, tokenizer).fingerprint


def test_bfloat16_is_close_and_gives_float32(file: str, tokenizer: str) -> None:
    frames = smooth_frames(2, 90, 90)
    exact = CLIPResNet(file, tokenizer).encode_images(frames)
    coarse = CLIPResNet(file, tokenizer, "bfloat16").encode_images(frames)
    assert coarse.dtype == torch.float32
    assert torch.cosine_similarity(coarse, exact).min() > 0.99


def refusal(path: Path | str, tokenizer: str, kind: type[CLIPResNet] = CLIPResNet) -> str:
    with pytest.raises(UnusableModel) as error:
        kind(str(path), tokenizer)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_refuses_other_files(tmp_path: Path, tokenizer: str) -> None:
    path, weights = tmp_path / "weights.pt", openai_weights()
    assert "there is no file" in refusal(tmp_path / "nowhere.pt", tokenizer)
    assert "has no open_clip_model.safetensors" in refusal(tmp_path, tokenizer)
    path.write_bytes(b"nothing")
    assert "weights.pt" in refusal(path, tokenizer)
    torch.save(weights, path)
    path.write_bytes(path.read_bytes()[:30_000])
    assert "cannot be read" in refusal(path, tokenizer)
    torch.save(weights, path)
    assert "has no entry 'liv'" in refusal(path, tokenizer, LIV)
    torch.save({**weights, "visual.conv1.weight": 3}, path)
    assert "entry 'visual.conv1.weight' of" in refusal(path, tokenizer)
    torch.save([1, 2], path)
    assert "holds a list" in refusal(path, tokenizer)
    torch.save({name: t for name, t in weights.items() if "layer3.0.bn2.bias" not in name}, path)
    assert "incomplete: they lack visual.layer3.0.bn2.bias" in refusal(path, tokenizer)
    torch.save({name: t for name, t in weights.items() if not name.startswith("transformer")}, path)
    assert "lacks 'transformer.resblocks.0.*'" in refusal(path, tokenizer)
    torch.save({name: t for name, t in weights.items() if ".layer4.0." not in name}, path)
    assert "lacks 'visual.layer4.0.*'" in refusal(path, tokenizer)
    torch.save({**weights, "visual.proj": torch.zeros(3)}, path)
    assert "no CLIP with a ResNet has: visual.proj" in refusal(path, tokenizer)
    torch.save({**weights, "ln_final.weight": torch.zeros(3)}, path)
    assert "is [3], but by the other tensors it must be [128]" in refusal(path, tokenizer)
    torch.save({"visual.conv1.weight": torch.zeros(768, 3, 32, 32)}, path)
    assert "with a vision transformer with CLIP" in refusal(path, tokenizer)
    torch.save({}, path)
    assert "lacks 'visual.layer1.0.*'" in refusal(path, tokenizer)


class Harmful:
    """What a pickle can do when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_a_pickle_is_not_run(tmp_path: Path, tokenizer: str) -> None:
    path, trace = tmp_path / "model.pt", tmp_path / "trace"
    torch.save({"liv": Harmful(trace)}, path)
    assert "more than tensors" in refusal(path, tokenizer, LIV)
    path.write_bytes(pickle.dumps({"liv": Harmful(trace)}))
    refusal(path, tokenizer, LIV)
    assert not trace.exists()


def test_a_torchscript_archive_is_refused_with_the_way_out(tmp_path: Path, tokenizer: str) -> None:
    """OpenAI's own downloads are such archives, in half precision; the command that the message gives is run."""
    path = tmp_path / "RN50.pt"
    network = torch.nn.Module()
    for name, tensor in openai_weights().items():
        owner, parts = network, name.split(".")
        for part in parts[:-1]:
            if not hasattr(owner, part):
                owner.add_module(part, torch.nn.Module())
            owner = getattr(owner, part)
        owner.register_buffer(parts[-1], tensor.half() if tensor.is_floating_point() else tensor)
    torch.jit.save(torch.jit.script(network), path)
    message = refusal(path, tokenizer)
    assert "TorchScript archive" in message
    code = message.split('python -c "')[1].rstrip('"')
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert CLIPResNet(str(tmp_path / "weights.pt"), tokenizer).width == 20


def test_refuses_other_tokenizers(tmp_path: Path, file: str, tokenizer: str) -> None:
    assert "there is no tokenizer folder" in refusal(file, str(tmp_path / "nowhere"))
    assert "is a file" in refusal(file, file)
    assert "has no tokenizer.json or vocab.json" in refusal(file, str(tmp_path))
    CLIPTokenizer(vocab={token: i for i, token in enumerate(TOKENS[1:])}, merges=[]).save_pretrained(tmp_path)
    assert f"has {len(TOKENS) - 1} tokens, the text tower of" in refusal(file, str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    assert "cannot be read" in refusal(file, str(tmp_path))
