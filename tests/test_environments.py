"""Environments of a user's own: trained on, resumed, evaluated, probed, exported; and what a user sees of a fault."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import furl_lightning
from furl_lightning.commands.evaluate import evaluate
from furl_lightning.commands.export import export
from furl_lightning.commands.fit import fit
from furl_lightning.commands.options import check
from furl_lightning.commands.probe import probe
from furl_lightning.commands.report import report
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.envs.simulators import make_simulator
from furl_lightning.sweep.plan import Sweep
from furl_lightning.training.trained import load as load_trained
from furl_lightning.utils.errors import BadInput

from .conftest import SMALL, Run, assert_same, small_run
from .test_docs import ROOT, python_of
from .test_resume import IGNORE, rings

MODULE = f"{__package__}.own_environments"
DOT = {
    "data__env__simulator": f"{MODULE}.Dot",
    "data__env__goal": "random",
    "data__tasks": "[dot, blind]",
    "data__replay__size": 60,
    "data__memory__size": 50,
    "data__checkpoints__every": 20,
    "data__checkpoints__keep": 9,
}
WITHOUT_VLM = {"model__vlm": "null", "model__reward__source": "task", "model__relay__enabled": "false"}


@pytest.fixture(scope="module")
def dot(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Path:
    """The folder of a small run of two tasks whose observations differ in size."""
    runs = tmp_path_factory.mktemp("own") / "runs"
    small_run(runs, tiny_clip, "dot", **DOT, data__collection__num_workers=1)
    return runs / "dot"


def test_a_run_resumes_bit_for_bit(dot: Path, run: Run, tmp_path: Path) -> None:
    """From the middle of an episode, after the ring has wrapped; hosted here or by a worker."""
    straight = _load(dot)
    assert (
        straight["state_dict"]["learner.vlm_agent.actor.net.layers.0.weight"].shape[1] == 4
    )  # blind's two and two zeros
    resumed = run("from-80", "--ckpt_path", str(dot / "checkpoints/step-000000080.ckpt"), **DOT)
    assert_same(straight, resumed, ignore=IGNORE)
    assert_same(rings(straight, dot), rings(resumed, tmp_path / "from-80"))


def test_the_goal_image_is_of_the_experts_success(dot: Path) -> None:
    """The dot is within reach of the ring in it, in the placement of the agent's first episode."""
    assert sorted(path.name for path in (dot / "goals").iterdir()) == ["blind-0.png", "dot-0.png"]


