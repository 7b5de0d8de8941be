"""Forward passes as CUDA graphs; what needs a GPU is skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from furl_lightning.vlm import CLIP, CLIPResNet
from furl_lightning.vlm.cuda_graph import GraphPerShape

from .openai_clip import openai_weights, save_tokenizer
from .test_vlm import smooth_frames

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_on_the_cpu_the_function_is_just_called() -> None:
    calls: list[Tensor] = []
    graph = GraphPerShape(lambda x: calls.append(x) or x + 1)  # type: ignore[func-returns-value]
    for _ in range(3):
        assert torch.equal(graph(torch.zeros(2)), torch.ones(2))
    assert len(calls) == 3 and not graph._graphs


def test_switching_it_off_changes_nothing_else(tiny_clip: Path) -> None:
    on, off = CLIP(str(tiny_clip)), CLIP(str(tiny_clip), cuda_graph=False)
    frames = smooth_frames(3, 50, 50)
    assert torch.equal(on.encode_images(frames), off.encode_images(frames))
    assert on.fingerprint == off.fingerprint


@needs_gpu
def test_a_shape_that_comes_back_is_captured() -> None:
    layer = nn.Linear(4, 3).cuda().requires_grad_(False)
    graph = GraphPerShape(layer)
    for size in (2, 5, 2, 2, 5, 5, 2):
        values = torch.randn(size, 4, device="cuda")
        result = graph(values)
        kept = result.clone()
        torch.testing.assert_close(result, layer(values))
        graph(torch.randn(size, 4, device="cuda"))
        assert torch.equal(result, kept)  # not overwritten by the next call
    assert len(graph._graphs) == 2


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_models_on_a_gpu(tiny_clip: Path, tmp_path: Path, precision: str) -> None:
    """The same embeddings with the graph as without, also after the network has moved away and back."""
    frames, file, tokenizer = smooth_frames(3, 50, 50), str(tmp_path / "weights.pt"), str(save_tokenizer(tmp_path))
    torch.save(openai_weights(), file)
    for make in (
        lambda graph: CLIP(str(tiny_clip), precision, graph),  # type: ignore[arg-type]
        lambda graph: CLIPResNet(file, tokenizer, precision, graph),  # type: ignore[arg-type]
    ):
        on, off = make(True).cuda(), make(False).cuda()
        for _ in range(4):
            torch.testing.assert_close(on.encode_images(frames), off.encode_images(frames), rtol=1e-3, atol=1e-3)
        on.cpu().cuda()
        torch.testing.assert_close(on.encode_images(frames), off.encode_images(frames), rtol=1e-3, atol=1e-3)
