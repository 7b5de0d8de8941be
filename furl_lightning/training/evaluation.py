"""Evaluation of the deterministic policies, in environments and with random numbers of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from furl_lightning.data.datamodule import FuRLDataModule
from furl_lightning.data.policy import DeterministicPolicy
from furl_lightning.envs.population import PopulationEnv
from furl_lightning.envs.settings import RewardKind
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.envs.workers import TIMEOUT
from furl_lightning.tasks import Agent
from furl_lightning.training.metrics_log import log_agents
from furl_lightning.training.module import FuRLModule
from furl_lightning.utils.stopping import Stopping
from furl_lightning.utils.text_table import text_table

RANDOM_GOAL_SEED_OFFSET = 100
"""Evaluation's seed with random goals is the agent's plus this (the paper's protocol)."""


class Evaluator:
    """Episodes of a population's deterministic policy.

    Fixed goals: the training's placement. Random goals: placements drawn from seed + 100, the same
    ones at every evaluation, so that evaluations differ by the policy alone.
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
        self.offset = RANDOM_GOAL_SEED_OFFSET if settings.goal == "random" else 0
        placed = [Agent(agent.task, agent.seed + self.offset) for agent in agents]
        if pixel_size is None:
            settings = replace(settings, render=None)
        self.episode_actions = settings.episode_actions
        self.env = PopulationEnv(placed, settings, num_workers, reward, pixel_size, worker_timeout)
        self._start = self.env.fleet.random_states()

    def evaluate(
        self, policy: TensorDictModuleBase, episodes: int, stop: Callable[[], bool] = lambda: False
    ) -> dict[str, Tensor] | None:
        """Means over the episodes, each [A]: success (last step), success_any (any step), return.

        None if ``stop``, asked before each episode, says so.
        """
        results = self.episodes(policy, episodes, stop)
        return results and {name: values.mean(1) for name, values in results.items()}

    def episodes(
        self, policy: TensorDictModuleBase, episodes: int, stop: Callable[[], bool] = lambda: False
    ) -> dict[str, Tensor] | None:
        """Every episode's results, each [A, episodes]: success (last step), success_any (any step), return.

        None if ``stop``, asked before each episode, says so.
        """
        self.env.fleet.set_random_states(self._start)
        results: dict[str, list[Tensor]] = {"success": [], "success_any": [], "return": []}
        for _ in range(episodes):
            if stop():
                return None
            success, reward = self._episode(policy)
            results["success"].append(success[:, -1].float())
            results["success_any"].append(success.any(1).float())
            results["return"].append(reward.sum(1))
        return {name: torch.stack(values, 1) for name, values in results.items()}

    def _episode(self, policy: DeterministicPolicy) -> tuple[Tensor, Tensor]:
        """Success and reward of every action, [A, T]; frames are let go of, an episode of them is large."""
        state, success, reward = self.env.reset(), [], []
        for _ in range(self.episode_actions):
            state = self.env.step(policy(state))["next"]
            success.append(state["success"])
            reward.append(state["reward"])
        return torch.cat(success, 1), torch.cat(reward, 1)

    def close(self) -> None:
        """End its workers."""
        self.env.close(raise_if_closed=False)


class Evaluation(Callback):
    """Evaluates every ``data.evaluation.every`` environment steps and at the end; prints the last as a table.

    A signal stops an evaluation between two episodes; the run that is resumed makes it up.

    Args:
        stopping: the signals.
    """

    def __init__(self, stopping: Stopping | None = None) -> None:
        self.stopping = stopping or Stopping()
        self._owed = False
        self._evaluator: Evaluator | None = None
        self.results: dict[str, Tensor] = {}
        """Of the newest evaluation, each [A]; see :meth:`Evaluator.evaluate`."""
        self.env_steps = -1

    def state_dict(self) -> dict[str, Any]:
        """Whether an evaluation was cut off."""
        return {"owed": self._owed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
        self._owed = state_dict["owed"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make up for an evaluation that was cut off."""
        if self._owed:
            self._evaluate(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Evaluate where it is time to."""
        data: FuRLDataModule = trainer.datamodule  # type: ignore[attr-defined]
        due = data.env_steps % data.evaluation.every < data.steps_per_iteration
        if due or data.env_steps >= data.env_steps_total:
            self._evaluate(trainer, pl_module)

    def _evaluate(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, FuRLModule)
        data = module.data
        if self._evaluator is None:
            collection, reward = data.collection_settings, data.env_settings.reward
            workers, timeout = collection.num_workers, collection.worker_timeout
            self._evaluator = Evaluator(data.agents, data.simulators, workers, reward, data.pixel_size, timeout)
        policy = DeterministicPolicy(module.built.evaluated_agent, data.frame_stack())
        goes_on = data.env_steps < data.env_steps_total  # there is no run to resume that would make up for the last
        stop = lambda: goes_on and self.stopping.signal is not None  # noqa: E731
        results = self._evaluator.evaluate(policy, data.evaluation_episodes, stop)
        self._owed = results is None
        if results is None:
            return
        self.results, self.env_steps = results, data.env_steps
        metrics = {f"eval/{name}": values for name, values in results.items()}
        log_agents(trainer, data.agents, metrics, data.env_steps)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table and free the environments."""
        data: FuRLDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if self.results and self.env_steps == data.env_steps:
            print(f"\n{table(data.agents, self.results, self.env_steps)}", file=sys.stdout, flush=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Free the environments where Lightning skips :meth:`teardown`."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Free the environments."""
        if self._evaluator is not None:
            self._evaluator.close()
            self._evaluator = None


def just_evaluated(trainer: Trainer) -> bool:
    """Whether there has been an evaluation since the last environment step."""
    data: FuRLDataModule = trainer.datamodule  # type: ignore[attr-defined]
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return any(c.env_steps == data.env_steps for c in callbacks if isinstance(c, Evaluation))


def table(agents: Sequence[Agent], results: dict[str, Tensor], env_steps: int) -> str:
    """Success of each agent and the mean, as text."""
    columns = torch.stack([results["success"], results["success_any"], results["return"]], 1)
    rows = []
    for name, values in zip([*map(str, agents), "mean"], [*columns, columns.mean(0)], strict=True):
        success, success_any, returns = values.tolist()
        rows.append([name, f"{success:.1%}", f"{success_any:.1%}", f"{returns:.1f}"])
    title = f"evaluation after {env_steps:,} environment steps"
    return text_table(["task/seed", "success", "any step", "return"], rows, title).rstrip()
