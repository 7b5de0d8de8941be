"""Frames: right way round, alike however many renderers are alive, and the crop of the full picture; what draws."""

from __future__ import annotations

import re
import subprocess
import sys
from uuid import UUID

import mujoco
import numpy as np
import pytest
import torch

from furl_lightning.envs.fleet import Fleet
from furl_lightning.envs.graphics_device import EGLDevice, egl_devices, number_of, software_beside_cuda
from furl_lightning.envs.metaworld import MetaWorld
from furl_lightning.envs.rendering import (
    PICTURE_SIZE,
    NoGL,
    Renderer,
    _refuse_device_that_is_not_there,
    renderer_name,
)
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.pictures import FRAME_SIZE, RenderQuality
from furl_lightning.tasks import Agent

from .conftest import Run

RENDERED = SimulatorSettings("fixed", "fast")
LIGHT = SimulatorSettings("fixed", "light", size=112)
POINTS = [(-0.3, 0.5, 0.02), (0.3, 0.5, 0.02), (0.25, 0.5, 0.3), (-0.25, 0.5, 0.35)]


def walk(simulator: MetaWorld, steps: int = 20, seed: int = 0) -> np.ndarray:
    """The frame after some random steps, uint8 [size, size, 3]."""
    random = np.random.default_rng(seed)
    simulator.reset()
    for _ in range(steps):
        simulator.step(random.uniform(-1, 1, 4).astype(np.float32))
    return simulator.frame()


def test_two_simulators_alive_draw_as_each_alone() -> None:
    """Two tasks in one process, frames taken in turns, against each in a process-wide empty room."""
    alone = {}
    for task in ("drawer-close", "window-open"):
        simulator = MetaWorld(task, 0, RENDERED)
        alone[task] = walk(simulator)
        simulator.close()
    assert not np.array_equal(alone["drawer-close"], alone["window-open"])
    first, second = (
        MetaWorld("drawer-close", 0, RENDERED),
        MetaWorld("window-open", 0, RENDERED),
    )
    start = second.frame()
    assert np.array_equal(walk(first), alone["drawer-close"])
    assert not np.array_equal(second.frame(), alone["drawer-close"])
    assert np.array_equal(second.frame(), start)
    assert np.array_equal(walk(second), alone["window-open"])
    assert np.array_equal(first.frame(), alone["drawer-close"])
    first.close()
    assert np.array_equal(second.frame(), alone["window-open"])
    second.close()


def test_light_and_full_alive_draw_as_each_alone() -> None:
    """Two renderers of one model even, and each after the other."""
    alone = {}
    for settings in (LIGHT, SimulatorSettings("fixed", "full")):
        simulator = MetaWorld("drawer-open", 0, settings)
        alone[settings.render] = walk(simulator)
        simulator.close()
    assert alone["light"].shape == (112, 112, 3) and alone["full"].shape == (192, 192, 3)
    light, full = MetaWorld("drawer-open", 0, LIGHT), MetaWorld("drawer-open", 0, SimulatorSettings("fixed", "full"))
    other = Renderer(full.env.model, "light", 112)
    for _ in range(2):
        assert np.array_equal(walk(full), alone["full"])
        assert np.array_equal(walk(light), alone["light"])
        assert np.array_equal(full.frame(), alone["full"])
        assert np.array_equal(other.render(full.drawn_state()), alone["light"])
    light.close()
    assert np.array_equal(full.frame(), alone["full"])
    other.close()
    full.close()


def test_light_is_the_same_scene() -> None:
    """At any size: nearly as the fast picture of that size, and not the same."""
    simulator = MetaWorld("drawer-open", 0)
    simulator.reset()
    for size in (64, 192, 256):
        frames = []
        for quality in ("fast", "light"):
            renderer = Renderer(simulator.env.model, quality, size)
            frames.append(renderer.render(simulator.env.data).astype(int))
            renderer.close()
        difference = np.abs(frames[0] - frames[1])
        assert difference.shape == (size, size, 3)
        assert 0.1 < difference.mean() < 2 and (difference.max(-1) > 32).mean() < 0.04


