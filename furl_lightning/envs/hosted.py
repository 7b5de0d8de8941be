"""An environment by the contract as a simulator: seeds drawn for it, observations and pictures of one shape."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from furl_lightning.envs.environment import Environment, Picture
from furl_lightning.envs.simulator import Simulator, SimulatorSettings, Step
from furl_lightning.utils.errors import BadInput

SMALLEST_PICTURE = 16
"""Height and width in pixels that a picture must have."""


class Hosted(Simulator):
    """An agent's environment of a class that follows the contract.

    Whatever the class does that is not by the contract is refused in a line; what it raises keeps its traceback.

    Args:
        environment: made for the task.
        task, seed, settings: see :class:`Simulator`.

    Raises:
        BadInput: here and in every call: something is not as the contract has it.
    """

    def __init__(self, environment: Environment, task: str, seed: int, settings: SimulatorSettings) -> None:
        super().__init__(task, seed, settings)
        self.environment, self.name = environment, named(environment, task)
        if settings.render is not None:
            environment.picture = Picture(settings.size, settings.render, settings.camera)
        self._seeds = np.random.Generator(np.random.PCG64(seed))
        self._steps = 0

    @property
    def observation_dim(self) -> int:
        """Numbers in the environment's own observation."""
        return whole_number(self.environment, "observation_dim", self.name)

    def reset(self) -> np.ndarray:
        """Begin an episode; returns the observation, float32 [observation_dim of the settings]."""
        self._steps = 0
        seed = self.seed if self.settings.goal == "fixed" else int(self._seeds.integers(2**31))
        return self._observation(self.environment.reset(seed), "reset")

    def one_step(self, action: np.ndarray) -> Step:
        """Take one environment step."""
        given: Any = self.environment.step(action)
        if not isinstance(given, tuple) or len(given) != 3:
            what = f"{len(given)} things" if isinstance(given, tuple) else f"one {type(given).__name__}"
            raise BadInput(f"step of {self.name} must return three things, observation, reward and success, not {what}")
        observation, reward, success = given
        if not isinstance(success, bool | np.bool_):
            raise BadInput(f"success, the third that step of {self.name} returns, must be a bool, not {success!r}")
        if not isinstance(reward, int | float | np.number) or not np.isfinite(reward):
            raise BadInput(f"the reward, the second that step of {self.name} returns, must be a number, not {reward!r}")
        self._steps += 1
        over = self._steps >= self.settings.episode_steps
        return Step(self._observation(observation, "step"), float(reward), bool(success), over)

    def frame(self, out: np.ndarray | None = None) -> np.ndarray:
        """The present frame, uint8 [size, size, 3]."""
        frame = self._square(self.environment.frame(), "frame")
        if out is None:
            return frame
        out[:] = frame
        return out

    def goal_image(self) -> np.ndarray | None:
        """The environment's own picture of this placement in success, where it has one."""
        picture = self.environment.goal_image()
        return None if picture is None else self._square(picture, "goal_image")

    def expert(self, observation: np.ndarray) -> np.ndarray | None:
        """The environment's own expert's action, where it has one."""
        if self.environment.expert is None:
            return None
        action = np.asarray(self.environment.expert(observation[: self.observation_dim]), np.float32)
        if action.shape != (self.settings.action_dim,):
            raise BadInput(
                f"expert of {self.name} must return an action [{self.settings.action_dim}], not {list(action.shape)}"
            )
        return np.clip(action, -1.0, 1.0)

    def random_state(self) -> dict[str, Any]:
        """The state of the generator that seeds are drawn from."""
        return dict(self._seeds.bit_generator.state)

    def set_random_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`random_state` gave; takes effect at the next reset."""
        self._seeds.bit_generator.state = state

    def close(self) -> None:
        """Close the environment."""
        self.environment.close()

    def _observation(self, given: Any, method: str) -> np.ndarray:
        """The environment's observation as float32, zeros after it where others have more."""
        dim = self.observation_dim
        observation = given if isinstance(given, np.ndarray) else _array(given)
        if observation.shape != (dim,) or observation.dtype.kind not in "fiub":
            is_given = (
                f"{list(observation.shape)} of {observation.dtype}" if observation.dtype != object else repr(given)
            )
            what = f"the observation that {method} of {self.name} returns must be [{dim}] numbers"
            raise BadInput(f"{what}, not {is_given[:80]}")
        if not np.isfinite(observation).all():
            raise BadInput(f"{method} of {self.name} returned an observation that is not finite: {observation}")
        padded = np.zeros(self.settings.observation_dim, np.float32)
        padded[:dim] = observation
        return padded

    def _square(self, given: Any, method: str) -> np.ndarray:
        """A picture's central square in the size that is asked for."""
        if not isinstance(given, np.ndarray) or given.dtype != np.uint8 or given.ndim != 3 or given.shape[2] != 3:
            what = f"{list(given.shape)} of {given.dtype}" if isinstance(given, np.ndarray) else repr(given)
            raise BadInput(f"{method} of {self.name} must return a picture, uint8 [height, width, 3], not {what[:80]}")
        return oriented(square(given, self.settings.size, f"{method} of {self.name}"), self.settings)


def _array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:  # parts of several shapes
        return np.array(None)


def square(picture: np.ndarray, size: int, name: str) -> np.ndarray:
    """The central square of a picture, uint8 [H, W, 3], as uint8 [size, size, 3].

    Raises:
        BadInput: it is too small to be one.
    """
    height, width = picture.shape[:2]
    side = min(height, width)
    if side < SMALLEST_PICTURE:
        raise BadInput(
            f"{name}: a picture must be at least {SMALLEST_PICTURE} pixels high and wide, not {height}x{width}"
        )
    top, left = (height - side) // 2, (width - side) // 2
    cut = picture[top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(cut)
    return np.asarray(Image.fromarray(np.ascontiguousarray(cut)).resize((size, size), Image.Resampling.BICUBIC))


def oriented(picture: np.ndarray, settings: SimulatorSettings) -> np.ndarray:
    """A picture as ``data.env.mirror`` and ``data.env.bgr`` have it."""
    if settings.mirror:
        picture = picture[:, ::-1]
    if settings.bgr:
        picture = picture[:, :, ::-1]
    return np.ascontiguousarray(picture)


def named(environment: Environment, task: str) -> str:
    """What an environment is called in a message: its class, and the task."""
    return f"{type(environment).__name__} ({task})"


def whole_number(environment: Environment, name: str, of: str) -> int:
    """One of the sizes that an environment must say.

    Raises:
        BadInput: it does not, or it is none.
    """
    value = getattr(environment, name, None)
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        is_value = "it has none" if value is None else f"not {value!r}"
        raise BadInput(f"{name} of {of} must be a whole number of at least 1; {is_value}")
    return int(value)
