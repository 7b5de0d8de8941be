"""Collecting: a TorchRL collector steps the population's environments, beside the learner where the two overlap."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Annotated, Any, TypeVar

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.collectors import Collector

from furl_lightning.data.policy import ExplorationPolicy
from furl_lightning.envs.population import PopulationEnv
from furl_lightning.envs.workers import TIMEOUT
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.settings import AtLeast, Between, Settings

T = TypeVar("T")

logging.getLogger("torchrl").setLevel(logging.WARNING)  # it announces every storage that it allocates


@dataclass(frozen=True)
class CollectionSettings(Settings, option="data.collection"):
    """How environments are stepped."""

    start_steps: Annotated[int, AtLeast(0)] = 10_000
    """Environment steps of uniform random actions at the beginning, without updates."""
    steps_per_iteration: Annotated[int, AtLeast(1)] = 1
    """Environment steps collected before the updates for them are made, one action's at least; divides an episode."""
    num_workers: Annotated[int, AtLeast(0)] = 0
    """Processes that host the environments; 0 hosts them in the training process."""
    worker_timeout: Annotated[int, AtLeast(1)] = TIMEOUT
    """Seconds that a worker process may take to answer, in evaluations too; the run ends where one hangs for longer.
    To start they may take ten minutes."""
    overlap: bool = False
    """Collect the next steps_per_iteration steps while the updates for the last are made; policies then act with
    parameters from before those updates. Needs num_workers; a learner on the CPU takes the cores that they leave,
    at least one (OMP_NUM_THREADS overrides)."""
    noise_beta: Annotated[float, Between(0, 2)] = 0.0
    """Colour of the noise that policies act with, correlated over an episode: its power falls with frequency f as
    1 / f^beta. 0: white, every step anew; 1: pink."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlap and not self.num_workers:
            raise BadInput(
                "data.collection.overlap true needs data.collection.num_workers of at least 1; set that, or overlap "
                "false"
            )

    def iteration_steps(self, action_repeat: int) -> int:
        """Environment steps of an iteration, one action's at least."""
        return max(self.steps_per_iteration, action_repeat)

    def refuse_partial_iterations(self, episode_steps: int, env_steps: int, action_repeat: int = 1) -> None:
        """Refuse an episode, a random phase or a run that is not made of whole iterations of whole actions.

        Raises:
            BadInput: names the number that would be right.
        """
        size = self.iteration_steps(action_repeat)
        if episode_steps % size or size % action_repeat:
            divisors = [d for d in range(action_repeat, episode_steps + 1, action_repeat) if episode_steps % d == 0]
            nearest = min(divisors, key=lambda d: abs(d - size))
            whole = f" into whole actions of {action_repeat} (data.env.action_repeat)" if action_repeat > 1 else ""
            raise BadInput(
                f"data.collection.steps_per_iteration must divide an episode's {episode_steps} steps{whole}; "
                f"the nearest to {size} is {nearest}"
            )
        for option, steps in {"data.collection.start_steps": self.start_steps, "data.env_steps": env_steps}.items():
            if steps % size:
                raise BadInput(
                    f"{option} must be a multiple of data.collection.steps_per_iteration ({size}), not {steps}; "
                    f"the next is {-(-steps // size) * size}"
                )


