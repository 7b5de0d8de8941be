"""furl-fit end to end, in small: tags, evaluation, folders, and what it refuses."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from furl_lightning.commands.fit import fit
from furl_lightning.data.datamodule import Iteration
from furl_lightning.data.policy import RelayPolicy
from furl_lightning.runs.folder import RunFolder
from furl_lightning.training.module import FuRLModule

from .conftest import SMALL, Run, assert_same

TAGS = [
    *("train/success", "train/return", "eval/success", "eval/success_any"),
    *("reward/vlm", "reward/vlm_min", "reward/vlm_max"),
    *("alignment/loss", "alignment/cos_positive", "alignment/cos_negative", "alignment/cos_lag"),
    *("memory/positives", "memory/negatives", "relay/active"),
]
TAGS += [
    f"sac/{name}/{agent}"
    for name in ("critic_loss", "actor_loss", "alpha", "q")
    for agent in ("vlm_agent", "sac_agent")
]
RUN_TAGS = ("env_steps_per_s", "render_ms", "embed_ms", "update_ms")


def test_every_tag_is_there_for_every_task(run: Run, tmp_path: Path) -> None:
    """In TensorBoard and in metrics.csv, for each task, each agent of several seeds, and the mean."""
    checkpoint = run("tags", data__tasks="[drawer-close, reach]", data__seeds="[0, 1]", data__env_steps=60)
    events = EventAccumulator(str(tmp_path / "tags"))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    rows = {line.split(",")[1] for line in checkpoint["metrics"]}
    for tag in TAGS:
        for part in ("", "/drawer-close", "/reach", "/drawer-close/1", "/reach/0"):
            assert tag + part in scalars
            assert tag + part in rows
    assert {f"perf/{tag}" for tag in RUN_TAGS} <= scalars
    assert [event.step for event in events.Scalars("train/success")] == [50]
    assert sorted(p.name for p in (tmp_path / "tags").iterdir() if "tfevents" not in p.name) == [
        ".lock", "checkpoints", "config.yaml", "goals", "hparams.yaml", "machine.yaml", "metrics.csv",
    ]  # fmt: skip


@pytest.mark.parametrize("goal", ["fixed", "random"])
def test_evaluation_does_not_change_training(run: Run, goal: str) -> None:
    """Evaluating five times or once gives bit-equal parameters, optimizers, memories and random states."""
    settings = {"data__env__goal": goal, "data__evaluation__episodes": 1, "data__env_steps": 60}
    often = run("often", **settings, data__evaluation__every=10)
    once = run("once", **settings)
    assert_same(often, once, ignore=("metrics", "callbacks", "settings"))
    trained = [line for line in often["metrics"] if ",eval/" not in line]
    assert trained == [line for line in once["metrics"] if ",eval/" not in line]


def test_agents_learn_and_sac_stops_with_the_relay(run: Run) -> None:
    """Parameters move; a retired SAC agent's do not any more."""
    relaying = run("relaying", data__env_steps=100, model__relay__threshold=10_000)["state_dict"]
    start = run("start", data__env_steps=50)["state_dict"]
    for name, values in relaying.items():
        if "text_embedding" not in name:
            assert not torch.equal(values, start[name]), name


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.taks", "[reach]"], "unknown option 'data.taks'; the nearest is 'data.tasks'"),
        (["--data.tasks", "[drawer-clos]"], "unknown task 'drawer-clos'; the nearest is 'drawer-close'"),
        (["--data.env.goal", "fixd"], "data.env.goal must be fixed or random, not 'fixd'; the nearest is 'fixed'"),
        (["--data.env_steps", "-5"], "data.env_steps must be at least 1, not -5"),
        (["--data.replay.batch_size", "0"], "data.replay.batch_size must be at least 1, not 0"),
        (["--data.collection.start_steps", "-1"], "data.collection.start_steps must be at least 0, not -1"),
        (["--data.env_steps", "many"], "data.env_steps must be a whole number, not 'many'"),
        (["--data.seeds", "[1, 2, 1]"], "data.seeds has 1 twice; each agent needs a seed of its own"),
        (["--data.seeds", "[]"], "data.seeds is empty; give at least one, e.g. [0]"),
        (["--data.collection.steps_per_iteration", "7"], "must divide an episode's 50 steps; the nearest to 7 is 5"),
        (
            ["--data.env.action_repeat", "3"],
            "data.env.action_repeat must divide an episode's 50 steps (data.env.episode_steps), which 3 does not",
        ),
        (
            ["--data.env.action_repeat", "2", "--data.collection.steps_per_iteration", "5"],
            "must divide an episode's 50 steps into whole actions of 2 (data.env.action_repeat); the nearest to 5 is 2",
        ),
        (["--model.vlm", "CLIPP"], "unknown VLM 'CLIPP'; the nearest is 'CLIP'"),
        (["--model.vlm.path", "/nowhere"], "there is no folder '/nowhere'"),
        (["--model.reward.rho", "x"], "model.reward.rho must be a number, not 'x'"),
        (["--model.sac.tau", "1.5"], "model.sac.tau must be between 0 and 1, not 1.5"),
        (["--data.prompts", "{reach: touch it}"], "data.prompts names reach, not among data.tasks: drawer-close"),
        (["--trainer.devices", "2"], "trainer.devices must be 1"),
        (["--trainer.precision", "16-mixed"], "trainer.precision must be 32-true or bf16-mixed, not 16-mixed"),
        (
            ["--data.collection.overlap", "true"],
            "data.collection.overlap true needs data.collection.num_workers of at least 1",
        ),
        (["--trainer.max_steps", "9"], "trainer.max_steps has no effect here; leave it out (the run's length is data."),
        (["--trainer.gradient_clip_val", "1.0"], "trainer.gradient_clip_val has no effect here"),
        (["--seed_everything", "3"], "each agent is seeded by its own; give --data.seeds"),
        (["--ckpt_path", "last"], "no checkpoint at"),
        (["--name", "a/b"], "--name must be a plain folder name such as 'mt10', not 'a/b'"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], message: str, tiny_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, one line, nothing written."""
    runs = tmp_path / "runs"
    argv = ["--runs", str(runs), "--name", "bad", "--model.vlm", "CLIP", "--model.vlm.path", str(tiny_clip)]
    argv += [part for key, value in SMALL.items() for part in (f"--{key}", value)]
    assert fit([*argv, *flags]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("furl-fit:")]
    assert len(lines) == 1 and message in lines[0]
    assert not runs.exists()


def test_a_run_folder_is_never_reused(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Starting again is refused; resuming needs more steps, and the same population."""
    run("taken", data__env_steps=50)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "taken").rglob("*")}
    argv = ["--runs", str(tmp_path), "--name", "taken"]
    for flags, message in (
        ([], "exists already; resume it with --name taken --ckpt_path auto, or choose another --name"),
        (["--ckpt_path", "last"], "give a larger --data.env_steps than 50"),
        (["--ckpt_path", "last", "--data.seeds", "[3]"], "drawer-close/3, the checkpoint's is drawer-close/0"),
        (["--ckpt_path", "last", "--data.env.goal", "random"], "data.env.goal is random, the checkpoint's is fixed"),
        (["--ckpt_path", "last", "--model.vlm", "CLIP", "--model.alignment.width", "8"], "model.alignment.width"),
    ):
        assert fit([*argv, *flags]) == 2
        assert message in capsys.readouterr().err
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "taken").rglob("*")}


