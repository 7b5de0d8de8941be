"""What several tests share: small runs of the real command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from furl_lightning.commands.fit import fit
from furl_lightning.envs.rendering import close_gl

from .tiny_clip import make_tiny_clip

torch.set_num_threads(1)  # tiny networks; and spinning threads of parallel test processes starve each other

SMALL = {
    "data.tasks": "[drawer-close]",
    "data.seeds": "[0]",
    "data.env_steps": "100",
    "data.env.episode_steps": "50",
    "data.collection.start_steps": "50",
    "data.collection.steps_per_iteration": "10",
    "data.replay.batch_size": "16",
    "data.replay.size": "500",
    "data.memory.size": "500",
    "data.evaluation.every": "100000",
    "model.sac.hidden": "[32, 32]",
    "model.alignment.hidden": "16",
    "model.relay.turns": "[5, 10, 15, 20]",
    "model.relay.threshold": "30",
    "model.log_every": "50",
}

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session", autouse=True)
def gl() -> Iterator[None]:
    """Free OpenGL's context before Python takes its modules apart."""
    yield
    close_gl()


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a CLIP with random weights."""
    return make_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture
def run(tmp_path: Path, tiny_clip: Path) -> Run:
    """Run furl-fit in small with the given settings; returns the last checkpoint and the metrics."""

    def _run(name: str, *flags: str, **settings: Any) -> dict[str, Any]:
        return small_run(tmp_path, tiny_clip, name, *flags, **settings)

    return _run


def small_run(runs: Path, tiny_clip: Path, name: str, *flags: str, **settings: Any) -> dict[str, Any]:
    """What the fixture ``run`` does, in any folder."""
    without = settings.get("model__vlm") == "null"
    vlm = {} if without else {"model.vlm": "CLIP", "model.vlm.path": str(tiny_clip)}
    values = {**SMALL, **vlm, **{key.replace("__", "."): str(value) for key, value in settings.items()}}
    argv = ["--pictures", "false", "--trainer.enable_progress_bar", "false"]
    argv += [*flags, "--runs", str(runs), "--name", name]
    for key, value in values.items():
        argv += [f"--{key}", value]
    status = fit([*argv, "--trainer.accelerator", "cpu"])
    assert status == 0
    return load(runs / name)


def load(folder: Path) -> dict[str, Any]:
    """The last checkpoint of a run's folder, with its metrics but without times and the run's own settings."""
    checkpoint: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint.pop("settings")
    lines = (folder / "metrics.csv").read_text().splitlines()
    checkpoint["metrics"] = [line for line in lines if "perf/" not in line]
    return checkpoint


def assert_same(ours: Any, theirs: Any, where: str = "checkpoint", ignore: tuple[str, ...] = ()) -> None:
    """Bit-equality of nested checkpoints; keys in ``ignore`` are passed over."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            if key not in ignore:
                assert_same(ours[key], theirs[key], f"{where}.{key}", ignore)
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{where}[{i}]", ignore)
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours.nan_to_num(-7.0), theirs.nan_to_num(-7.0)), where
    else:
        assert ours == theirs or ours != ours, where
