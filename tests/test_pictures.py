"""Which picture is drawn for a VLM: what the setting says, or the VLM, and the same wherever a run is gone on with."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from furl_lightning.commands.fit import fit
from furl_lightning.commands.probe import _of_vlm
from furl_lightning.envs.settings import EnvSettings
from furl_lightning.training.film import Studio, pictures, strip
from furl_lightning.training.identity import FRAMES, frames_identity
from furl_lightning.training.trained import load
from furl_lightning.utils.errors import BadInput
from furl_lightning.vlm import CLIP, LIV, SigLIP

from .conftest import Run
from .openai_clip import openai_weights, save_tokenizer
from .test_siglip import save_naflex, save_siglip
from .test_vlm import smooth_frames
from .tiny_clip import make_tiny_clip

FAST = "SimulatorSettings(goal='fixed', render='fast', mirror=False, bgr=False, episode_steps=50)"
LIGHT = FAST.replace("fast", "light")
SMALL: dict[str, Any] = {
    "data__env_steps": 20, "data__collection__start_steps": 10, "data__env__obs": "pixels", "data__env__pixel_size": 15,
}  # fmt: skip


# -- the size that a VLM asks for


@pytest.mark.parametrize("family", ["clip", "siglip", "naflex", "liv", "liv, tensors"])
def test_a_picture_of_the_vlms_size_is_not_resized(family: str, tmp_path: Path) -> None:
    """What the network gets is the picture's own pixels, normalised: the published crop of them."""
    vlm: Any
    if family == "clip":
        vlm, size = CLIP(str(make_tiny_clip(tmp_path))), 32
    elif family == "siglip":
        vlm, size = SigLIP(str(save_siglip(tmp_path))), 48
    elif family == "naflex":
        vlm, size = SigLIP(str(save_naflex(tmp_path))), 32
    else:
        torch.save({"liv": {f"module.model.{name}": t for name, t in openai_weights().items()}}, tmp_path / "model.pt")
        words = save_tokenizer(tmp_path / "words")
        vlm = LIV(str(tmp_path), str(words), resize="bilinear" if family == "liv, tensors" else "bicubic")
        size = 64
    assert vlm.picture_size == size and vlm.render == "fast"
    preprocess = vlm._preprocess
    frames = smooth_frames(2, size, size)
    if family == "naflex":  # 4 x 4 patches of 8 x 8
        pixels = preprocess.patches(frames)[0][:, :16].unflatten(1, (4, 4)).unflatten(3, (8, 8, 3))
        pixels = pixels.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
    else:
        pixels = preprocess(frames)
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess._mean, preprocess._std))
    assert torch.allclose(pixels * std + mean, frames.permute(0, 3, 1, 2) / 255, atol=1e-5)


def test_the_crop_stays_the_published_one(tmp_path: Path) -> None:
    """Of a model that resizes to 40 and crops to 32, the picture has 40."""
    folder = make_tiny_clip(tmp_path)
    settings = folder / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace('"shortest_edge": 32', '"shortest_edge": 40'))
    vlm = CLIP(str(folder))
    assert vlm.picture_size == 40 and vlm.image_size == 32


# -- what a run draws


def test_auto_is_what_the_vlm_asked_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At its size, for it and for policies; the run's settings say so, for a later version may ask for another."""
    with monkeypatch.context() as patch:
        patch.setattr(CLIP, "render", "light")
        run("auto", **SMALL)
    assert yaml.safe_load((tmp_path / "auto/config.yaml").read_text())["data"]["env"]["render"] == "light"
    saved = run("auto", "--ckpt_path", "last", **{**SMALL, "data__env_steps": 30})
    assert saved["identity"][FRAMES] == f"{LIGHT}, 32 x 32 pixels"
    with Image.open(tmp_path / "auto/goals/drawer-close-0.png") as goal:
        assert goal.size == (32, 32)
    trained = load(tmp_path / "auto")
    simulators = trained.data.simulators
    assert (simulators.render, simulators.size) == ("light", 32)
    resume = ["--runs", str(tmp_path), "--name", "auto", "--ckpt_path", "last", "--data.env_steps", "50"]
    capsys.readouterr()
    assert fit([*resume, "--data.env.render", "fast"]) == 2
    assert f"{FRAMES} is {FAST}, the checkpoint's is {LIGHT}, 32 x 32 pixels" in capsys.readouterr().err

    studio = Studio(trained.module, trained.data, [0])
    film = studio.film(0, range(0, 51, 25))
    studio.close()
    assert film.episode.frames.shape == (3, 32, 32, 3) and film.vlm_reward is not None
    assert strip(film).shape == (192 + 62, 3 * 196 - 4, 3)  # as large as ever, for people
    assert next(pictures(film)).shape == (472, 384, 3)


def test_checkpoints_of_before_there_was_light_go_on() -> None:
    """Theirs say of frames what one of today's says of the same ones."""
    assert frames_identity(EnvSettings(episode_steps=50).simulators(True)) == FAST


def test_a_probe_draws_what_the_vlm_asks_for(tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = Namespace(vlm=CLIP(str(tiny_clip)), prompts=None, seeds=None, goal=None, l2_margin=None, simulator=None)
    assert _of_vlm(arguments, ["reach"]).settings == EnvSettings(render="fast").simulators(True)
    monkeypatch.setattr(CLIP, "render", "light")
    settings = _of_vlm(arguments, ["reach"]).settings
    assert (settings.render, settings.size) == ("light", 32)


def test_the_size_is_lights_alone() -> None:
    """Fast and full are the usual size, and so is light without a VLM."""
    for render, expected in (("auto", ("light", 112)), ("light", ("light", 112)), ("fast", ("fast", 192))):
        settings = EnvSettings(render=render).simulators(True, "light", 112)  # type: ignore[arg-type]
        assert (settings.render, settings.size) == expected
    without = [EnvSettings(render=render).simulators(True) for render in ("auto", "light", "full")]
    assert [(s.render, s.size) for s in without] == [("fast", 192), ("light", 192), ("full", 192)]
    assert EnvSettings().simulators(False, "light", 112) == EnvSettings().simulators(False)
    assert EnvSettings().simulators(False).render is None


def test_policies_see_no_more_than_is_drawn() -> None:
    """The frame is the picture made smaller."""
    pixels = EnvSettings(obs="pixels", pixel_size=112, render="light")
    assert pixels.simulators(True, "fast", 112).size == 112
    with pytest.raises(BadInput, match=r"data\.env\.pixel_size must be at most 96, the side of the picture that is dr"):
        pixels.simulators(True, "fast", 96)
    assert EnvSettings(pixel_size=112, render="light").simulators(True, "fast", 96).size == 96  # nobody sees pixels
