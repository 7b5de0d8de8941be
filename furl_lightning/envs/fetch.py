"""The Fetch robot's four tasks of Gymnasium-Robotics, and a scripted expert for each."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable

import numpy as np

from furl_lightning.envs.gymnasium import INSTALL, Gymnasium
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.nearest import nearest

IDS = {
    "reach": "FetchReach-v4",
    "push": "FetchPush-v4",
    "slide": "FetchSlide-v4",
    "pick-and-place": "FetchPickAndPlace-v4",
}


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
                importlib.import_module("gymnasium_robotics")
        except ModuleNotFoundError as error:
            if error.name != "gymnasium_robotics":
                raise
            raise BadInput(f"Fetch needs gymnasium-robotics: {INSTALL}") from None
        super().__init__(task, {task: f"gymnasium_robotics:{IDS[task]}"}, "is_success", {"reward_type": "dense"})
        self.expert = EXPERTS.get(task)


def reach(observation: np.ndarray) -> np.ndarray:
    """The expert of reach: straight to the goal; float32 [4] for an observation [16]."""
    return _action(observation[-3:] - observation[:3], 0.0)


def _action(way: np.ndarray, fingers: float) -> np.ndarray:
    """An action [4] that goes a way [3], metres, and opens (1) or closes (-1) the fingers."""
    return np.clip(np.append(way / 0.05, fingers), -1, 1).astype(np.float32)


EXPERTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"reach": reach}
