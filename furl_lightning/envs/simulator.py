"""What a fleet hosts for each agent: an environment with its seeds, the length of its episodes, and its picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from furl_lightning.pictures import FRAME_SIZE, RenderQuality
from furl_lightning.tasks import EPISODE_STEPS, METAWORLD

GoalMode = Literal["fixed", "random"]
OBS_DIM = 39
ACTION_DIM = 4
"""Of Meta-World's observations and actions."""


@dataclass(frozen=True)
class SimulatorSettings:
    """What all simulators of a population have in common."""

    goal: GoalMode = "fixed"
    """``fixed``: each episode begins in the same placement, which follows from the seed; Meta-World's goal is hidden
    from the observation (its last three entries are 0). ``random``: placed anew at every reset, goal observed."""
    render: RenderQuality | None = None
    """Picture quality, or None to make no renderer, and so no OpenGL context."""
    mirror: bool = False
    bgr: bool = False
    """See :class:`~furl_lightning.envs.rendering.Renderer`."""
    episode_steps: int = EPISODE_STEPS
    """Length of an episode, at most the environment's own."""
    size: int = field(default=FRAME_SIZE, repr=False)  # checkpoints have the text of the others: training/identity.py
    """Height and width of a frame, pixels."""
    action_repeat: int = field(default=1, repr=False)
    """Steps that :meth:`Simulator.step` takes with one action; divides an episode."""
    camera: str | None = field(default=None, repr=False)
    """Of the model; None: the environment's usual one."""
    simulator: str = field(default=METAWORLD, repr=False)
    """The name or import path of the environment's class."""
    options: dict[str, Any] = field(default_factory=dict, repr=False, hash=False)
    """Arguments of that class."""
    observation_dim: int = field(default=OBS_DIM, repr=False)
    """Numbers in an observation; where an environment's own has fewer, zeros follow."""
    action_dim: int = field(default=ACTION_DIM, repr=False)

    @property
    def episode_actions(self) -> int:
        """Actions of an episode."""
        return self.episode_steps // self.action_repeat


class Step(NamedTuple):
    """What one action gives, an environment step or several of them."""

    observation: np.ndarray  # float32 [observation_dim], after the action
    reward: float  # the environment's dense reward, summed over the steps
    success: bool  # after the last of them, as the observation shows it
    truncated: bool  # the episode's steps are over; none ends before


class Simulator(ABC):
    """One agent's environment.

    Args:
        task: its name.
        seed: all placements follow from it.
        settings: goal mode, picture, length of an episode.
    """

    def __init__(self, task: str, seed: int, settings: SimulatorSettings) -> None:
        self.task, self.seed, self.settings = task, seed, settings

    @abstractmethod
    def reset(self) -> np.ndarray:
        """Begin an episode; returns the observation, float32 [observation_dim]."""

    @abstractmethod
    def one_step(self, action: np.ndarray) -> Step:
        """Take one environment step; the observation may be float64."""

    def step(self, action: np.ndarray) -> Step:
        """Take one action in [-1, 1], float32 [action_dim], for as many environment steps as an action is repeated."""
        total = 0.0
        for _ in range(self.settings.action_repeat):
            step = self.one_step(action)
            total += step.reward
        return step._replace(observation=step.observation.astype(np.float32), reward=total)

    @abstractmethod
    def frame(self, out: np.ndarray | None = None) -> np.ndarray:
        """The present frame, uint8 [size, size, 3]; into ``out`` if given."""

    @abstractmethod
    def expert(self, observation: np.ndarray) -> np.ndarray | None:
        """The scripted expert's action, float32 [action_dim] in [-1, 1], for an observation; None: there is none."""

    def goal_image(self) -> np.ndarray | None:
        """After a reset: a frame of this placement in success, where one is at hand without an expert."""
        return None

    def state(self, observation: np.ndarray) -> dict[str, Any]:
        """What else is known of this moment, whose observation is given, to be kept beside a frame."""
        return {}

    @abstractmethod
    def random_state(self) -> dict[str, Any]:
        """The generator's state as plain Python numbers; with a reset it restores the simulator."""

    @abstractmethod
    def set_random_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`random_state` gave; takes effect at the next reset."""

    @abstractmethod
    def close(self) -> None:
        """Free what draws."""
