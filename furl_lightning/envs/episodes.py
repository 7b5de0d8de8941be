"""Rendered episodes with the simulator's state beside each frame.

Played by whatever chooses actions: a trained agent, or a scripted expert, left alone, disturbed,
interrupted or stopped. Every episode follows from its seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from furl_lightning.envs.simulator import Simulator, SimulatorSettings, Step
from furl_lightning.envs.simulators import make_simulator
from furl_lightning.tasks import EPISODE_STEPS, METAWORLD
from furl_lightning.utils.errors import BadInput

Manner = Literal["expert", "noisy", "interrupted", "halted", "random"]
Act = Callable[[int, np.ndarray], np.ndarray]
"""Chooses an action [action] from the number of steps taken and the observation [obs]."""

MAX_STEPS = 220
"""Environment steps of an expert's episode at most; they succeed after 45-95 on MT10."""
AFTER_SUCCESS = 36
"""Environment steps that an expert's episode goes on after its first success."""


class NoExpert(BadInput):
    """An expert's episode was to be played where there is no scripted expert."""


@dataclass
class Episode:
    """Frames of one episode, in order, and the state that each shows; T frames."""

    frames: np.ndarray  # uint8 [T, size, size, 3]
    step: np.ndarray  # int32 [T]: environment steps taken before the frame
    success: np.ndarray  # bool [T]
    reward: np.ndarray  # float32 [T]: the environment's dense reward of the step before the frame (Meta-World: 0 to 10)
    observation: np.ndarray  # float32 [T, obs]
    action: np.ndarray  # float32 [T, action]: taken from there, NaN after the last step
    state: dict[str, np.ndarray] = field(default_factory=dict)
    """What else is known of each frame's moment, [T, ...]; Meta-World: see :meth:`MetaWorld.state`."""

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
        settings: of the simulator; an expert's episode may be as long as the environment's own.
        manner: ``expert``: undisturbed; ``noisy``: Gaussian noise of a strength drawn for the
            episode; ``interrupted``: random actions for a while, then the expert goes on;
            ``halted``: the expert stops halfway for good; ``random``: no expert at all.
        every: environment steps between frames.
        size: height and width of the frames kept; None keeps the renderer's.
        skipped: placements of the seed that are passed over; only with random goals there is more than one.

    Raises:
        NoExpert: there is no expert, and the manner needs one.
    """
    settings = replace(settings, render=settings.render or "fast")
    simulator = make_simulator(task, seed, whole(settings), show_goal=True)
    try:
        for _ in range(skipped):
            simulator.reset()
        random = np.random.default_rng([seed, *manner.encode()])
        act = disturbed(simulator.expert, manner, random, settings.action_dim)
        steps = min(MAX_STEPS, simulator.settings.episode_steps)
        episode = play(simulator, act, range(0, steps + 1, every), steps, AFTER_SUCCESS)
    finally:
        simulator.close()
    if size is not None:
        episode.frames = resize_frames(episode.frames, size)
    return episode


def whole(settings: SimulatorSettings) -> SimulatorSettings:
    """The same simulators with episodes that leave an expert its time, each action for one step."""
    steps = EPISODE_STEPS if settings.simulator == METAWORLD else settings.episode_steps
    return replace(settings, episode_steps=steps, action_repeat=1)


def disturbed(
    expert: Callable[[np.ndarray], np.ndarray | None], manner: Manner, random: np.random.Generator, action_dim: int = 4
) -> Act:
    """An expert's actions in a manner; see :func:`record`."""
    noise = random.uniform(0.1, 0.9) if manner == "noisy" else 0.0
    begin = int(random.integers(10, 70))
    end = {"interrupted": begin + int(random.integers(20, 60)), "halted": MAX_STEPS}.get(manner, begin)
    if manner == "random":
        begin, end = 0, MAX_STEPS
    wandering = np.zeros(action_dim, np.float32)

    def act(step: int, observation: np.ndarray) -> np.ndarray:
        nonlocal wandering
        if begin <= step < end:
            # One random action holds for a while, for single ones cancel out and the arm stays.
            if (step - begin) % 8 == 0:
                wandering = random.uniform(-1, 1, action_dim).astype(np.float32)
            return wandering * (0.2 if manner == "halted" else 1.0)
        action = expert(observation)
        if action is None:
            raise NoExpert("there is no scripted expert")
        return action + noise * random.standard_normal(action_dim).astype(np.float32)

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
    step_given = Step(simulator.reset(), 0.0, False, False)
    rows: list[dict[str, Any]] = []
    max_steps = simulator.settings.episode_steps if max_steps is None else max_steps
    left = max_steps
    succeeded = False
    for step in range(max_steps + 1):
        observation, reward, success, _ = step_given
        row = None
        if step in frame_steps or (success and not succeeded):
            row = {
                "frames": simulator.frame(),
                "step": np.int32(step),
                "success": success,
                "reward": np.float32(reward),
                "observation": np.float32(observation),
                "action": np.full(simulator.settings.action_dim, np.nan, np.float32),
                **simulator.state(observation),
            }
            rows.append(row)
        if success and not succeeded and after_success is not None:
            left = min(left, step + after_success)
        succeeded = succeeded or success
        if step >= left:
            break
        action = np.clip(act(step, observation), -1, 1)
        if row is not None:
            row["action"] = np.float32(action)
        step_given = simulator.one_step(action)
    columns = {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
    for name in {"to_target", "reward"} & columns.keys() if len(rows) > 1 else ():
        columns[name][0] = columns[name][1]  # nothing is known before the first step
    known = ("frames", "step", "success", "reward", "observation", "action")
    return Episode(**{name: columns.pop(name) for name in known}, state=columns)


def goal_image(task: str, seed: int, settings: SimulatorSettings, skipped: int = 0) -> np.ndarray | None:
    """The goal image, uint8 [size, size, 3]: the frame at the expert's first success, or the environment's own.

    The placement is the one that an agent of this task and seed meets in its first episode, or, with random goals,
    after so many that are ``skipped``.
    None if there is no expert, or it does not succeed within one of the environment's whole episodes.
    """
    simulator = make_simulator(task, seed, whole(settings), show_goal=True)
    try:
        for _ in range(skipped):
            simulator.reset()
        observation = simulator.reset()
        image = simulator.goal_image()
        for _ in range(simulator.settings.episode_steps if image is None else 0):
            action = simulator.expert(observation)
            if action is None:
                break
            step = simulator.step(action)
            if step.success:
                return simulator.frame()
            observation = step.observation
        return image
    finally:
        simulator.close()