@pytest.mark.parametrize("backend", ["glfw", "bogus"])
def test_no_usable_gl_is_one_line(backend: str, tmp_path: Path) -> None:
    """A backend that is not there: status 2, one line that names Debian's packages, nothing written."""
    command = [sys.executable, "-W", "ignore", "-c", "from furl_lightning.cli import furl_fit; furl_fit()"]
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(
        [*command, "--data.tasks", "[reach]", "--runs", str(tmp_path / "runs"), "--name", "gl"],
        env={**environment, "MUJOCO_GL": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("furl-fit: ") and "apt-get install libegl1" in lines[0]
    assert not (tmp_path / "runs").exists()


def test_a_folder_in_use_is_refused(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Resuming a run that another process is writing."""
    run("busy", data__env_steps=50)
    owner = RunFolder(tmp_path, "busy")
    with owner.locked():
        assert fit(["--runs", str(tmp_path), "--name", "busy", "--ckpt_path", "last", "--data.env_steps", "100"]) == 2
    assert "is in use by process" in capsys.readouterr().err


def test_a_folder_is_free_though_a_child_lives_on(tmp_path: Path) -> None:
    """A forked child has the lock's file open too."""
    with RunFolder(tmp_path, "busy").locked():
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
    try:
        with RunFolder(tmp_path, "busy").locked():
            pass
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize("overlap", [False, True])
def test_the_age_of_the_policies_that_act(overlap: bool, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overlapped, they are one iteration's updates old within an episode, and new at its beginning; else always new."""
    before: dict[int, list[torch.Tensor]] = {}
    acted: dict[int, list[torch.Tensor]] = {}
    learned: dict[int, list[torch.Tensor]] = {}
    choose, training_step = RelayPolicy.choose, FuRLModule.training_step

    def copy(actors: Sequence[Any]) -> list[torch.Tensor]:
        return [p.detach().clone() for actor in actors for p in actor.actor.parameters()]

    def choose_and_note(self: RelayPolicy, observation: torch.Tensor, step: int) -> torch.Tensor:
        acted[self.chosen] = copy(self._acting)
        return choose(self, observation, step)

    def step_and_note(self: FuRLModule, iteration: Iteration) -> None:
        agents = [self.built.vlm_agent, self.built.sac_agent]
        before[iteration.env_steps] = copy(agents)
        training_step(self, iteration)
        learned[iteration.env_steps] = copy(agents)

    monkeypatch.setattr(RelayPolicy, "choose", choose_and_note)
    monkeypatch.setattr(FuRLModule, "training_step", step_and_note)
    run(
        "aged",
        data__env_steps=120,
        data__collection__start_steps=80,
        data__collection__num_workers=1,
        data__collection__overlap=str(overlap).lower(),
    )
    assert sorted(acted) == list(range(80, 120))
    for step, actors in acted.items():
        last = step - step % 10  # what the iteration before had ended with
        old = overlap and last != 100
        assert_same((before if old else learned)[last], actors, f"step {step}")
    assert not all(torch.equal(a, b) for a, b in zip(before[90], learned[90], strict=True))
