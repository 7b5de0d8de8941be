"""The contract of an environment: what a class must have to be given as ``data.env.simulator``.

    class Push(Environment):
        tasks = {"push": "push the puck into the hole"}
        observation_dim, action_dim, episode_steps = 6, 2, 100

        def __init__(self, task): ...
        def reset(self, seed): ...                    # -> observation
        def step(self, action): ...                   # -> observation, reward, success
        def frame(self): ...                          # -> picture

An environment is made once for each agent, in the process that hosts it, and then begins one episode after another. All
agents' episodes have the same length: there is no end before. docs/own_task.md is an example from end to end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from furl_lightning.pictures import FRAME_SIZE, RenderQuality


@dataclass(frozen=True)
class Picture:
    """What an environment's pictures are to be like, as far as it can do that."""

    size: int = FRAME_SIZE
    """Height and width in pixels; a picture of another size is cut to its central square and resized."""
    quality: RenderQuality = "fast"
    """``data.env.render``."""
    camera: str | None = None
    """``data.env.camera``, a camera of the model; None: the environment's usual one."""


class Environment(ABC):
    """One task's environment. The constructor takes the task's name, and as keywords what ``data.env.options`` says.

    Nothing may depend on Python's or NumPy's global generators, but on the seed of the reset alone: a run that is
    resumed plays the episode that it was in again, from its seed and its actions. Whether that gives the same
    observations is tried when a run begins; where it does not, the run can be stopped and resumed between two
    episodes only.
    """

    tasks: ClassVar[dict[str, str]] = {}
    """The names of the tasks, and the sentence of each. Where it is empty any name will do, if the constructor takes
    it, and ``data.prompts`` must have its sentence."""
    observation_dim: int
    """Numbers in an observation. Agents that are trained together may differ: zeros make up for it."""
    action_dim: int
    """Numbers in an action, the same for all agents that are trained together."""
    episode_steps: int
    """Steps of an episode at most; ``data.env.episode_steps`` may be less."""
    picture: Picture = Picture()
    """Set by whoever is to have pictures, before the first one."""

    @abstractmethod
    def reset(self, seed: int) -> np.ndarray:
        """Begin an episode whose placement, and all that is random in it, follows from the seed.

        With ``data.env.goal`` fixed the seed is the agent's, each time; with random goals it is another each time.

        Returns:
            The observation, [observation_dim] finite numbers. It holds the goal, if the agent is to know it.
        """

    @abstractmethod
    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """Take an action, float32 [action_dim] in [-1, 1].

        Returns:
            The observation after it; the task's own dense reward, for ``data.env.reward dense`` (else 0.0 will do);
            whether the task is in success now.
        """

    @abstractmethod
    def frame(self) -> np.ndarray:
        """A picture of this moment, uint8 [H, W, 3], red, green, blue; row 0 is the top. See :attr:`picture`."""

    def goal_image(self) -> np.ndarray | None:
        """After a reset: a picture of this placement with the task in success, uint8 [H, W, 3], where one is at hand.

        Without one it is the frame of the expert's first success, if there is an expert.
        """
        return None

    expert: Any = None
    """A method ``expert(observation) -> action`` [action_dim] that solves the task, where there is one."""
    observation_names: Sequence[str] | None = None
    action_names: Sequence[str] | None = None
    steps_per_second: float | None = None
    """For the contract beside an exported policy: the entries in words, and how often a step is taken, in Hz."""

    def close(self) -> None:  # noqa: B027  # most have nothing to free
        """Free what it holds."""