class Collection:
    """Rollouts of a policy in the population's environments.

    The policy acts with the learner's parameters of the moment when a rollout begins. With ``overlap`` that is before
    the updates for the rollout before, except for an episode's first rollout, which waits for them, so that an
    episode's end finds nothing on its way.

    Args:
        env: the environments.
        policy: acts in them.
        settings: how they are stepped.
        action_repeat: environment steps of an action.
    """

    def __init__(
        self, env: PopulationEnv, policy: ExplorationPolicy, settings: CollectionSettings, action_repeat: int = 1
    ) -> None:
        self.env, self.policy, self.settings = env, policy, settings
        self.actions = settings.iteration_steps(action_repeat) // action_repeat
        """Of each agent in a rollout."""
        self.seconds = 0.0
        """Spent waiting for rollouts."""
        self._collector: Any = None
        self._rollouts: Iterator[TensorDictBase] = iter(())
        self._executor: Executor = ThreadPoolExecutor(1, "collector") if settings.overlap else _InlineExecutor()
        self._next: Future[TensorDictBase] | None = None
        """The next rollout, on its way."""
        self._refreshed = False
        """Whether the policy has taken the parameters for the next rollout."""
        self._exploration: dict[str, Any] = {}
        """The exploration stream's state from before the rollout on its way."""
        self._noise: Tensor | None = None
        """The policy's noise from before it."""

    def rollout(self) -> TensorDictBase:
        """The next actions of all agents and what came of them, [A, T]."""
        started = perf_counter()
        if self._next is None:
            if not self._refreshed:
                self.policy.refresh()
            self._next = self._submit()
        rollout, self._next, self._refreshed = self._next.result(), None, False
        self.seconds += perf_counter() - started
        return rollout

    def go_on(self, more: bool) -> None:
        """With ``overlap``: begin the next rollout, if there are to be more, with the parameters of the moment."""
        if not self.settings.overlap:
            return
        self.policy.refresh()
        self._refreshed = True
        if more:
            self._exploration, self._noise = self.policy.randomness.state_dict(["exploration"]), self.policy.noise
            self._next = self._submit()

    def _submit(self) -> Future[TensorDictBase]:
        if self._collector is None:  # it resets the environments, which may have to be restored first
            self._collector = Collector(
                self.env,
                self.policy,
                frames_per_batch=self.env.batch_size[0] * self.actions,
                total_frames=-1,
                use_buffers=False,
                return_same_td=True,
                trust_policy=True,
                track_traj_ids=False,
                split_trajs=False,
                auto_register_policy_transforms=False,
            )
            self._rollouts = iter(self._collector)
        return self._executor.submit(next, self._rollouts)

    def state_dict(self) -> dict[str, Any]:
        """All that the next rollout depends on; with the actions of the episode so far it restores it exactly.

        ``randomness`` is what the random streams' own states are to be updated with.
        """
        noise = self.policy.noise if self._next is None else self._noise
        return {
            **({"noise": noise} if noise is not None else {}),
            "acting": self.policy.acting_state() if self._refreshed else None,
            "environment": self.env.snapshot(),
            "randomness": self._exploration if self._next is not None else {},
        }

    def load_state_dict(self, state: dict[str, Any], chosen: int, actions: Tensor) -> None:
        """Put back what :meth:`state_dict` gave, after ``chosen`` actions, with this episode's [T, A, action]."""
        self.policy.chosen, self.policy.noise = chosen, state.get("noise")
        self._refreshed = self.settings.overlap and state["acting"] is not None
        if self._refreshed:
            self.policy.load_acting_state(state["acting"])
        self.env.restore(state["environment"], actions)

    def close(self) -> None:
        """End what is on its way, the workers, and the renderers."""
        self._executor.shutdown()  # waits for steps that are on their way
        if self._collector is not None:
            self._collector.shutdown()
        self.env.close(raise_if_closed=False)


class LearnerThreads:
    """Leaves a learner on the CPU the cores that the workers do not take, while they work beside it.

    Args:
        settings: of the collection.
        device: the learner's.
    """

    def __init__(self, settings: CollectionSettings, device: torch.device) -> None:
        self._before: int | None = None
        if settings.overlap and device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
            self._before = torch.get_num_threads()
            torch.set_num_threads(max(1, self._before - settings.num_workers))

    def close(self) -> None:
        """Take them back."""
        if self._before is not None:
            torch.set_num_threads(self._before)


class _InlineExecutor(Executor):
    """Calls at once, in the thread that submits: an OpenGL context belongs to one thread."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """The result, in a future that is done."""
        future: Future[T] = Future()
        future.set_result(fn(*args, **kwargs))
        return future