def test_physics_is_the_same_with_and_without_pictures() -> None:
    """Every number of the simulator's state, bit for bit."""
    states = []
    for settings in (LIGHT, SimulatorSettings("fixed")):
        simulator, random = MetaWorld("drawer-open", 0, settings), np.random.default_rng(0)
        simulator.reset()
        model, data = simulator.env.model, simulator.env.data
        for _ in range(30):
            simulator.step(random.uniform(-1, 1, 4).astype(np.float32))
            if settings.render is not None:
                simulator.frame()
        state = np.empty(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        states.append(np.concatenate([state, data.xpos.reshape(-1), data.qacc, model.mesh_vert.reshape(-1)]))
        simulator.close()
    assert np.array_equal(states[0], states[1])


def test_frames_do_not_depend_on_the_number_of_workers() -> None:
    """Pixels and observations of a fleet in this process and in two workers: one process draws what another does."""
    agents = [Agent("drawer-close", 0), Agent("reach", 1), Agent("window-open", 0)]
    action = np.random.default_rng(0).uniform(-1, 1, (5, 3, 4)).astype(np.float32)
    seen = []
    for workers in (0, 2):
        fleet = Fleet(agents, LIGHT, workers)
        fleet.reset()
        for a in action:
            fleet.arrays.action[:] = a
            fleet.step()
        seen.append((fleet.arrays.pixels.copy(), fleet.arrays.observation.copy()))
        fleet.close()
    assert np.array_equal(seen[0][0], seen[1][0])
    assert np.array_equal(seen[0][1], seen[1][1])


def project(simulator: MetaWorld, point: np.ndarray) -> tuple[float, float]:
    """Row and column of a point in the frame, from the pinhole model of camera corner2.

    The camera hangs upside down, so the true picture is its own turned by half a turn.
    """
    model, data = simulator.env.model, simulator.env.data
    camera = model.camera("corner2").id
    x, y, z = data.cam_xmat[camera].reshape(3, 3).T @ (point - data.cam_xpos[camera])
    focal = 0.5 * PICTURE_SIZE / np.tan(np.deg2rad(model.cam_fovy[camera]) / 2)
    own_row, own_column = PICTURE_SIZE / 2 + focal * y / z, PICTURE_SIZE / 2 - focal * x / z
    edge = (PICTURE_SIZE - FRAME_SIZE) / 2
    return PICTURE_SIZE - own_row - edge, PICTURE_SIZE - own_column - edge


@pytest.mark.parametrize("point", POINTS)
def test_an_object_is_drawn_where_it_is(point: tuple[float, float, float]) -> None:
    """The puck, put somewhere off the middle: the pixels that change with its colour lie where it projects to."""
    simulator = MetaWorld("push", 0, RENDERED)
    simulator.reset()
    model, data = simulator.env.model, simulator.env.data
    joint = int(model.body("obj").jntadr[0])
    data.qpos[model.jnt_qposadr[joint] : model.jnt_qposadr[joint] + 3] = point
    mujoco.mj_forward(model, data)
    before = simulator.frame().astype(int)
    geoms = [g for g in range(model.ngeom) if model.geom_bodyid[g] == model.body("obj").id]
    model.geom_matid[geoms] = -1
    model.geom_rgba[geoms] = (1, 0, 1, 1)
    after = simulator.frame().astype(int)
    simulator.close()
    changed = np.argwhere(np.abs(after - before).sum(-1) > 60)
    assert len(changed) > 5
    row, column = project(simulator, data.xpos[model.body("obj").id])
    assert np.linalg.norm(changed.mean(0) - (row, column)) < 5
    # A mirror image, or one upside down, would be noticed.
    assert abs(FRAME_SIZE - 2 * column) > 15
    assert abs(FRAME_SIZE - 2 * row) > 15
    red, green, _ = after[changed[:, 0], changed[:, 1]].mean(0)
    assert red > 2 * green


def test_up_is_up_and_mirror_exchanges_left_and_right() -> None:
    """A higher point has a smaller row; the mirror image is the picture's columns reversed; bgr reverses channels."""
    simulator = MetaWorld("reach", 0, RENDERED)
    simulator.reset()
    low, high = project(simulator, np.array([0, 0.6, 0.0])), project(simulator, np.array([0, 0.6, 0.3]))
    assert high[0] < low[0] - 10
    frame = simulator.frame()
    simulator.close()
    for mirror, bgr in ((True, False), (False, True), (True, True)):
        other = MetaWorld("reach", 0, SimulatorSettings(render="fast", mirror=mirror, bgr=bgr))
        other.reset()
        assert np.array_equal(other.frame(), frame[:, :: -1 if mirror else 1, :: -1 if bgr else 1])
        other.close()


@pytest.mark.parametrize("quality", ["fast", "full"])
def test_only_the_centre_is_drawn_and_it_is_the_same_picture(quality: RenderQuality) -> None:
    """Against the 256 x 256 picture of a renderer of MuJoCo's own, cropped."""
    simulator = MetaWorld("drawer-close", 0, SimulatorSettings(render=quality))
    simulator.reset()
    frame = simulator.frame()
    model, data = simulator.env.model, simulator.env.data
    simulator.close()
    model.vis.global_.offwidth = model.vis.global_.offheight = PICTURE_SIZE
    scene = mujoco.MjvScene(model, maxgeom=2000)
    camera = mujoco.MjvCamera()
    camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, model.camera("corner2").id
    if quality == "fast":
        scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
    context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
    mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, camera, mujoco.mjtCatBit.mjCAT_ALL, scene)
    picture = np.empty((PICTURE_SIZE, PICTURE_SIZE, 3), np.uint8)
    rect = mujoco.MjrRect(0, 0, PICTURE_SIZE, PICTURE_SIZE)
    mujoco.mjr_render(rect, scene, context)
    mujoco.mjr_readPixels(picture, None, rect, context)
    context.free()
    upright = picture[::-1]  # as an image library would show the camera's own picture: upside down
    true = upright[::-1, ::-1][32:224, 32:224]
    # Edges may fall on the neighbouring pixel; the scene may not.
    assert (np.abs(true.astype(int) - frame).max(-1) > 8).mean() < 0.01