def test_evaluated_probed_reported_and_exported(dot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each only with the class named by the user again; acting needs no class at all."""
    argv = ["--ckpt_path", str(dot), "--simulator", f"{MODULE}.Dot"]
    assert evaluate([*argv, "--video", "--out", str(tmp_path / "eval")]) == 0
    results = json.loads((tmp_path / "eval/eval.json").read_text())
    assert results["tasks"]["dot"]["episodes"] == 10 and (tmp_path / "eval/videos/blind-0.png").is_file()
    assert probe([*argv, "--processes", "1", "--out", str(tmp_path / "probe")]) == 0
    assert float(dict(_column(tmp_path / "probe/probe.csv", "way"))["dot"]) > 0
    assert report([str(dot), "--out", str(tmp_path / "report")]) == 0
    table = (tmp_path / "report/index.html").read_text()
    assert "blind" in table and "(published)" not in table
    out = tmp_path / "policy.pt2"
    assert export([*argv, "--task", "blind", "--out", str(out)]) == 0
    contract = json.loads(out.with_suffix(".json").read_text())
    assert contract["observation"]["entries"] == ["observation_0", "observation_1", "zero_0", "zero_1"]
    policy = furl_lightning.load(dot)["blind"]
    assert policy.instruction == "move the dot to the ring, blindfolded" and policy(np.zeros(4)).shape == (2,)
    capsys.readouterr()
    for command, more in ((evaluate, []), (probe, []), (export, ["--task", "dot", "--out", str(tmp_path / "p.pt2")])):
        assert command([*argv[:2], *more]) == 2
        error = capsys.readouterr().err
        assert f"it is not imported; if you trust it, give it yourself: --simulator {MODULE}.Dot" in error


def test_a_strangers_class_is_not_imported(dot: Path, tmp_path: Path) -> None:
    """Neither by loading nor by acting: a checkpoint names a module, or has Gymnasium import one."""
    for env in (
        {"simulator": "hostile_module.Thing"},
        {"simulator": "Gymnasium", "options": {"ids": {"dot": "os:X-v0"}}},
    ):
        saved = torch.load(dot / "checkpoints/last.ckpt", weights_only=True)
        saved["settings"]["data"]["env"].update(env)
        torch.save(saved, tmp_path / "theirs.ckpt")
        with pytest.raises(BadInput, match="it is not imported; if you trust it, give it yourself: --simulator"):
            load_trained(tmp_path / "theirs.ckpt")
        assert furl_lightning.load(tmp_path / "theirs.ckpt")["dot", 0].instruction == "move the dot to the ring"
    assert "hostile_module" not in sys.modules


def test_what_cannot_be_replayed_is_saved_between_episodes(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said once; a checkpoint that is due within an episode waits for its end, and the run goes on from there."""
    chance = {**DOT, **WITHOUT_VLM, "data__env__simulator": f"{MODULE}.Chance", "data__tasks": "[dot]"}
    run("chance", **{**chance, "data__env_steps": 130})
    assert capsys.readouterr().err.count("saved, stopped and resumed between two episodes only") == 1
    names = sorted(path.name for path in (tmp_path / "chance/checkpoints").glob("step-*"))
    assert names == [f"step-{step:09d}.ckpt" for step in (0, 50, 100, 130)]
    run(
        "chance",
        "--ckpt_path",
        str(tmp_path / "chance/checkpoints/step-000000100.ckpt"),
        **{**chance, "data__env_steps": 150},
    )
    argv = _argv({**chance, "data__env_steps": 200}, tmp_path)
    within = tmp_path / "chance/checkpoints/within.ckpt"
    saved = torch.load(tmp_path / "chance/checkpoints/step-000000150.ckpt", weights_only=True)
    saved["FuRLDataModule"]["env_steps"] = 130
    torch.save(saved, within)
    assert fit([*argv, "--name", "other", "--ckpt_path", str(within)]) == 2
    assert "was saved at step 130, within an episode" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "NoSuccess",
            "step of NoSuccess (dot) must return three things, observation, reward and success, not 2 things",
        ),
        ("SuccessInWords", "success, the third that step of SuccessInWords (dot) returns, must be a bool, not 'yes'"),
        ("NoReward", "the reward, the second that step of NoReward (dot) returns, must be a number, not None"),
        ("Growing", "the observation that step of Growing (dot) returns must be [4] numbers, not [5] of float64"),
        ("NotFinite", "step of NotFinite (dot) returned an observation that is not finite"),
        (
            "ResetsLikeGymnasium",
            "the observation that reset of ResetsLikeGymnasium (dot) returns must be [4] numbers, not",
        ),
        ("DrawsNothing", "frame of DrawsNothing (dot) must return a picture, uint8 [height, width, 3], not None"),
        (
            "DrawsGrey",
            "frame of DrawsGrey (dot) must return a picture, uint8 [height, width, 3], not [128, 148] of uint8",
        ),
        ("GoalInWords", "goal_image of GoalInWords (dot) must return a picture, uint8 [height, width, 3], not 'at the"),
        ("LongExpert", "expert of LongExpert (dot) must return an action [2], not [3]"),
        ("Sizeless", "observation_dim of Sizeless (dot) must be a whole number of at least 1; it has none"),
        ("Lacking", "Lacking lacks frame, step: see furl_lightning.envs.environment.Environment"),
        ("Nowhere", f"unknown data.env.simulator '{MODULE}.Nowhere'; module {MODULE} has no Nowhere"),
        ("np", "must be a subclass of furl_lightning.envs.environment.Environment"),
    ],
)
def test_a_fault_is_one_line(name: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is written."""
    without = {} if "Draws" in name or "Goal" in name else WITHOUT_VLM
    argv = _argv({**DOT, "data__env__simulator": f"{MODULE}.{name}", "data__tasks": "[dot]", **without}, tmp_path)
    assert fit([*argv, "--name", "fault"]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert line in error[-1] and "Traceback" not in "".join(error)
    assert not (tmp_path / "fault").exists()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"data__env__simulator": "Metaworld"},
            "unknown data.env.simulator 'Metaworld'; the nearest is 'MetaWorld'; a class",
        ),
        ({"data__env__simulator": "nowhere.Thing"}, "there is no module nowhere in the current folder, on PYTHONPATH"),
        ({"data__env__options": "{sped: 1}"}, "data.env.options has 'sped', but Dot takes speed"),
        (
            {"data__env__episode_steps": 60, "data__memory__size": 60},
            "data.env.episode_steps must be at most 50, the steps of an episode of Dot (dot)",
        ),
        ({"data__tasks": "[dott]"}, "unknown task 'dott'; the nearest is 'dot'"),
        ({"data__env__simulator": f"{MODULE}.Anything", "data__tasks": "[a/b]"}, "files are named after it, not 'a/b'"),
        ({"data__tasks": "[dot, dot]"}, "task given twice: dot"),
        (
            {"data__env__simulator": "MetaWorld", "data__tasks": "[reach]", "data__env__options": "{a: 1}"},
            "must be empty with",
        ),
    ],
)
def test_settings_that_cannot_be(
    settings: dict[str, Any], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, 2, nothing written."""
    assert fit([*_argv({**DOT, **WITHOUT_VLM, **settings}, tmp_path), "--name", "x"]) == 2
    assert line in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "x").exists()


