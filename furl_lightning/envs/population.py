"""A population's environments as one TorchRL environment of batch size [A]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from furl_lightning.envs.fleet import Fleet
from furl_lightning.envs.settings import RewardKind
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.envs.workers import TIMEOUT
from furl_lightning.tasks import Agent


def shrink(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Resize frames [N, H, W, 3] to [N, size, size, 3], bilinear and antialiased, uint8 throughout."""
    resized = F.interpolate(pixels.permute(0, 3, 1, 2), (size, size), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1).contiguous()


class PopulationEnv(EnvBase):
    """A agents' environments in lockstep; all reset together, at an episode's end.

    Reads ``action`` [A, action]. Writes ``observation`` [A, obs], ``success`` [A, 1], ``episode_step``
    [A, 1] (the simulators' steps in this episode), with rendering ``pixels`` uint8 [A, size, size, 3], with
    ``pixel_size`` also the same picture smaller, ``frame`` uint8 [A, pixel_size, pixel_size, 3], the
    usual done entries (``terminated`` is never true), and ``reward`` [A, 1]: success - 1 if sparse,
    the environment's own if dense (Meta-World's in [0, 10]), summed where an action is repeated.

    Args:
        agents: the population.
        settings: goal mode and rendering.
        num_workers: processes to host the simulators; 0 hosts them in this one.
        reward: which reward to give.
        pixel_size: side of the picture for policies that see pixels; None for those that do not.
        worker_timeout: seconds that a worker may take to answer.
    """

    def __init__(
        self,
        agents: Sequence[Agent],
        settings: SimulatorSettings,
        num_workers: int = 0,
        reward: RewardKind = "sparse",
        pixel_size: int | None = None,
        worker_timeout: int = TIMEOUT,
    ) -> None:
        num = len(agents)
        super().__init__(device=torch.device("cpu"), batch_size=torch.Size([num]))
        self.fleet = Fleet(agents, settings, num_workers, worker_timeout)
        self.reward_kind = reward
        self.frames, self.pixel_size = settings.render is not None, pixel_size
        self._seconds = {"step": 0.0, "render": 0.0}
        self._step_count, self._action_repeat = 0, settings.action_repeat
        self._states_at_reset: list[dict[str, Any]] = []
        self._pending: tuple[dict[str, Any], torch.Tensor] | None = None
        observation = {
            "observation": Unbounded((num, settings.observation_dim)),
            "success": Categorical(2, shape=(num, 1), dtype=torch.bool),
            "episode_step": Unbounded((num, 1), dtype=torch.int64),
        }
        if self.frames:
            observation["pixels"] = Unbounded((num, settings.size, settings.size, 3), dtype=torch.uint8)
        if pixel_size is not None:
            observation["frame"] = Unbounded((num, pixel_size, pixel_size, 3), dtype=torch.uint8)
        self.observation_spec = Composite(observation, shape=(num,))
        self.action_spec = Bounded(-1.0, 1.0, (num, settings.action_dim))
        self.reward_spec = Unbounded((num, 1))
        flag = Categorical(2, shape=(num, 1), dtype=torch.bool)
        self.done_spec = Composite(done=flag.clone(), terminated=flag.clone(), truncated=flag.clone(), shape=(num,))

    def _observe(self) -> dict[str, torch.Tensor]:
        arrays, num = self.fleet.arrays, self.batch_size[0]
        out = {
            "observation": torch.from_numpy(arrays.observation.copy()),
            "episode_step": torch.full((num, 1), self._step_count),
        }
        if self.frames:
            out["pixels"] = torch.from_numpy(arrays.pixels.copy())
        if self.pixel_size is not None:
            out["frame"] = shrink(out["pixels"], self.pixel_size)
        return out

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        actions = torch.empty(0, *self.action_spec.shape)
        if self._pending is not None:
            snapshot, actions = self._pending
            self._pending = None
            if snapshot["random_states"]:  # there are none before the first reset: they are the seeds' still
                self.fleet.set_random_states(snapshot["random_states"])
        self._states_at_reset = self.fleet.random_states()
        self.fleet.reset()
        self._step_count = len(actions) * self._action_repeat
        if len(actions):
            self.fleet.replay(actions.numpy())
        no = torch.zeros(*self.batch_size, 1, dtype=torch.bool)
        return TensorDict({**self._observe(), "success": no}, self.batch_size)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        arrays = self.fleet.arrays
        arrays.action[:] = tensordict["action"].numpy()
        self.fleet.step()
        self._step_count += self._action_repeat
        step, render = arrays.seconds.sum(0)
        self._seconds["step"] += float(step)
        self._seconds["render"] += float(render)
        success = torch.from_numpy(arrays.success.copy())[:, None]
        truncated = torch.from_numpy(arrays.truncated.copy())[:, None]
        if self.reward_kind == "sparse":
            reward = success.float() - 1.0
        else:
            reward = torch.from_numpy(arrays.reward.copy())[:, None]
        return TensorDict(
            {
                **self._observe(),
                "success": success,
                "reward": reward,
                "done": truncated,
                "terminated": torch.zeros_like(truncated),
                "truncated": truncated.clone(),
            },
            self.batch_size,
        )

    def _set_seed(self, seed: int | None) -> None:
        """Nothing: agents carry their own seeds."""

    def take_seconds(self) -> dict[str, float]:
        """Time spent stepping and rendering since the last call, summed over the simulators."""
        seconds, self._seconds = self._seconds, dict.fromkeys(self._seconds, 0.0)
        return seconds

    def snapshot(self) -> dict[str, Any]:
        """The random states from before this episode's reset.

        With the actions since (the replay buffer holds them) they restore the environment exactly,
        for the simulator is deterministic.
        """
        return {"random_states": self._states_at_reset}

    def restore(self, snapshot: dict[str, Any], actions: torch.Tensor) -> None:
        """Make the next reset begin the snapshot's episode again and take its actions [T, A, action]."""
        self._pending = snapshot, actions

    def close(self, *, raise_if_closed: bool = True) -> None:
        """End the workers and free the renderers."""
        self.fleet.close()
        super().close(raise_if_closed=raise_if_closed)
