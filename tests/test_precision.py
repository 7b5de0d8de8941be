"""bfloat16 on a processor without instructions for it: refused before anything is made, unless insisted on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import pytest
import torch

from furl_lightning.commands.precision import slow_bfloat16

from .conftest import SMALL

CPU_FLAGS = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
PROGRAM = """
import sys
from pathlib import Path
import torch
from furl_lightning.commands.evaluate import evaluate
from furl_lightning.commands.fit import fit
from furl_lightning.commands.probe import probe

torch.set_num_threads(1)
small, mixed = sys.argv[1:], ["--trainer.precision", "bf16-mixed"]
rounded = ["--model.vlm.precision", "bfloat16"]
nowhere = ["--model.vlm", "CLIP", "--model.vlm.path", "/nowhere"]
for command, *argv in (
    (fit, *small, *mixed),
    (fit, *small, *nowhere, *rounded),
    (fit, *small, *mixed, *rounded, "--allow_slow_bfloat16", "true"),
    (evaluate, "--ckpt_path", "runs/run", "--video"),
    (probe, "--vlm", "Embedded", "--vlm.precision", "bfloat16", "--tasks", "reach", "--prompts", "{reach: ...}"),
):
    print("=", Path("runs").exists(), command(argv), file=sys.stderr)
"""


@pytest.mark.skipif("avx2" not in CPU_FLAGS, reason="only x86 can be told to do without its instructions")
def test_slow_bfloat16_is_refused_unless_insisted_on(tmp_path: Path) -> None:
    """With the instructions for it held back, as on a processor without; before a folder is made or a VLM loaded.

    An evaluation and a probe, whose VLM may be a run's, warn.
    """
    small = [part for key, value in SMALL.items() for part in (f"--{key}", value)]
    small += ["--name", "run", "--pictures", "false", "--data.env_steps", "20", "--data.collection.start_steps", "10"]
    small += ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *small],
        cwd=tmp_path,
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
    )
    calls = re.findall(r"(.*?)^= (True|False) (\d+)$", done.stderr, re.DOTALL | re.MULTILINE)
    assert [(there, int(status)) for _, there, status in calls] == [
        ("False", 2), ("False", 2), ("False", 0), ("True", 0), ("True", 2)
    ]  # fmt: skip
    slow = (
        r"slow here: a core of this processor multiplies matrices of float32 at [\d.]+ GFLOP/s, of bfloat16 at [\d.]+"
    )
    for (text, _, _), option, instead in zip(
        calls, ("trainer.precision bf16-mixed", "model.vlm.precision bfloat16"), ("32-true", "float32"), strict=False
    ):
        give = f"; give --{option.split()[0]} {instead}, or --allow_slow_bfloat16 true to have it all the same"
        assert re.search(rf"furl-fit: {option} is {slow}{give}\n$", text)
    assert "slow" not in calls[2][0]
    for text, _, _ in calls[3:]:
        assert re.search(rf"^the VLM's precision is bfloat16, which is {slow}$", text, re.MULTILINE)


def test_slow_is_what_takes_longer() -> None:
    """As timed here, by whatever instructions the processor has; between the two it may say either."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(512, 512, dtype=dtype)
        times = []
        for _ in range(7):
            begun = perf_counter()
            a @ a
            times.append(perf_counter() - begun)
        seconds[dtype] = min(times)
    ratio = seconds[torch.bfloat16] / seconds[torch.float32]
    said = slow_bfloat16(torch.device("cpu"))
    assert said is None if ratio < 1.0 else said is not None if ratio > 3.0 else True, (ratio, said)
