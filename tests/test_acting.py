"""Trained policies out of a checkpoint: acting with them, and exporting them."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict

import furl_lightning
from furl_lightning.commands import export as command
from furl_lightning.commands.export import NEEDS, TOLERANCE, export
from furl_lightning.data.policy import DeterministicPolicy
from furl_lightning.training.contract import NUMBERS
from furl_lightning.training.recording import record
from furl_lightning.training.trained import load
from furl_lightning.utils.errors import BadInput

from .conftest import small_run
from .test_docs import python_of

SHORT = {"data__env_steps": 20, "data__collection__start_steps": 10}
SAC = {"model__vlm": "null", "model__reward__source": "task", "model__relay__enabled": "false"}
HAS_ONNX = all(importlib.util.find_spec(name) for name in NEEDS)
SUFFIXES = [pytest.param(".onnx", marks=pytest.mark.skipif(not HAS_ONNX, reason="the extra 'export'")), ".pt2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Path:
    """The folder of two runs: ``first`` of four agents with a VLM, and ``pixels`` of one that sees frames."""
    folder = tmp_path_factory.mktemp("acting") / "runs"
    small_run(folder, tiny_clip, "first", data__tasks="[drawer-close, reach]", data__seeds="[0, 1]", **SHORT)
    small_run(folder, tiny_clip, "pixels", data__env__obs="pixels", data__env__pixel_size=21, **SAC, **SHORT)
    return folder


def changed(run: Path, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A run's checkpoint with something else in it, as a file of its own."""
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    change(saved)
    torch.save(saved, path)
    return path


def test_acts_as_in_evaluation(runs: Path, tmp_path: Path) -> None:
    """Of every agent; arrays and tensors, one and several; from a copy that names a VLM which is nowhere."""
    observation = torch.randn(4, 39, generator=torch.Generator().manual_seed(0))
    observation[:, -3:] = 0  # as training with fixed goals has it
    evaluated = DeterministicPolicy(load(runs / "first").module.built.evaluated_agent)
    actions = evaluated(TensorDict({"observation": observation}, [4]))["action"]
    foreign = {"class_path": "hostile.VLM", "init_args": {"path": "nowhere"}}
    copy = changed(runs / "first", tmp_path / "copy.ckpt", lambda saved: saved["settings"]["model"].update(vlm=foreign))
    policies = furl_lightning.load(copy)
    assert list(policies) == [("drawer-close", 0), ("drawer-close", 1), ("reach", 0), ("reach", 1)]
    assert "hostile" not in sys.modules and len(policies) == 4
    for row, (key, action) in enumerate(zip(policies, actions, strict=True)):
        policy = policies[key]
        assert (policy.agent.task, policy.agent.seed) == key and policy.env_steps == 20
        one = policy(observation[row])
        torch.testing.assert_close(one, action, rtol=0, atol=1e-6)
        array = policy(observation[row].double().numpy())
        assert isinstance(array, np.ndarray) and array.dtype == np.float32
        np.testing.assert_array_equal(array, one.numpy())
        several = policy(observation)
        assert several.shape == (4, 4) and not several.requires_grad
        torch.testing.assert_close(several[row], action, rtol=0, atol=1e-6)
    assert (actions[0] - actions[1]).abs().max() > 1e-3


def test_the_goal_is_hidden_as_in_training(runs: Path, tmp_path: Path) -> None:
    """Fixed goals: an environment that shows it changes nothing. Random goals: it counts."""
    hidden, shown = np.zeros(39), np.zeros(39)
    shown[-3:] = 0.1, 0.8, 0.2
    fixed = furl_lightning.load(runs / "first")["reach", 1]
    np.testing.assert_array_equal(fixed(hidden), fixed(shown))
    path = tmp_path / "random.ckpt"
    changed(runs / "first", path, lambda saved: saved["settings"]["data"]["env"].update(goal="random"))
    random = furl_lightning.load(path)["reach-v3", 1]
    np.testing.assert_array_equal(random(hidden), fixed(hidden))
    assert np.abs(random(shown) - fixed(shown)).max() > 1e-5


