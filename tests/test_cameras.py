"""Meta-World's cameras: upright and not mirrored, whichever draws; the usual one as it was; in a run and its films."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
from PIL import Image

from furl_lightning.commands.evaluate import evaluate
from furl_lightning.commands.fit import fit
from furl_lightning.envs.episodes import goal_image
from furl_lightning.envs.metaworld import MetaWorld
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.training.identity import FRAMES, frame_size, frames_identity
from furl_lightning.utils.errors import BadInput

from .conftest import Run

CAMERAS = ["topview", "corner", "corner2", "corner3", "corner4", "behindGripper", "gripperPOV"]
SPOT = (0.1, 0.7, 0.06)
"""Where all cameras see a puck, metres."""
RENDERED = SimulatorSettings("fixed", "fast")
NAMES = "data.env.camera must be one of " + ", ".join(CAMERAS) + " (the cameras of Meta-World) or null, not 'cornr'"


def first_frame(task: str, settings: SimulatorSettings) -> np.ndarray:
    """What an episode begins with, uint8 [size, size, 3]."""
    simulator = MetaWorld(task, 0, settings)
    simulator.reset()
    frame = simulator.frame()
    simulator.close()
    return frame


def test_each_camera_has_a_picture_of_its_own_and_corner2_is_the_usual_one() -> None:
    usual = first_frame("drawer-open", RENDERED)
    frames = {name: first_frame("drawer-open", replace(RENDERED, camera=name)) for name in CAMERAS}
    assert np.array_equal(frames["corner2"], usual)
    flat = [frame.astype(int) for frame in frames.values()]
    apart = [np.abs(one - other).mean() for i, one in enumerate(flat) for other in flat[:i]]
    assert min(apart) > 5
    mirrored = first_frame("drawer-open", replace(RENDERED, camera="corner", mirror=True, bgr=True))
    assert np.array_equal(mirrored, frames["corner"][:, ::-1, ::-1])


@pytest.mark.parametrize("camera", CAMERAS)
def test_up_is_up_and_right_is_right(camera: str) -> None:
    """A puck that is moved up, and to the right as someone at the camera sees it, does so in the picture.

    For a camera that looks down, up is away from the robot. How far says how wide the view is: all of the camera's, or
    the centre of corner2's.
    """
    simulator = MetaWorld("push", 0, replace(RENDERED, camera=camera))
    simulator.reset()
    model, data = simulator.env.model, simulator.env.data
    looks = -data.cam_xmat[model.camera(camera).id].reshape(3, 3)[:, 2]
    up = np.array([0.0, 1.0, 0.0]) if looks[2] < -0.95 else np.array([0.0, 0.0, 1.0])
    right = np.cross(looks, up) / np.linalg.norm(np.cross(looks, up))
    body, joint = model.body("obj").id, int(model.body("obj").jntadr[0])
    puck = [geom for geom in range(model.ngeom) if model.geom_bodyid[geom] == body]
    model.geom_matid[puck] = -1

    def place(moved: np.ndarray) -> np.ndarray:
        """Row and column of the puck's pixels, the mean."""
        data.qpos[model.jnt_qposadr[joint] : model.jnt_qposadr[joint] + 3] = np.array(SPOT) + moved
        mujoco.mj_forward(model, data)
        frames = []
        for colour in (1, 0, 1, 1), (0, 1, 0, 1):
            model.geom_rgba[puck] = colour
            frames.append(simulator.frame().astype(int))
        return np.asarray(np.argwhere(np.abs(frames[0] - frames[1]).sum(-1) > 60).mean(0))

    assert place(0.04 * up)[0] < place(-0.04 * up)[0] - 3
    moved = place(0.04 * right)[1] - place(-0.04 * right)[1]
    depth = looks @ (np.array(SPOT) - data.cam_xpos[model.camera(camera).id])
    whole_view = 0.08 / depth * 192 / 2 / np.tan(np.deg2rad(model.cam_fovy[model.camera(camera).id]) / 2)
    assert moved == pytest.approx(whole_view * 256 / 192 if camera == "corner2" else whole_view, rel=0.15)
    simulator.close()


def test_a_camera_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is written, and whether anything is drawn or not."""
    for settings in (RENDERED, SimulatorSettings()):
        with pytest.raises(BadInput) as refused:
            MetaWorld("reach", 0, replace(settings, camera="cornr"))
        assert str(refused.value) == NAMES
    argv = [
        "--data.tasks",
        "[reach]",
        "--runs",
        str(tmp_path / "runs"),
        "--name",
        "bad",
        "--trainer.accelerator",
        "cpu",
    ]
    assert fit([*argv, "--data.env.camera", "cornr"]) == 2
    assert capsys.readouterr().err.splitlines() == [f"furl-fit: {NAMES}"]
    assert not (tmp_path / "runs").exists()


def test_a_run_by_another_camera(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its goal images and its video are drawn by it; no other camera goes on."""
    short = {"data__env_steps": 20, "data__env__episode_steps": 10, "data__collection__start_steps": 10}
    run("corner", data__env__camera="corner", data__tasks="[reach, drawer-open]", **short)
    goal = np.asarray(Image.open(tmp_path / "corner/goals/reach-0.png"))
    drawn = goal_image("reach", 0, replace(RENDERED, camera="corner"))
    assert drawn is not None and np.array_equal(goal, drawn)
    flags = ["--task", "drawer-open", "--episodes", "1", "--video", "--out", str(tmp_path / "films")]
    assert evaluate(["--ckpt_path", str(tmp_path / "corner"), *flags]) == 0
    with Image.open(tmp_path / "films/videos/drawer-open-0.png") as strip:  # its pictures lie below a margin of 24
        filmed = np.asarray(strip.convert("RGB")).astype(int)[24 : 24 + 192, :192]
    corner = first_frame("drawer-open", replace(RENDERED, camera="corner"))
    assert np.abs(filmed - corner).mean() < 5 < 20 < np.abs(filmed - first_frame("drawer-open", RENDERED)).mean()
    capsys.readouterr()
    argv = ["--runs", str(tmp_path), "--name", "corner", "--ckpt_path", "last", "--data.env_steps", "30"]
    for other, named in {"corner3": ", camera corner3, the checkpoint's", "corner2": "), the checkpoint's"}.items():
        assert fit([*argv, "--data.env.camera", other]) == 2
        line = capsys.readouterr().err
        assert named in line and line.rstrip().endswith(", camera corner")


def test_the_identity_of_frames() -> None:
    """The usual camera by its name is the usual one; the size is read past a camera's name."""
    usual = frames_identity(RENDERED)
    assert (
        frames_identity(replace(RENDERED, camera="corner2"))
        == usual
        != frames_identity(replace(RENDERED, camera="corner"))
    )
    for camera in (None, "corner2", "corner"):
        for size in (128, 192):
            assert frame_size({FRAMES: frames_identity(replace(RENDERED, camera=camera, size=size))}) == size
