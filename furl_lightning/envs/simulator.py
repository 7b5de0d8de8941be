"""One Meta-World task: placement from a seed, sparse success, frames, and its scripted expert."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP

from furl_lightning.envs.goal_markers import mark_goal
from furl_lightning.envs.rendering import Renderer
from furl_lightning.pictures import FRAME_SIZE, RenderQuality
from furl_lightning.tasks import EPISODE_STEPS

GoalMode = Literal["fixed", "random"]
OBS_DIM = 39
ACTION_DIM = 4


@dataclass(frozen=True)
class SimulatorSettings:
    """What all simulators of a population have in common."""

    goal: GoalMode = "fixed"
    """``fixed``: object and goal are placed once, from the seed, and the goal is hidden from the observation (its last
    three entries are 0). ``random``: placed anew at every reset, and the goal is observed."""
    render: RenderQuality | None = None
    """Picture quality, or None to make no renderer, and so no OpenGL context."""
    mirror: bool = False
    bgr: bool = False
    """See :class:`~furl_lightning.envs.rendering.Renderer`."""
    episode_steps: int = EPISODE_STEPS
    """Length of an episode, at most Meta-World's own."""
    size: int = field(default=FRAME_SIZE, repr=False)  # checkpoints have the text of the others: training/identity.py
    """Height and width of a frame, pixels."""
    action_repeat: int = field(default=1, repr=False)
    """Steps that :meth:`Simulator.step` takes with one action; divides an episode."""

    @property
    def episode_actions(self) -> int:
        """Actions of an episode."""
        return self.episode_steps // self.action_repeat


class Step(NamedTuple):
    """What one action gives, an environment step or several of them."""

    observation: np.ndarray  # float32 [39], after the action
    reward: float  # Meta-World's dense reward, in [0, 10] a step, summed over the steps
    success: bool  # after the last of them, as the observation shows it
    truncated: bool  # the episode's steps are over; Meta-World never terminates


class Simulator:
    """A Meta-World v3 environment whose whole random state is one generator.

    Args:
        task: a name from the catalogue.
        seed: seeds the generator that placements are drawn from.
        settings: goal mode, picture, length of an episode.
        show_goal: put the goal into the observation even where the goal is fixed, as the scripted
            experts need it.
    """

    def __init__(
        self, task: str, seed: int, settings: SimulatorSettings = SimulatorSettings(), show_goal: bool = False
    ) -> None:
        self.task, self.settings = task, settings
        # The constructors draw a first placement from NumPy's global generator; leave it alone.
        global_state = np.random.get_state()
        np.random.seed(seed)
        env: Any = ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
        np.random.set_state(global_state)
        env._partially_observable = settings.goal == "fixed" and not show_goal
        env.__dict__.pop("sawyer_observation_space", None)
        env._set_task_called = True
        env.seeded_rand_vec = True
        env._freeze_rand_vec = False
        env.seed(seed)
        self.env = env
        # Bounds are cached by the observation's clipping with the goal's entries of the day.
        low, high = env.sawyer_observation_space.low, env.sawyer_observation_space.high
        if not env._partially_observable:
            low[-3:], high[-3:] = -np.inf, np.inf
        if settings.goal == "fixed":
            env.reset()  # draws the placement that stays
            env._freeze_rand_vec = True
        env.max_path_length = settings.episode_steps
        self.renderer: Renderer | None = None
        if settings.render is not None:
            self.renderer = Renderer(env.model, settings.render, settings.size, settings.mirror, settings.bgr)
            self._forward = mujoco.MjData(env.model)

    def reset(self) -> np.ndarray:
        """Begin an episode; returns the observation, float32 [39]."""
        observation, _ = self.env.reset()
        if self.renderer is not None:
            mark_goal(self.task, self.env, self.drawn_state())
        return observation.astype(np.float32)

    def step(self, action: np.ndarray) -> Step:
        """Take one action in [-1, 1], float32 [4], for as many environment steps as an action is repeated."""
        total = 0.0
        for _ in range(self.settings.action_repeat):
            observation, reward, _, truncated, info = self.env.step(action)
            total += float(reward)
        return Step(observation.astype(np.float32), total, bool(info["success"]), bool(truncated))

    def frame(self, out: np.ndarray | None = None) -> np.ndarray:
        """The present frame, uint8 [size, size, 3]."""
        assert self.renderer is not None, "made without a renderer"
        return self.renderer.render(self.drawn_state(), out)

    def drawn_state(self) -> mujoco.MjData:
        """The state that :meth:`frame` draws.

        After a reset that is not Meta-World's own, which has some bodies and sites where they were before.
        """
        model, data = self.env.model, self.env.data
        if self.env.curr_path_length > 0:
            return data
        state = np.empty(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_setState(model, self._forward, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(model, self._forward)
        return self._forward

    def random_state(self) -> dict[str, Any]:
        """The generator's state as plain Python numbers; with a reset it restores the simulator."""
        state: dict[str, Any] = self.env.np_random.bit_generator.state
        return state

    def set_random_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`random_state` gave; takes effect at the next reset."""
        self.env.np_random.bit_generator.state = state

    def close(self) -> None:
        """Free the renderer."""
        if self.renderer is not None:
            self.renderer.close()
            self.renderer = None


class Expert:
    """Meta-World's scripted policy of a task; the simulator must show it the goal."""

    def __init__(self, task: str) -> None:
        policy: Any = ENV_POLICY_MAP[f"{task}-v3"]
        self._policy = policy()

    def action(self, observation: np.ndarray) -> np.ndarray:
        """The scripted action for an observation [39], float32 [4], clipped to [-1, 1]."""
        action = self._policy.get_action(observation.astype(np.float64))
        return np.clip(action, -1.0, 1.0).astype(np.float32)


def first_success_frame(task: str, seed: int, settings: SimulatorSettings, skipped: int = 0) -> np.ndarray | None:
    """The goal image: the frame at the scripted expert's first success, uint8 [size, size, 3].

    The placement is the one that an agent of this task and seed meets in its first episode, or, with random goals,
    after so many that are ``skipped``.
    None if the expert does not succeed within one of Meta-World's whole episodes.
    """
    whole = replace(settings, episode_steps=EPISODE_STEPS, action_repeat=1)
    simulator = Simulator(task, seed, whole, show_goal=True)
    expert = Expert(task)
    try:
        for _ in range(skipped):
            simulator.reset()
        observation = simulator.reset()
        for _ in range(EPISODE_STEPS):
            step = simulator.step(expert.action(observation))
            if step.success:
                return simulator.frame()
            observation = step.observation
        return None
    finally:
        simulator.close()
