"""furl-fit with a vision-language model of the user's choice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from furl_lightning.commands.fit import fit
from furl_lightning.training.identity import FRAMES

from .conftest import SMALL, Run
from .openai_clip import openai_weights, save_tokenizer
from .test_siglip import save_siglip
from .tiny_clip import make_tiny_clip

ROOT = Path(__file__).resolve().parents[1]
FEW = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("furl-fit:")]
    assert len(lines) == 1
    return lines[0]


def test_quick_trains_with_a_clip_and_refuses_other_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """conf/quick.yaml with a small random CLIP, shortened; the folder's weights are then exchanged."""
    clip = make_tiny_clip(tmp_path / "clip")
    argv = ["--config", str(ROOT / "conf/quick.yaml"), "--model.vlm", "CLIP", "--model.vlm.path", str(clip), *FEW]
    argv += ["--runs", str(tmp_path / "runs"), "--name", "quick"]
    argv += ["--data.collection.num_workers", "0", "--data.collection.overlap", "false"]
    argv += ["--data.seeds", "[0]", "--data.collection.start_steps", "20", "--data.env.episode_steps", "50"]
    assert fit([*argv, "--data.env_steps", "30"]) == 0
    folder = tmp_path / "runs" / "quick"
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert str(clip) in saved["identity"]["model.vlm"] and "fingerprint" in saved["identity"]["model.vlm"]
    assert not any("vlm." in name for name in saved["state_dict"])
    resume = ["--runs", str(tmp_path / "runs"), "--name", "quick", "--ckpt_path", "last", "--data.env_steps", "40"]
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    make_tiny_clip(clip, seed=1)
    capsys.readouterr()
    assert fit([*resume, *FEW]) == 2
    assert "the checkpoint is of another run: model.vlm is" in (line := last_line(capsys)) and "fingerprint" in line
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    make_tiny_clip(clip, seed=0)
    assert fit([*resume, *FEW]) == 0


def test_siglip_and_liv_train(run: Run, tmp_path: Path) -> None:
    """Other families through the same command, in the other precision, in light at the size that each sees."""
    light = {"data__env__render": "light", "data__env_steps": 60}
    siglip = save_siglip(tmp_path / "siglip")
    rounded = {"model__vlm__precision": "bfloat16", "allow_slow_bfloat16": "true"}
    saved = run("sig", model__vlm="SigLIP", model__vlm__path=siglip, **rounded, **light)
    assert "48 x 48 pixels" in saved["identity"][FRAMES]
    tokenizer = save_tokenizer(tmp_path / "words")
    torch.save({"liv": {f"module.model.{name}": t for name, t in openai_weights().items()}}, tmp_path / "model.pt")
    settings = {"model__vlm": "LIV", "model__vlm__path": tmp_path / "model.pt", "model__vlm__tokenizer": tokenizer}
    saved = run("robots", **settings, **light)
    assert "64 x 64 pixels" in saved["identity"][FRAMES]
    assert "of width 20" in saved["identity"]["model.vlm"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.vlm", "SigLIP"], "model.vlm SigLIP needs --model.vlm.path: a local path, or a name on the"),
        (
            ["--model.vlm", "SigLIP", "--model.vlm.path", "{clip}"],
            "type 'clip', not 'siglip' or 'siglip2'; load it",
        ),
        (["--model.vlm", "TransformersModel"], "unknown VLM 'TransformersModel'; the nearest is '"),
        (["--model.vlm.path", "{clip}"], "unknown option 'model.vlm.path'; Embedded takes precision, cuda_graph"),
        (["--model.vlm", "CLIP", "--model.vlm.pth", "x"], "unknown option 'model.vlm.pth'; CLIP takes path, precision"),
        (["--model.vlm.precision", "bf16"], "model.vlm.precision must be float32 or bfloat16, not 'bf16'; the nearest"),
        (["--model.vlm.cuda_graph", "maybe"], "model.vlm.cuda_graph must be true or false, not 'maybe'"),
        (["--config", "{yaml}"], "model.vlm.precision must be float32 or bfloat16, not 'bf16'; the nearest"),
        (["--model.vlm", "LIV", "--model.vlm.path", "{clip}"], "has no model.pt; give the file with the weights"),
        (["--model.vlm", "CLIP", "--model.vlm.path", "{half}"], "cannot be read"),
        (["--model.vlm", "CLIP", "--model.vlm.path", "{size}"], "make pictures of 64 x 64, but its image tower takes"),
        (
            ["--model.vlm", "CLIP", "--model.vlm.path", "{clip}", "--model.vlm.revision", "v1"],
            "revision 'v1' is for names on the Hub",
        ),
        (["--model.vlm", "LIV", "--model.vlm.path", "{pickle}"], "holds more than tensors"),
        (
            ["--model.reward.source", "cosin"],
            "model.reward.source must be aligned or cosine or goal_baseline or goal_distance or task, not 'cosin'",
        ),
        (
            ["--model.reward.source", "goal_baseline"],
            "model.reward.source goal_baseline needs model.reward.baseline_prompt",
        ),
        (
            ["--model.reward.baseline_prompt", "a robot"],
            "model.reward.baseline_prompt is for model.reward.source goal_baseline, not",
        ),
        (["--data.prompts", "{{drawer-close: ''}}"], "data.prompts.drawer-close has an empty sentence"),
        (["--data.prompts", "{{drawer-close: [push, '']}}"], "data.prompts.drawer-close has an empty sentence"),
        (
            ["--data.prompts", "{{drawer-close: '...'}}"],
            "data.prompts.drawer-close has a sentence without a word, '...'",
        ),
        (["--data.prompts", "{{drawer-close: " + "a b " * 20 + "}}"], "tokens long; 'embedded' reads 32"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], message: str, tiny_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, one line, nothing written."""
    half, size = make_tiny_clip(tmp_path / "half"), make_tiny_clip(tmp_path / "size")
    weights = (half / "model.safetensors").read_bytes()
    (half / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    settings = json.loads((size / "preprocessor_config.json").read_text())
    (size / "preprocessor_config.json").write_text(json.dumps(settings | {"crop_size": {"height": 64, "width": 64}}))
    (tmp_path / "model.yaml").write_text(
        f"model: {{vlm: {{class_path: CLIP, init_args: {{path: {tiny_clip}, precision: bf16}}}}}}"
    )
    torch.save({"liv": {"module.model.logit_scale": Path("/")}}, tmp_path / "model.pt")
    paths = {
        "clip": tiny_clip, "half": half, "size": size, "yaml": tmp_path / "model.yaml", "pickle": tmp_path / "model.pt",
    }  # fmt: skip
    argv = ["--runs", str(tmp_path / "runs"), "--name", "bad"]
    argv += [part for key, value in SMALL.items() for part in (f"--{key}", value)]
    capsys.readouterr()
    assert fit([*argv, *(flag.format(**paths) for flag in flags)]) == 2
    assert message in last_line(capsys)
    assert not (tmp_path / "runs").exists()
