"""The frames that the embedded vision-language model is trained on: drawn once, then read from a folder.

A placement, one task and one seed, is played in several manners and seen in several looks. Frames of one look make a
*scene*: every one can be compared to every other, a random episode's to an expert's success too. In some frames
the object was put elsewhere just for the picture, so that the gripper alone does not tell where it is.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import mujoco
import numpy as np
from embedded_vlm_looks import Look
from tqdm import tqdm

from furl_lightning.envs.episodes import MAX_STEPS, Act, Manner, disturbed
from furl_lightning.envs.goal_markers import mark_goal
from furl_lightning.envs.metaworld import SAME_OBJECT, Expert, MetaWorld, distance_to_target
from furl_lightning.envs.rendering import PICTURE_SIZE, Renderer, close_gl
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.pictures import FRAME_SIZE
from furl_lightning.tasks import TASK_SETS
from furl_lightning.utils.durable import write_file

TRAINING_TASKS = TASK_SETS["mt50"][10:]
"""The tasks outside MT10; of MT10 no frame is ever trained on."""
FIRST_SEED = 20_000
"""Of the placements; the seeds below it are for measuring."""
SIZE = 128
"""Height and width of a frame as it is drawn; the model sees the centre of it."""
PLACEMENTS = 5
"""In one file."""
LOOKS = 4
"""Of a placement; its frames take turns, and a first success is drawn in all of them."""
MANNERS: tuple[tuple[Manner, int, int | None], ...] = (
    ("expert", 2, 12),
    ("noisy", 4, 12),
    ("random", 5, None),
)
"""Episodes of a placement: manner, environment steps between frames, steps after the first success (the random one
goes on to its end). Every other noisy one is interrupted or halted instead."""
DISPLACED = 0.25
"""Share of frames whose object is put elsewhere."""
ROBOT = ("right_j", "r_close", "l_close")
"""How the names of the robot's joints begin."""

FRAME = np.dtype(
    [
        ("pixels", np.uint8, (SIZE, SIZE, 3)),
        ("scene", np.int32),  # another for each seed and look
        ("episode", np.uint8),  # of the placement
        ("step", np.int16),  # environment steps taken before the frame
        ("success", np.bool_),
        ("expert", np.bool_),
        ("as_simulated", np.bool_),  # the task's own objects, and where the simulator has them
        ("hand", np.float32, (3,)),  # the gripper, metres
        ("opening", np.float32),  # of the gripper, 0 to 1
        ("object", np.float32, (3,)),  # what the gripper has to get at, as drawn, metres
        ("goal", np.float32, (3,)),  # as drawn, metres
        ("to_target", np.float32),  # what is left of the object's way, metres
    ]
)
"""One frame and what it shows."""


class LookRenderer(Renderer):
    """Draws with a look, which is to be set before the first frame; ``thing`` before every one."""

    look: Look
    thing: np.ndarray

    def update_scene(self, data: mujoco.MjData) -> None:
        """Fill the scene, and put the look on."""
        super().update_scene(data)
        self.look.put_on(self.scene, self.thing)


def file_names(parts: int, tasks: Sequence[str] = TRAINING_TASKS) -> list[str]:
    """The names of the files of frames, by parts, so that a run that was cut short has some of every task."""
    return [f"{task}-{part}.npy" for part in range(parts) for task in tasks]


def missing_files(folder: Path, parts: int) -> list[str]:
    """Those that ``folder`` lacks."""
    return [name for name in file_names(parts) if not (folder / name).exists()]


