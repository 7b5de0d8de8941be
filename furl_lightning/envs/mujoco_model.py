"""An environment out of a MuJoCo model: one's own says how it is placed, what is observed, and what success is."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import mujoco
import numpy as np

from furl_lightning.envs.environment import Environment
from furl_lightning.envs.rendering import Renderer, camera_named
from furl_lightning.utils.errors import BadInput


class MujocoModel(Environment):
    """A task on a MuJoCo model. The model's actuators are the action, each from -1 to 1 over its control range.

    Args:
        task: its name.

    Raises:
        BadInput: there is no such file, it does not compile, or its actuators are not to be driven like this.

    Attributes:
        model, data: MuJoCo's, to be read and, in :meth:`place`, written.
    """

    xml: ClassVar[str | Path]
    """The model's file."""
    frame_skip: ClassVar[int] = 10
    """MuJoCo's steps in a step of the environment."""
    camera: ClassVar[str | None] = None
    """The usual camera; None: the model's first, or else one that looks at all of it."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.model = compiled(Path(self.xml))
        self.data = mujoco.MjData(self.model)
        low, high = self.model.actuator_ctrlrange.T
        if not self.model.nu or not self.model.actuator_ctrllimited.all():
            raise BadInput(f"{self.xml} must have actuators, each with a ctrlrange: they are the action")
        self._middle, self._half = (low + high) / 2, (high - low) / 2
        self.action_dim = int(self.model.nu)
        self.action_names = [self.model.actuator(i).name or f"actuator_{i}" for i in range(self.action_dim)]
        self.steps_per_second = 1 / (self.frame_skip * float(self.model.opt.timestep))
        self.reset(0)
        self.observation_dim = len(self.observation())
        self._renderer: Renderer | None = None

    @abstractmethod
    def place(self, random: np.random.Generator) -> None:
        """Put things where an episode begins: write ``data.qpos`` and the like, which are the model's own now."""

    @abstractmethod
    def observation(self) -> np.ndarray:
        """What the agent knows of this moment, [observation_dim] numbers."""

    @abstractmethod
    def success(self) -> bool:
        """Whether the task is in success now."""

    def reward(self) -> float:
        """The task's own dense reward of this moment, for ``data.env.reward dense``."""
        return 0.0

    def reset(self, seed: int) -> np.ndarray:
        """Begin an episode; see :meth:`Environment.reset`."""
        mujoco.mj_resetData(self.model, self.data)
        self.place(np.random.default_rng(seed))
        mujoco.mj_forward(self.model, self.data)
        return self.observation()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """Take an action; see :meth:`Environment.step`."""
        self.data.ctrl[:] = self._middle + self._half * np.clip(action, -1, 1)
        mujoco.mj_step(self.model, self.data, self.frame_skip)
        return self.observation(), self.reward(), self.success()

    def frame(self) -> np.ndarray:
        """A picture of this moment, uint8 [size, size, 3]."""
        return self.draw(self.data)

    def draw(self, data: mujoco.MjData) -> np.ndarray:
        """A picture of any state of the model, uint8 [size, size, 3].

        Raises:
            BadInput: the model has no camera of the name that ``data.env.camera`` gives.
        """
        if self._renderer is None:
            name = self.picture.camera or self.camera
            camera = self._whole_view() if name is None else camera_named(self.model, name, Path(self.xml).name)
            self._renderer = Renderer(self.model, self.picture.quality, self.picture.size, camera=camera)
        return self._renderer.render(data)

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _whole_view(self) -> mujoco.MjvCamera:
        camera = mujoco.MjvCamera()
        if self.model.ncam:
            camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
        else:
            mujoco.mjv_defaultFreeCamera(self.model, camera)
        return camera


def compiled(path: Path) -> mujoco.MjModel:
    """The model in a file.

    Raises:
        BadInput: there is no such file, or it does not compile.
    """
    if not path.is_file():
        raise BadInput(f"there is no MuJoCo model at {path}")
    try:
        return mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise BadInput(f"{path} must be a MuJoCo model that compiles: {' '.join(str(error).split())}") from None
