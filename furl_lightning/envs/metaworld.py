"""Meta-World: one task's simulator, with placement from a seed, sparse success, frames, and its scripted expert."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP

from furl_lightning.envs.goal_markers import mark_goal
from furl_lightning.envs.rendering import METAWORLD_CAMERA, Renderer, camera_named
from furl_lightning.envs.simulator import Simulator, SimulatorSettings, Step

SAME_OBJECT = ("reach-wall", "reach")
"""Tasks whose object is the goal itself: the puck on the table is only in the way."""


class MetaWorld(Simulator):
    """A Meta-World v3 environment whose whole random state is one generator.

    Args:
        task: a name from the catalogue.
        seed: seeds the generator that placements are drawn from.
        settings: goal mode, picture, length of an episode.
        show_goal: put the goal into the observation even where the goal is fixed, as the scripted
            experts need it.

    Raises:
        BadInput: the settings name a camera that the model does not have.
    """

    def __init__(
        self, task: str, seed: int, settings: SimulatorSettings = SimulatorSettings(), show_goal: bool = False
    ) -> None:
        super().__init__(task, seed, settings)
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
        if settings.camera is not None:
            camera_named(env.model, settings.camera, "Meta-World")
        self._info: dict[str, float] = {}
        self._expert: Expert | None = None
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
            camera = settings.camera or METAWORLD_CAMERA
            self.renderer = Renderer(env.model, settings.render, settings.size, settings.mirror, settings.bgr, camera)
            self._forward = mujoco.MjData(env.model)

    def reset(self) -> np.ndarray:
        """Begin an episode; returns the observation, float32 [39]."""
        observation, _ = self.env.reset()
        self._info = {}
        if self.renderer is not None:
            mark_goal(self.task, self.env, self.drawn_state())
        return observation.astype(np.float32)

    def one_step(self, action: np.ndarray) -> Step:
        """Take one environment step; the observation, float64 [39], is Meta-World's own."""
        observation, reward, _, truncated, info = self.env.step(action)
        self._info = info
        return Step(observation, float(reward), bool(info["success"]), bool(truncated))

    def expert(self, observation: np.ndarray) -> np.ndarray:
        """The scripted action for an observation [39] that shows the goal."""
        if self._expert is None:
            self._expert = Expert(self.task)
        return self._expert.action(observation)

    def state(self, observation: np.ndarray) -> dict[str, Any]:
        """Where things are: positions in metres, ``hand``, ``object``, ``goal`` [3]; ``opening`` of the gripper from 0
        (closed) to 1; ``to_target``, what is left of the object's way, metres, as the task measures it."""
        goal = np.asarray(self.env._target_pos)
        thing = goal if self.task in SAME_OBJECT else observation[4:7]
        return {
            "hand": np.float32(observation[:3]),
            "opening": np.float32(observation[3]),
            "object": np.float32(thing),
            "goal": np.float32(goal),
            "to_target": np.float32(distance_to_target(self.task, self._info, thing, goal)),
        }

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


def distance_to_target(task: str, info: dict[str, float], thing: np.ndarray, goal: np.ndarray) -> float:
    """What is left of the object's way, metres: the task's own measure of the last step, where it has one."""
    measured = info.get("obj_to_target", 0.0)
    if measured == 0.0 or task == "lever-pull":  # four do not measure it, this one measures otherwise
        return float(np.linalg.norm(thing - goal))
    return measured