def make_frames(folder: Path, parts: int, processes: int) -> None:
    """Draw ``parts`` files of every training task into ``folder``; those that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = missing_files(folder, parts)
    paths = [folder / name for name in missing]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for _ in tqdm(pool.imap_unordered(_make_file, paths), "frames", len(paths), unit="file", mininterval=5):
            pass


def _make_file(path: Path) -> None:
    task, _, part = path.stem.rpartition("-")
    first = FIRST_SEED + int(part) * PLACEMENTS
    frames = [play_placement(task, seed) for seed in range(first, first + PLACEMENTS)]
    write_file(path, lambda part: _save(part, np.concatenate(frames)))
    close_gl()


def _save(path: Path, frames: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, frames)


def play_placement(task: str, seed: int) -> np.ndarray:
    """All frames of a placement, :data:`FRAME` [F]."""
    random = np.random.default_rng([seed, *task.encode()])
    simulator = MetaWorld(task, seed, SimulatorSettings(), show_goal=True)
    renderer = LookRenderer(simulator.env.model, "light", SIZE)
    episodes = []
    try:
        simulator.reset()
        thing = _thing(simulator, simulator.env.data)
        looks = [Look(simulator.env.model, thing, random) for _ in range(LOOKS)]
        for number, (manner, every, after_success) in enumerate(MANNERS):
            if manner == "noisy" and random.random() < 0.5:
                manner = "halted" if random.random() < 0.3 else "interrupted"
            act = disturbed(Expert(task).action, manner, random)
            episodes.append(play_episode(simulator, renderer, looks, act, every, after_success, random))
            episodes[-1]["episode"], episodes[-1]["expert"] = number, manner == "expert"
    finally:
        renderer.close()
    frames = np.concatenate(episodes)
    frames["scene"] += LOOKS * seed
    return frames


def play_episode(
    simulator: MetaWorld,
    renderer: LookRenderer,
    looks: Sequence[Look],
    act: Act,
    every: int,
    after_success: int | None,
    random: np.random.Generator,
) -> np.ndarray:
    """Frames of one episode, :data:`FRAME` [F]; its number, its manner and the placement are left to fill in.

    Args:
        simulator: shows the goal to the expert, and has no renderer of its own.
        renderer: has none of its own looks.
        looks: the placement's.
        act: chooses the actions.
        every: environment steps between frames; the first success is drawn too.
        after_success: steps that it goes on after the first success; None: to its end.
        random: chooses the frames whose object is displaced, and where to.
    """
    observation = simulator.reset()
    drawn = mujoco.MjData(simulator.env.model)
    copy_state(simulator, drawn)
    mark_goal(simulator.task, simulator.env, drawn)
    rows: list[np.ndarray] = []
    info: dict[str, float] = {}
    succeeded, last = False, MAX_STEPS
    for step in range(MAX_STEPS + 1):
        success = bool(info.get("success", False))
        first = success and not succeeded
        if step % every == 0 or first:
            for number in range(LOOKS) if first else [step // every % LOOKS]:
                row = np.zeros((), FRAME)
                copy_state(simulator, drawn)
                displaced = random.random() < DISPLACED and not first
                if displaced:
                    displace(simulator.env.model, drawn, random)
                renderer.look, renderer.thing = looks[number], _thing(simulator, drawn)
                goal = np.asarray(simulator.env._target_pos)
                row["pixels"] = renderer.render(drawn)
                row["scene"], row["step"], row["success"] = number, step, success
                row["hand"], row["opening"] = observation[:3], observation[3]
                row["object"], row["goal"] = renderer.look.moved(renderer.thing), renderer.look.moved(goal)
                row["to_target"] = distance_to_target(simulator.task, info, renderer.thing, goal)
                row["as_simulated"] = renderer.look.as_simulated and not displaced
                rows.append(row)
        if success and not succeeded and after_success is not None:
            last = min(last, step + after_success)
        succeeded = succeeded or success
        if step >= last:
            break
        observation, _, _, _, info = simulator.env.step(np.clip(act(step, observation), -1, 1))
    episode = np.stack(rows)
    episode["to_target"][0] = episode["to_target"][1]  # nothing is known before the first step
    return episode


def copy_state(simulator: MetaWorld, data: mujoco.MjData) -> None:
    """Bring ``data`` to the simulator's state, all positions up to date."""
    model, kind = simulator.env.model, mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, simulator.env.data, state, kind)
    mujoco.mj_setState(model, data, state, kind)
    mujoco.mj_forward(model, data)


def displace(model: mujoco.MjModel, data: mujoco.MjData, random: np.random.Generator) -> None:
    """Put what is not the robot elsewhere: free bodies by up to 0.3 m, hinges and slides anywhere in their range."""
    for joint in range(model.njnt):
        if model.joint(joint).name.startswith(ROBOT):
            continue
        at = model.jnt_qposadr[joint]
        if model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_FREE:
            data.qpos[at : at + 2] += random.uniform(-0.3, 0.3, 2)
            data.qpos[at + 2] += random.choice([0.0, random.uniform(0, 0.25)])
        else:
            low, high = model.jnt_range[joint] if model.jnt_limited[joint] else (-1.0, 1.0)
            data.qpos[at] = random.uniform(low, high)
    mujoco.mj_forward(model, data)


def _thing(simulator: MetaWorld, data: mujoco.MjData) -> np.ndarray:
    """Where ``data`` has what the gripper has to get at, [3], metres."""
    if simulator.task in SAME_OBJECT:
        return np.array(simulator.env._target_pos)
    present, simulator.env.data = simulator.env.data, data
    try:
        return np.array(simulator.env._get_pos_objects()[:3])
    finally:
        simulator.env.data = present


def pixels_of(places: np.ndarray) -> np.ndarray:
    """Where in a frame places [N, 3] in metres are seen: row and column [N, 2] in pixels."""
    position, rotation, fovy = _camera()
    x, y, z = rotation.T @ (places - position).T
    focal = 0.5 * PICTURE_SIZE / np.tan(np.deg2rad(fovy) / 2)
    # The camera hangs upside down, and the frame is the picture's centre.
    whole = np.column_stack([PICTURE_SIZE / 2 - focal * y / z, PICTURE_SIZE / 2 + focal * x / z])
    return (whole - (PICTURE_SIZE - FRAME_SIZE) / 2) * SIZE / FRAME_SIZE


@cache
def _camera() -> tuple[np.ndarray, np.ndarray, float]:
    """Position [3], rotation [3, 3] and vertical field of view in degrees, the same in all tasks."""
    env = MetaWorld(TRAINING_TASKS[0], 0).env
    env.reset()
    camera = env.model.camera("corner2").id
    position, rotation = env.data.cam_xpos[camera], env.data.cam_xmat[camera].reshape(3, 3)
    return position.copy(), rotation.copy(), float(env.model.cam_fovy[camera])