def test_a_policy_that_sees_frames(runs: Path) -> None:
    policy = furl_lightning.load(runs / "pixels")["drawer-close"]  # its only seed
    trained = load(runs / "pixels")
    frames = torch.from_numpy(record(policy, 12))
    assert frames.shape == (12, 3, 21, 21, 3) and frames.dtype == torch.uint8
    assert torch.equal(frames[0, 0], frames[0, 2]) and torch.equal(frames[5, 2], frames[6, 1])
    evaluated = trained.module.built.evaluated_agent.deterministic(frames[None])[0].detach()
    torch.testing.assert_close(policy(frames), evaluated, rtol=0, atol=1e-6)
    assert policy(frames[3].numpy()).shape == (4,)
    assert policy.simulators == trained.data.simulators


@pytest.mark.parametrize(
    ("run", "observation", "message"),
    [
        ("first", np.zeros(38), "observation of the policy of drawer-close/0 is [39] numbers, and several are [B, 39]"),
        ("first", np.float32(1), "not []"),
        ("first", torch.zeros(2, 2, 39), "not [2, 2, 39]"),
        ("pixels", np.zeros(39), "frames: the last ones, oldest first, and several are [B, 3, 21, 21, 3]; not [39]"),
        ("pixels", np.zeros((3, 84, 84, 3), np.uint8), "not [3, 84, 84, 3]"),
        ("pixels", np.zeros((3, 21, 21, 3)), "frames are uint8, from 0 to 255; not torch.float64"),
    ],
)  # fmt: skip
def test_an_observation_of_another_shape(runs: Path, run: str, observation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        furl_lightning.load(runs / run)["drawer-close", 0](observation)


def test_agents_that_are_not_there(runs: Path, tmp_path: Path) -> None:
    policies = furl_lightning.load(str(runs / "first"))
    for key, message in (
        (("drawer-close", 2), "no such agent; it has: drawer-close/0, drawer-close/1, reach/0, reach/1"),
        ("reach", "several such agents; give task and seed"),
        (("drawer-clos", 0), "unknown task 'drawer-clos'; the nearest is 'drawer-close'"),
    ):
        with pytest.raises(BadInput, match=re.escape(message)):
            policies[key]
    changes: list[Callable[[dict[str, Any]], object]] = [
        lambda saved: saved["state_dict"].pop("learner.vlm_agent.actor.mean.bias"),
        lambda saved: saved["settings"]["data"].update(seeds=[0, 2, 4, 6, 1]),
        lambda saved: saved["settings"]["data"].update(no_such=1),
    ]
    for change in changes:
        with pytest.raises(BadInput, match="has been changed since furl-fit wrote it"):
            furl_lightning.load(changed(runs / "first", tmp_path / "x.ckpt", change))["reach", 1]
    with pytest.raises(BadInput, match="no checkpoint at"):
        furl_lightning.load(tmp_path / "nothing.ckpt")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("run", "task"), [("first", "reach"), ("pixels", "drawer-close")])
def test_exported(runs: Path, run: str, task: str, suffix: str, tmp_path: Path) -> None:
    """It acts as the policy on what it meets, which is said beside it; on one observation as on several."""
    out = tmp_path / f"policy{suffix}"
    assert export(["--ckpt_path", str(runs / run), "--task", task, "--seed", "0", "--out", str(out)]) == 0
    said = json.loads(out.with_suffix(".json").read_text())
    assert said["compared_with_pytorch"]["largest_difference"] <= TOLERANCE
    assert said["compared_with_pytorch"]["observations"] == 50
    assert said["policy"]["task"] == task and said["control_rate_hz"] == 80
    policy = furl_lightning.load(runs / run)[task, 0]
    observation = record(policy, 7)
    if suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
        (given,), (acted,) = session.get_inputs(), session.get_outputs()
        assert (given.name, acted.name) == (said["observation"]["name"], said["action"]["name"])
        assert given.shape[1:] == said["observation"]["shape"][1:] and acted.shape[1:] == [4]
        action = session.run(None, {given.name: observation})[0]
    else:
        action = torch.export.load(out).module()(torch.from_numpy(observation)).detach().numpy()
    np.testing.assert_allclose(action, policy(observation), rtol=0, atol=TOLERANCE)
    if run == "first":
        assert len(said["observation"]["entries"]) == 39
        assert said["observation"]["goal_entries"]["at"] == [36, 37, 38]


