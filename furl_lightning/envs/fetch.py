"""The Fetch robot's four tasks of Gymnasium-Robotics, and a scripted expert for each."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np

from furl_lightning.envs.gymnasium import INSTALL, Gymnasium
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.nearest import nearest
from furl_lightning.utils.user_module import NoModule, import_module

IDS = {
    "reach": "FetchReach-v4",
    "push": "FetchPush-v4",
    "slide": "FetchSlide-v4",
    "pick-and-place": "FetchPickAndPlace-v4",
}

CAMERA = {"distance": 1.3, "azimuth": 132.0, "elevation": -20.0, "lookat": np.array([1.34, 0.75, 0.5])}
"""Degrees and metres: half as far from the table as the environments' own, whose goal is three pixels of 128."""
CAMERA_OF_SLIDE = {**CAMERA, "distance": 1.8, "lookat": np.array([1.35, 0.75, 0.45])}
STEP = 0.05
"""Metres that a whole action moves the gripper."""


class Fetch(Gymnasium):
    """One of the Fetch robot's tasks, with the goal in the observation, and the distance to it as dense reward.

    An action is the gripper's motion along x, y and z, five centimetres at most, and the opening of its fingers.

    Args:
        task: one of ``tasks``.

    Raises:
        BadInput: there is no such task, or Gymnasium-Robotics is not installed.
    """

    tasks = {
        "reach": "move the gripper to the red ball",
        "push": "push the block to the red ball",
        "slide": "hit the puck so that it slides to the red ball",
        "pick-and-place": "pick up the block and hold it at the red ball",
    }

    def __init__(self, task: str) -> None:
        if task not in IDS:
            raise BadInput(f"unknown task '{task}'; the nearest is '{nearest(task, list(IDS))}'")
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # an announcement on Adroit's rewards
                import_module("gymnasium_robotics")
        except NoModule:
            raise BadInput(f"Fetch needs gymnasium-robotics: {INSTALL}") from None
        make = {"reward_type": "dense", "default_camera_config": CAMERA_OF_SLIDE if task == "slide" else CAMERA}
        super().__init__(task, {task: f"gymnasium_robotics:{IDS[task]}"}, "is_success", make)
        self.expert = EXPERTS.get(task)

    def goal_image(self) -> np.ndarray | None:
        """Where there is no expert: a picture of the object at the goal, uint8 [H, W, 3]."""
        if self.expert is not None:
            return None
        unwrapped: Any = self._env.unwrapped
        data = unwrapped.data
        unwrapped.data = copy.copy(data)
        unwrapped.data.joint("object0:joint").qpos[:3] = unwrapped.goal
        picture = self.frame()
        unwrapped.data = data
        return picture


# -- the experts, each of the observation alone: gripper, object, what is between them, fingers, ..., goal


def reach(observation: np.ndarray) -> np.ndarray:
    """To the goal; float32 [4] for an observation [16]."""
    return _action(observation[-3:] - observation[:3])


def push(observation: np.ndarray) -> np.ndarray:
    """Over the block to its side that is away from the goal, down, and on; float32 [4] for an observation [31]."""
    gripper, block, goal = observation[:3], observation[3:6], observation[-3:]
    left = float(np.linalg.norm(goal[:2] - block[:2]))
    if left < 0.015:
        return _action(np.zeros(3))
    ahead = (goal[:2] - block[:2]) / left
    from_block = gripper[:2] - block[:2]
    along = float(from_block @ ahead)
    aside = from_block - along * ahead
    down = block[2] - gripper[2]
    start = block[:2] - 0.09 * ahead - gripper[:2]
    if along < -0.03 and np.linalg.norm(aside) < 0.02:
        if gripper[2] > block[2] + 0.02:
            return _action(np.append(start, down))
        return _action(np.append(min(left, 0.04) * ahead - aside, down))
    clear = block[2] + 0.08 - gripper[2]
    if clear > 0.03:
        return _action(np.array([0, 0, clear]))
    return _action(np.append(start, clear))


def pick_and_place(observation: np.ndarray) -> np.ndarray:
    """Over the block, down, close, and to the goal; float32 [4] for an observation [31]."""
    gripper, to_block, goal = observation[:3], observation[6:9], observation[-3:]
    fingers = observation[9:11].sum()
    if np.linalg.norm(to_block[:2]) > 0.02:
        return _action(to_block + np.array([0, 0, 0.06]), 1)
    if to_block[2] < -0.012:
        return _action(to_block, 1)
    if fingers > 0.053:
        return _action(to_block, -1)
    return _action(goal - gripper - to_block, -1)


def _action(way: np.ndarray, fingers: float = 0.0) -> np.ndarray:
    """An action [4] that goes a way [3], metres, and opens (1) or closes (-1) the fingers."""
    return np.clip(np.append(way / STEP, fingers), -1, 1).astype(np.float32)


EXPERTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "reach": reach,
    "push": push,
    "pick-and-place": pick_and_place,
}