def test_the_class_may_stand_for_the_group(tmp_path: Path) -> None:
    """As a flag and in a file; a mapping there is the group's settings, as ever."""
    Path(tmp_path / "a.yaml").write_text(f"data: {{env: {MODULE}.Dot, tasks: [dot]}}")
    length = ["--data.env.episode_steps", "50"]
    for argv in (
        ["--data.env", f"{MODULE}.Dot", "--data.tasks", "[dot]"],
        [f"--data.env={MODULE}.Dot", "--data.tasks=[dot]"],
        ["--config", str(tmp_path / "a.yaml")],
        ["--data.env", f"{{simulator: {MODULE}.Dot}}", "--data.tasks", "[dot]"],
    ):
        assert check([*argv, *length]).env_settings.simulator == f"{MODULE}.Dot"


def test_a_bug_keeps_its_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it shows while the environment is looked at, and later, in a worker process."""
    broken = {**DOT, **WITHOUT_VLM, "data__env__simulator": f"{MODULE}.Broken", "data__tasks": "[dot]"}
    with pytest.raises(ZeroDivisionError, match="a bug of the user's"):
        fit([*_argv(broken, tmp_path), "--name", "broken"])
    later = {**broken, "data__env__simulator": f"{MODULE}.BreaksLater", "data__env_steps": 300}
    assert fit([*_argv({**later, "data__collection__num_workers": 1}, tmp_path), "--name", "later"]) == 1
    error = capsys.readouterr().err
    assert "ZeroDivisionError: a bug of the user's, later" in error and "own_environments.py" in error


def test_placements_and_padding_by_hand() -> None:
    """Fixed goals: one placement, the seed's; random ones: one after another, again from a restored state."""
    settings = SimulatorSettings(
        simulator=f"{MODULE}.Dot", episode_steps=50, observation_dim=6, action_dim=2, options={"speed": 1.0}
    )
    simulator = make_simulator("dot", 3, settings)
    place, ring = np.random.default_rng(3).uniform(-1, 1, (2, 2))
    expected = np.array([*place, *(ring - place), 0, 0], np.float32)
    np.testing.assert_array_equal([simulator.reset(), simulator.reset()], [expected, expected])
    after = simulator.step(np.array([0.5, -0.25], np.float32)).observation
    np.testing.assert_allclose(after[:2], np.clip(place + np.array([0.5, -0.25]), -1, 1), rtol=1e-6)
    random = make_simulator("dot", 3, SimulatorSettings("random", **{k: getattr(settings, k) for k in _SIZES}))
    state = random.random_state()
    first, second = random.reset(), random.reset()
    assert (first != second).any()
    random.set_random_state(state)
    np.testing.assert_array_equal(random.reset(), first)


