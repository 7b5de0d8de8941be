"""Rendered Meta-World episodes with the simulator's state beside each frame.

Played by whatever chooses actions: a trained agent, or a scripted expert, left alone, disturbed,
interrupted or stopped. Every episode follows from its seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from furl_lightning.envs.simulator import ACTION_DIM, Expert, Simulator, SimulatorSettings
from furl_lightning.tasks import EPISODE_STEPS

Manner = Literal["expert", "noisy", "interrupted", "halted", "random"]
Act = Callable[[int, np.ndarray], np.ndarray]
"""Chooses an action [4] from the number of steps taken and the observation [39]."""

MAX_STEPS = 220
"""Environment steps of an expert's episode at most; they succeed after 45-95 on MT10."""
AFTER_SUCCESS = 36
"""Environment steps that an expert's episode goes on after its first success."""
SAME_OBJECT = ("reach-wall", "reach")
"""Tasks whose object is the goal itself: the puck on the table is only in the way."""


@dataclass
class Episode:
    """Frames of one episode, in order, and the state that each shows; T frames."""

    frames: np.ndarray  # uint8 [T, size, size, 3]
    step: np.ndarray  # int32 [T]: environment steps taken before the frame
    success: np.ndarray  # bool [T]
    hand: np.ndarray  # float32 [T, 3]: the gripper, metres
    opening: np.ndarray  # float32 [T]: of the gripper, 0 (closed) to 1
    object: np.ndarray  # float32 [T, 3]: what the gripper has to get at, metres
    goal: np.ndarray  # float32 [T, 3]: where the object has to go, metres
    to_target: np.ndarray  # float32 [T]: what is left of the object's way, metres, as the task measures it
    reward: np.ndarray  # float32 [T]: Meta-World's dense reward of the step before the frame, 0 to 10
    observation: np.ndarray  # float32 [T, 39]
    action: np.ndarray  # float32 [T, 4]: taken from there, NaN after the last step

    def first_success(self) -> int | None:
        """Index of the first frame that shows success, or None."""
        return int(self.success.argmax()) if self.success.any() else None


def resize_frames(frames: np.ndarray, size: int) -> np.ndarray:
    """Resize frames [T, H, W, 3] to [T, size, size, 3] as the model's preprocessing does."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    pixels = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    return pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def record(
    task: str,
    seed: int,
    settings: SimulatorSettings,
    manner: Manner,
    every: int = 3,
    size: int | None = None,
    skipped: int = 0,
) -> Episode:
    """Play a scripted expert's episode; draw every ``every``-th step, the first state and the first success.

    Args:
        task: a name from the catalogue.
        seed: of the placement and of whatever disturbs the expert.
        settings: of the simulator; an expert's episode may be as long as Meta-World's own.
        manner: ``expert``: undisturbed; ``noisy``: Gaussian noise of a strength drawn for the
            episode; ``interrupted``: random actions for a while, then the expert goes on;
            ``halted``: the expert stops halfway for good; ``random``: no expert at all.
        every: environment steps between frames.
        size: height and width of the frames kept; None keeps the renderer's.
        skipped: placements of the seed that are passed over; only with random goals there is more than one.
    """
    whole = replace(settings, render=settings.render or "fast", episode_steps=EPISODE_STEPS, action_repeat=1)
    simulator = Simulator(task, seed, whole, show_goal=True)
    try:
        for _ in range(skipped):
            simulator.reset()
        act = disturbed(Expert(task), manner, np.random.default_rng([seed, *manner.encode()]))
        episode = play(simulator, act, range(0, MAX_STEPS + 1, every), MAX_STEPS, AFTER_SUCCESS)
    finally:
        simulator.close()
    if size is not None:
        episode.frames = resize_frames(episode.frames, size)
    return episode


def disturbed(expert: Expert, manner: Manner, random: np.random.Generator) -> Act:
    """An expert's actions in a manner; see :func:`record`."""
    noise = random.uniform(0.1, 0.9) if manner == "noisy" else 0.0
    begin = int(random.integers(10, 70))
    end = {"interrupted": begin + int(random.integers(20, 60)), "halted": MAX_STEPS}.get(manner, begin)
    if manner == "random":
        begin, end = 0, MAX_STEPS
    wandering = np.zeros(ACTION_DIM, np.float32)

    def act(step: int, observation: np.ndarray) -> np.ndarray:
        nonlocal wandering
        if begin <= step < end:
            # One random action holds for a while, for single ones cancel out and the arm stays.
            if (step - begin) % 8 == 0:
                wandering = random.uniform(-1, 1, ACTION_DIM).astype(np.float32)
            return wandering * (0.2 if manner == "halted" else 1.0)
        return expert.action(observation) + noise * random.standard_normal(ACTION_DIM).astype(np.float32)

    return act


def play(
    simulator: Simulator,
    act: Act,
    frame_steps: Container[int],
    max_steps: int | None = None,
    after_success: int | None = None,
) -> Episode:
    """Play one episode from a reset on.

    Args:
        simulator: made with a renderer.
        act: chooses the actions, which are clipped to [-1, 1].
        frame_steps: numbers of steps after which a frame is kept; the first success is kept too.
        max_steps: length of the episode, at most the simulator's, which is the default.
        after_success: steps that it goes on after its first success; None: to its end.
    """
    observation = simulator.reset()
    rows: list[dict[str, object]] = []
    info: dict[str, float] = {}
    max_steps = simulator.settings.episode_steps if max_steps is None else max_steps
    left = max_steps
    succeeded = False
    for step in range(max_steps + 1):
        success = bool(info.get("success", False))
        row = None
        if step in frame_steps or (success and not succeeded):
            row = _row(simulator, observation, step, success, info)
            rows.append(row)
        if success and not succeeded and after_success is not None:
            left = min(left, step + after_success)
        succeeded = succeeded or success
        if step >= left:
            break
        action = np.clip(act(step, observation), -1, 1)
        if row is not None:
            row["action"] = np.float32(action)
        observation, _, _, _, info = simulator.env.step(action)
    columns = {field.name: np.stack([np.asarray(row[field.name]) for row in rows]) for field in fields(Episode)}
    if len(rows) > 1:  # nothing is known before the first step
        columns["to_target"][0] = columns["to_target"][1]
        columns["reward"][0] = columns["reward"][1]
    return Episode(**columns)


def _row(
    simulator: Simulator, observation: np.ndarray, step: int, success: bool, info: dict[str, float]
) -> dict[str, object]:
    hand, goal = observation[:3], np.asarray(simulator.env._target_pos)
    thing = goal if simulator.task in SAME_OBJECT else observation[4:7]
    return {
        "frames": simulator.frame(),
        "step": np.int32(step),
        "success": success,
        "hand": np.float32(hand),
        "opening": np.float32(observation[3]),
        "object": np.float32(thing),
        "goal": np.float32(goal),
        "to_target": np.float32(distance_to_target(simulator.task, info, thing, goal)),
        "reward": np.float32(info.get("unscaled_reward", 0.0)),
        "observation": np.float32(observation),
        "action": np.full(ACTION_DIM, np.nan, np.float32),
    }


def distance_to_target(task: str, info: dict[str, float], thing: np.ndarray, goal: np.ndarray) -> float:
    """What is left of the object's way, metres: the task's own measure of the last step, where it has one."""
    measured = info.get("obj_to_target", 0.0)
    if measured == 0.0 or task == "lever-pull":  # four do not measure it, this one measures otherwise
        return float(np.linalg.norm(thing - goal))
    return measured