def test_the_observations_numbers_are_in_order(runs: Path) -> None:
    """The hand and the object where the simulator has them; the step before; the control rate."""
    from furl_lightning.envs.metaworld import MetaWorld
    from furl_lightning.training.contract import RATE

    simulator = MetaWorld("reach", 0, show_goal=True)
    before = simulator.reset()
    after = simulator.step(np.ones(4, np.float32)).observation
    at = {name: place for place, name in enumerate(NUMBERS)}
    assert len(at) == 39
    hand = [at["hand_x"], at["hand_y"], at["hand_z"]]
    np.testing.assert_allclose(after[hand], simulator.env.get_endeff_pos(), rtol=1e-6)
    np.testing.assert_allclose(
        after[[at["object_x"], at["object_y"], at["object_z"]]], simulator.env._get_pos_objects()
    )
    for name in ("hand_x", "gripper_opening", "object_z", "second_object_quaternion_3"):
        assert after[at[f"previous_{name}"]] == before[at[name]]
    np.testing.assert_allclose(after[-3:], np.float32(simulator.env._target_pos))
    assert round(1 / (simulator.env.model.opt.timestep * simulator.env.frame_skip)) == RATE


def test_export_in_one_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 2, and nothing is written; a file that is there stays unless it is said."""
    whole = ["--ckpt_path", str(runs / "pixels"), "--out"]
    there = tmp_path / "there.pt2"
    there.write_text("mine")
    (tmp_path / "described.json").write_text("mine")
    monkeypatch.setattr(command, "NEEDS", ("no_such_package",))
    for argv, message in (
        ([*whole, str(tmp_path / "policy.pt")], "--out must end in .onnx or .pt2, not '.pt'"),
        ([*whole, str(tmp_path / "policy.onnx")], "must be there: pip install furl_lightning[export]"),
        ([*whole, str(there)], "there.pt2 is there already; name another with --out, or give --overwrite"),
        ([*whole, str(tmp_path / "described.pt2")], "described.json is there already"),
        (["--ckpt_path", str(runs / "first"), "--out", str(tmp_path / "x.pt2")], "several such agents"),
        ([*whole, str(tmp_path / "x.pt2"), "--seed", "3"], "no such agent; it has: drawer-close/0"),
        ([*whole, str(there / "x.pt2")], "is no folder; name another with --out"),
    ):
        assert export(argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("furl-export: ") and message in line, line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["described.json", "there.pt2"]
    assert there.read_text() == "mine"
    assert export([*whole, str(there), "--overwrite"]) == 0
    assert there.read_bytes()[:2] == b"PK" and there.with_suffix(".json").is_file()


def test_a_policy_that_acts_otherwise_is_not_written(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(command.WRITERS, ".pt2", lambda policy, observations: (b"", lambda batch: policy(batch) + 1e-4))
    with pytest.raises(RuntimeError, match="actions differ by"):
        export(["--ckpt_path", str(runs / "pixels"), "--out", str(tmp_path / "x.pt2")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("page", "text", "prints"),
    [
        ("README.md", ".load(", ("solved\n", "not solved\n")),
        ("docs/python.md", "gymnasium", ("success\n", "no success\n")),
        ("docs/python.md", "FrameStack", ("",)),
    ],
)
def test_the_docs_lines_act(
    page: str, text: str, prints: tuple[str, ...], runs: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    code = python_of(page, text)
    monkeypatch.chdir(runs.parent)
    exec(code, {})  # as a reader would
    assert capsys.readouterr().out in prints and len(code.splitlines()) <= (10 if page == "README.md" else 14)