# -- what draws


@pytest.mark.parametrize(
    ("renderer", "training", "warned"),
    [
        ("llvmpipe (LLVM 15.0.6, 256 bits), EGL", "cuda", True),
        ("softpipe, OSMesa", "cuda", True),
        ("Software Rasterizer, GLFW", "cuda", True),
        ("NVIDIA H100 80GB HBM3/PCIe/SSE2, EGL", "cuda", False),
        ("AMD Radeon Graphics (radeonsi, navi21), EGL", "cuda", False),
        ("llvmpipe (LLVM 15.0.6, 256 bits), EGL", "cpu", False),
    ],
)
def test_software_beside_cuda(renderer: str, training: str, warned: bool) -> None:
    assert software_beside_cuda(renderer, training) == warned


def test_a_gpu_is_recognised_by_its_uuid_and_else_by_its_number() -> None:
    """EGL's order is not CUDA's, and CUDA's numbers are those that CUDA_VISIBLE_DEVICES leaves."""
    first, second, other = (UUID(int=number) for number in (1, 2, 3))
    devices = [EGLDevice(second, 0), EGLDevice(first, 1), EGLDevice(None, None)]
    assert (number_of(devices, first, 0), number_of(devices, second, 0)) == (1, 0)
    assert number_of(devices, other, 0) is None
    numbered = [EGLDevice(None, None), EGLDevice(None, 1), EGLDevice(None, 0)]
    assert (number_of(numbered, first, 0), number_of(numbered, first, 1)) == (2, 1)
    assert number_of([], first, 0) is None
    assert all(device == EGLDevice(None, None) for device in egl_devices()) or torch.cuda.is_available()


CODE = """
from furl_lightning.envs.rendering import NoGL, renderer_name
try:
    renderer_name()
except NoGL as error:
    print(error)
"""


@pytest.mark.parametrize("number", ["99", "abc", "-1"])
def test_a_device_that_is_not_there_is_one_line(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked against the number of EGL's devices before one is opened; no ignored exception's traceback."""
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", number)
    with pytest.raises(NoGL, match=rf"MUJOCO_EGL_DEVICE_ID must be (0|from 0 to \d+), not {number}: EGL has"):
        _refuse_device_that_is_not_there(len(egl_devices()))
    if number == "99":
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", CODE], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(r"MUJOCO_EGL_DEVICE_ID must be .*, not 99: EGL has .* here\n", done.stdout)


def test_a_run_says_what_draws(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """One line where frames are drawn, none where they are not."""
    run("drawn", data__env_steps=10)
    text = capsys.readouterr().err
    assert text.count(f"furl-fit: frames are drawn by {renderer_name()}") == 1 and "warning" not in text
    run("states", model__vlm="null", model__reward__source="task", model__relay__enabled="false", data__env_steps=10)
    assert "drawn by" not in capsys.readouterr().err