_SIZES = ("simulator", "episode_steps", "observation_dim", "action_dim", "options")


def _argv(settings: dict[str, Any], runs: Path) -> list[str]:
    values = {**SMALL, **{key.replace("__", "."): str(value) for key, value in settings.items()}}
    argv = ["--runs", str(runs), "--pictures", "false", "--trainer.enable_progress_bar", "false"]
    return [*argv, *(part for key, value in values.items() for part in (f"--{key}", value))]


def _load(folder: Path) -> dict[str, Any]:
    from .conftest import load

    return load(folder)


def _column(path: Path, name: str) -> list[tuple[str, str]]:
    header, *rows = (line.split(",") for line in path.read_text().splitlines())
    return [(row[header.index("task")], row[header.index(name)]) for row in rows]


def test_the_page_of_ones_own_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its files as they stand there, in at most sixty lines, make a curve; then an XML that does not compile."""
    page = (ROOT / "docs/own_task.md").read_text()
    code = python_of("docs/own_task.md", "class Puck(MujocoModel)")
    (config,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(code.splitlines()) + len(config.splitlines()) <= 60
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    Path("puck.py").write_text(code)
    Path("puck.yaml").write_text(config)
    shutil.copy(ROOT / "docs/own_task/puck.xml", tmp_path)
    short = [
        "--data.env_steps",
        "300",
        "--data.collection.start_steps",
        "200",
        "--trainer.enable_progress_bar",
        "false",
    ]
    assert fit(["--config", "puck.yaml", *short, "--data.checkpoints.every", "300"]) == 0
    assert list(Path("runs/puck").glob("events.out.tfevents.*"))
    assert "eval/success/puck" in Path("runs/puck/metrics.csv").read_text()
    start, solved = _puck_and_hole(Path("runs/puck/goals/puck-0.png"))
    assert np.linalg.norm(start - solved) < 12  # the puck lies in the hole
    text = Path("puck.xml").read_text()
    Path("puck.xml").write_text(text.replace("</mujoco>", ""))
    assert fit(["--config", "puck.yaml", *short, "--name", "broken"]) == 2
    assert "puck.xml must be a MuJoCo model that compiles: " in capsys.readouterr().err.splitlines()[-1]


def _puck_and_hole(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Where the red and where the black is in a picture, in pixels of 128."""
    picture = np.asarray(Image.open(path)).astype(int)
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    puck, hole = (red > 2 * green) & (red > 2 * blue) & (red > 60), (picture.max(-1) < 40)
    middle = slice(len(picture) // 4, -len(picture) // 4)
    place = [np.argwhere(mask[middle, middle]).mean(0) for mask in (puck, hole)]
    return place[0], place[1]


def test_a_sweep_over_ones_own_tasks() -> None:
    """Cut by the simulator's tasks, which are checked by it."""
    settings = {"data": {"env": {"simulator": f"{MODULE}.Dot", "episode_steps": 50}}}
    sweep = Sweep({"sac": ["method/sac"]}, tasks=["dot", "blind"], agents_per_trial=1, settings=settings)
    assert [trial.tasks for trial in sweep.trials()] == [("dot",), ("blind",)]
    with pytest.raises(BadInput, match="tasks: unknown task 'reach'; the nearest is"):
        replace(sweep, tasks=["reach"]).trials()
