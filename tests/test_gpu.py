"""On a GPU: what no processor can show. benchmarks/gpu.sh runs these, beside the other tests that need one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from furl_lightning.commands.fit import fit
from furl_lightning.envs.graphics_device import software_beside_cuda
from furl_lightning.envs.rendering import renderer_name

from .conftest import SMALL, assert_same, load

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

RUN = {
    **SMALL,
    "data.seeds": "[0, 1]",
    "data.checkpoints.every": "70",
    "data.checkpoints.keep": "9",
    "data.collection.num_workers": "2",
}


def run_on(device: str, runs: Path, name: str, *flags: str) -> dict[str, Any]:
    """furl-fit with the embedded model; returns the last checkpoint."""
    options = [part for key, value in RUN.items() for part in (f"--{key}", value)]
    where = ["--runs", str(runs), "--name", name, "--trainer.accelerator", device]
    assert fit([*options, "--pictures", "false", "--trainer.enable_progress_bar", "false", *where, *flags]) == 0
    return load(runs / name)


def test_the_gpu_draws() -> None:
    """EGL on the GPU; a software renderer would be the bottleneck of every run."""
    assert not software_beside_cuda(renderer_name(), "cuda"), renderer_name()


@pytest.mark.parametrize("flags", [(), ("--trainer.precision", "bf16-mixed", "--data.collection.overlap", "true")])
def test_a_run_on_the_gpu_goes_on_bit_for_bit(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Its buffers on the device, its update a graph, with workers; from a checkpoint in the middle of an episode."""
    straight = run_on("gpu", tmp_path, "straight", *flags)
    start = str(tmp_path / "straight" / "checkpoints" / "step-000000070.ckpt")
    resumed = run_on("gpu", tmp_path, "resumed", *flags, "--ckpt_path", start)
    assert_same(straight, resumed, ignore=("journal", "metrics"))


@pytest.mark.parametrize(("first", "second"), [("cpu", "gpu"), ("gpu", "cpu")])
def test_a_run_moves_between_devices(tmp_path: Path, first: str, second: str) -> None:
    """The last 30 steps elsewhere: networks near those of the device that the run was begun on."""
    straight = run_on(first, tmp_path, "straight")
    start = str(tmp_path / "straight" / "checkpoints" / "step-000000070.ckpt")
    moved = run_on(second, tmp_path, "moved", "--ckpt_path", start)
    assert moved["FuRLDataModule"]["env_steps"] == straight["FuRLDataModule"]["env_steps"] == 100
    for name, values in straight["state_dict"].items():
        if values.is_floating_point():
            torch.testing.assert_close(moved["state_dict"][name].cpu(), values.cpu(), rtol=0.01, atol=0.01, msg=name)
