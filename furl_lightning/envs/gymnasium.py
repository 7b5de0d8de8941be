"""Any registered Gymnasium environment whose observations and actions are numbers, and whose info says success."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces

from furl_lightning.envs.environment import Environment
from furl_lightning.envs.rendering import Renderer, camera_named
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.nearest import nearest
from furl_lightning.utils.user_module import NoModule, import_module

EPISODE_STEPS = 1000
"""Of an environment that is registered without a time limit."""
FIRST_KEYS = ("observation", "achieved_goal", "desired_goal")
"""What begins the observation where it is a Dict; its other keys follow, sorted."""
SUCCESS_KEYS = ("success", "is_success")
INSTALL = "pip install 'furl_lightning[fetch]'"
OPTIONS = "data.env.options"
SAID_ELSEWHERE = {
    "id": f"{OPTIONS}.ids says which environment it is",
    "max_episode_steps": "data.env.episode_steps is the length of an episode",
    "render_mode": "pictures are drawn where they are needed",
    "disable_env_checker": "the checker is off",
}
"""Arguments of gymnasium.make that are not the user's, and why."""


class Gymnasium(Environment):
    """A registered Gymnasium environment.

    Actions in [-1, 1] are scaled to the bounds of its Box. An episode that ends early stays as it ended: its later
    steps do nothing, and give the last observation, reward and success again. The time limit that it is registered
    with is off, and is ``episode_steps``; without one that is 1000.

    A MuJoCo environment is drawn by :class:`Renderer`, since Gymnasium's own viewers mix up the frames of two
    environments in one process; its usual camera is the one of its own viewer. Any other draws itself.

    Args:
        task: the task's name.
        ids: Gymnasium's id of each task; one that is not there is an id itself. ``module:Id`` imports the module.
        success: the key of the info's success flag; None: ``success`` or ``is_success``, which the info has.
        make: arguments of gymnasium.make.

    Raises:
        BadInput: there is no such environment, or something that it needs is not installed; its actions are no Box
            of bounded real numbers; its observations are neither a Box nor a Dict of Boxes.
    """

    def __init__(
        self,
        task: str,
        ids: dict[str, str] | None = None,
        success: str | None = None,
        make: dict[str, Any] | None = None,
    ) -> None:
        for name, value in {"ids": ids, "make": make}.items():
            if value is not None and not isinstance(value, dict):
                raise BadInput(f"{OPTIONS}.{name} must be a mapping or null, not {value!r}")
        self._id, self._success, self._make = (ids or {}).get(task, task), success, make or {}
        if not isinstance(self._id, str):
            raise BadInput(f"{OPTIONS}.ids must have an id for {task}, such as Pendulum-v1, not {self._id!r}")
        for name, why in SAID_ELSEWHERE.items():
            if name in self._make:
                raise BadInput(f"{OPTIONS}.make must be without {name}: {why}")
        self._spec = registered(self._id)
        self.episode_steps = self._spec.max_episode_steps or EPISODE_STEPS
        self._env = self._made()
        boxes = observation_boxes(self._env.observation_space, self._id)
        sizes = {key: int(np.prod(box.shape)) for key, box in boxes.items()}
        self.observation_dim = sum(sizes.values())
        self.observation_names = [f"{key}_{i}" for key, size in sizes.items() for i in range(size)]
        self._keys = list(boxes) if isinstance(self._env.observation_space, spaces.Dict) else None
        self._action_box = action_box(self._env.action_space, self._id)
        self.action_dim = int(np.prod(self._action_box.shape))
        step = getattr(self._env.unwrapped, "dt", None)  # of MuJoCo's environments, seconds
        self.steps_per_second = 1 / float(step) if step else None
        self._renderer: Renderer | None = None
        self._seed = 0
        self._actions: list[np.ndarray] = []  # of this episode, as the environment has them
        self._over = False
        self._last: tuple[np.ndarray, float, bool]

    def reset(self, seed: int) -> np.ndarray:
        """Begin an episode whose randomness follows from the seed; returns the observation, [observation_dim]."""
        self._seed, self._over = seed, False
        self._actions.clear()
        observation, _ = self._env.reset(seed=seed)
        return self._flat(observation)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """Take an action, [action_dim] in [-1, 1].

        Returns:
            The observation; the environment's reward; its success flag.

        Raises:
            BadInput: the info has no success flag.
        """
        if not self._over:
            self._actions.append(self._scaled(action))
            observation, reward, terminated, truncated, info = self._env.step(self._actions[-1])
            self._over = bool(terminated or truncated)
            self._last = self._flat(observation), float(reward), self._succeeded(info)
        return self._last

    def frame(self) -> np.ndarray:
        """A picture of this moment, uint8 [H, W, 3].

        Raises:
            BadInput: the environment draws no picture, or has no such camera.
        """
        unwrapped: Any = self._env.unwrapped
        model, data = getattr(unwrapped, "model", None), getattr(unwrapped, "data", None)
        if isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData):
            return self._drawn(model, data)
        if self.picture.camera is not None:
            raise BadInput(f"data.env.camera must be null: {self._id} has no MuJoCo model, and so no choice of cameras")
        return self._rendered()

    def close(self) -> None:
        """Close the environment, and free what draws."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self._env.close()

    def _made(self, **more: Any) -> gymnasium.Env[Any, Any]:
        try:
            return gymnasium.make(self._spec, max_episode_steps=-1, disable_env_checker=True, **self._make, **more)
        except gymnasium.error.DependencyNotInstalled as error:
            raise BadInput(f"{self._id} cannot be made: {one_line(error)}") from None
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
            raise BadInput(f"{OPTIONS}.make: {str(error).partition(' was raised')[0]}") from None

    def _flat(self, observation: Any) -> np.ndarray:
        parts = [observation] if self._keys is None else [observation[key] for key in self._keys]
        return np.concatenate([np.ravel(part) for part in parts])

    def _scaled(self, action: np.ndarray) -> np.ndarray:
        """An action in [-1, 1] within the environment's bounds, in its shape and type."""
        box = self._action_box
        low, high = box.low.astype(np.float64), box.high.astype(np.float64)
        scaled = (low + high) / 2 + (high - low) / 2 * np.reshape(action, box.shape)
        return np.clip(scaled, low, high).astype(box.dtype)

    def _succeeded(self, info: dict[str, Any]) -> bool:
        key = self._success or next((key for key in SUCCESS_KEYS if key in info), None)
        if key is None or key not in info:
            wanted = " or ".join(f"'{key}'" for key in ([self._success] if self._success else SUCCESS_KEYS))
            has = ", ".join(f"'{key}'" for key in info) or "nothing"
            raise BadInput(f"the info of {self._id} must have {wanted}, or what {OPTIONS}.success names; it has {has}")
        flag = np.asarray(info[key])
        if flag.size != 1 or flag.dtype.kind not in "biuf":
            raise BadInput(f"'{key}' in the info of {self._id} must be true or false, not {info[key]!r}")
        return bool(flag)

    def _drawn(self, model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
        """A picture by our renderer; the simulation goes on as if none had been drawn."""
        unwrapped: Any = self._env.unwrapped
        if self._renderer is None:
            name = self.picture.camera
            camera = self._usual_camera(model) if name is None else camera_named(model, name, self._id)
            self._renderer = Renderer(model, self.picture.quality, self.picture.size, camera=camera)
        if not hasattr(unwrapped, "_render_callback"):
            return self._renderer.render(data)
        unwrapped.data = copy.copy(data)
        mujoco.mj_forward(model, unwrapped.data)  # the model's marker of the goal is where it was put at the last frame
        unwrapped._render_callback()  # puts it to the goal
        picture = self._renderer.render(unwrapped.data)
        unwrapped.data = data
        return picture

    def _usual_camera(self, model: mujoco.MjModel) -> mujoco.MjvCamera:
        """The camera of the environment's own viewer."""
        viewer = getattr(self._env.unwrapped, "mujoco_renderer", None)
        number = getattr(viewer, "camera_id", None)
        camera = mujoco.MjvCamera()
        if number is not None and number >= 0:
            camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, number
            return camera
        start = mujoco.MjData(model)
        mujoco.mj_forward(model, start)
        camera.lookat[:], camera.distance = np.median(start.geom_xpos, axis=0), model.stat.extent
        for name, value in (getattr(viewer, "default_cam_config", None) or {}).items():
            if np.ndim(value):
                getattr(camera, name)[:] = value
            else:
                setattr(camera, name, value)
        camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        return camera

    def _rendered(self) -> np.ndarray:
        """A picture by the environment itself, which must have been made to draw."""
        if self._env.render_mode != "rgb_array":
            modes = self._env.metadata.get("render_modes") or []
            if "rgb_array" not in modes:
                has = ", ".join(map(str, modes)) or "none"
                raise BadInput(f"{self._id} draws no pictures: its render modes must have rgb_array; it has {has}")
            self._env.close()
            self._env = self._made(render_mode="rgb_array")
            self._env.reset(seed=self._seed)
            for action in self._actions:
                self._env.step(action)
        try:
            picture: Any = self._env.render()
        except gymnasium.error.DependencyNotInstalled as error:
            raise BadInput(f"{self._id} cannot be drawn: {one_line(error)}") from None
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
            what = f"{list(picture.shape)} of {picture.dtype}" if isinstance(picture, np.ndarray) else repr(picture)
            raise BadInput(f"render of {self._id} must give a picture, uint8 [height, width, 3], not {what[:80]}")
        return picture


def one_line(error: Exception) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split())


def registered(name: str) -> gymnasium.envs.registration.EnvSpec:
    """What is registered under an id.

    Args:
        name: ``Id``, or ``module:Id`` to import the module first; what that import raises keeps its traceback.

    Raises:
        BadInput: there is no such module, or no such id.
    """
    module, _, id_ = name.rpartition(":")
    if module:
        try:
            import_module(module)
        except NoModule as error:
            how = INSTALL if error.module == "gymnasium_robotics" else "install it, or put it into the current folder"
            raise BadInput(f"there is no module {error.module} for the environment '{name}': {how}") from None
    try:
        return gymnasium.spec(id_)
    except gymnasium.error.Error:
        near = nearest(id_, list(gymnasium.registry), "/")
        raise BadInput(
            f"Gymnasium has no environment '{id_}'; the nearest is '{near}'; one that a module registers is named with "
            f"it, such as gymnasium_robotics:FetchReach-v4 ({INSTALL})"
        ) from None


def observation_boxes(space: spaces.Space[Any], of: str) -> dict[str, spaces.Box]:
    """The parts of an observation in their order; a Box is the one part ``observation``.

    Raises:
        BadInput: the space is neither a Box nor a Dict of Boxes.
    """
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}
    first = [key for key in FIRST_KEYS if key in parts]
    boxes: dict[str, spaces.Box] = {}
    for key in [*first, *sorted(parts.keys() - set(first))]:
        part = parts[key]
        if not isinstance(part, spaces.Box):
            where = f"'{key}' in the observations" if isinstance(space, spaces.Dict) else "the observation space"
            rest = "a Box" if isinstance(space, spaces.Dict) else "a Box or a Dict of Boxes"
            raise BadInput(f"{where} of {of} must be {rest}, not a {type(part).__name__}")
        boxes[key] = part
    return boxes


def action_box(space: spaces.Space[Any], of: str) -> spaces.Box:
    """The space of actions.

    Raises:
        BadInput: it is no Box of real numbers with finite bounds.
    """
    if not isinstance(space, spaces.Box):
        what = f"a {type(space).__name__}"
    elif space.dtype is None or space.dtype.kind != "f":
        what = f"one of {space.dtype}"
    elif not space.is_bounded():
        what = "one without bounds"
    else:
        return space
    raise BadInput(f"the action space of {of} must be a Box of real numbers with finite bounds, not {what}")
