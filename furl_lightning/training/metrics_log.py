"""Logs what a run measures: training episodes, the learner's metrics, speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from furl_lightning.data.datamodule import FuRLDataModule, Iteration
from furl_lightning.method.learner import Metrics
from furl_lightning.runs.tensorboard import TensorBoard
from furl_lightning.tasks import Agent
from furl_lightning.training.divergence import refuse_nan_losses
from furl_lightning.training.module import FuRLModule


class MetricsLog(Callback):
    """Logs each training episode, and the learner's metrics every ``model.log_every`` environment steps."""

    def __init__(self) -> None:
        self._env_steps, self._time = 0, perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the settings to the user's own loggers; begin to measure speed."""
        assert isinstance(pl_module, FuRLModule)
        for logger in trainer.loggers:
            if pl_module.settings is not None and not isinstance(logger, TensorBoard):  # TensorBoard has a page of them
                logger.log_hyperparams(pl_module.settings)
        data: FuRLDataModule = trainer.datamodule  # type: ignore[attr-defined]
        self._env_steps, self._time = data.env_steps, perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what there is to log of an iteration."""
        assert isinstance(pl_module, FuRLModule) and isinstance(batch, Iteration)
        if batch.episode is not None:
            metrics = {
                "train/success": batch.episode.success.float(),
                "train/success_any": batch.episode.success_any.float(),
                "train/return": batch.episode.returns,
            }
            log_agents(trainer, pl_module.agents, metrics, batch.env_steps)
        data: FuRLDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if batch.env_steps % pl_module.log_every < data.steps_per_iteration:
            if pl_module.metrics:  # on a GPU the first look since the last log; what is no number stays so
                refuse_nan_losses(pl_module.metrics, pl_module.built, pl_module.agents, batch.env_steps)
            self._log_learner(trainer, pl_module, data)

    def _log_learner(self, trainer: Trainer, module: FuRLModule, data: FuRLDataModule) -> None:
        learner, env_steps, experience = module.built, data.env_steps, data.experience
        nothing = torch.full((len(module.agents),), math.nan)
        metrics = {tag: module.metrics.get(tag, nothing) for tag in learner.tags()}
        if experience.remembers:
            metrics["memory/positives"] = experience.memory.positives.float()
            metrics["memory/negatives"] = experience.memory.negatives.float()
        if learner.relay is not None:
            metrics["relay/active"] = learner.relay.active.float()
        log_agents(trainer, module.agents, metrics, env_steps)
        steps, elapsed = env_steps - self._env_steps, perf_counter() - self._time
        seconds = {**data.take_seconds(), "update": module.update_seconds}
        scalars = {
            "replay/transition_bytes": float(experience.replay.bytes_per_transition),
            "perf/env_steps_per_s": steps * len(module.agents) / elapsed,
            **{f"perf/{part}_ms": 1000.0 * spent / max(steps, 1) for part, spent in seconds.items()},
        }
        log_scalars(trainer, scalars, env_steps)
        module.update_seconds = 0.0
        self._env_steps, self._time = env_steps, perf_counter()


def log_agents(trainer: Trainer, agents: Sequence[Agent], metrics: Metrics, env_steps: int) -> None:
    """Log metrics [A]: the mean over agents, over each task's agents, and, with several seeds, each agent's."""
    tasks: dict[str, list[int]] = {}
    for i, agent in enumerate(agents):
        tasks.setdefault(agent.task, []).append(i)
    scalars: dict[str, float] = {}
    for name, values in metrics.items():
        values = values.detach().float().cpu()
        scalars[name] = float(values.nanmean())
        for task, rows in tasks.items():
            scalars[f"{name}/{task}"] = float(values[rows].nanmean())
            if len(rows) > 1:
                scalars.update({f"{name}/{agents[i]}": float(values[i]) for i in rows})
    log_scalars(trainer, scalars, env_steps)


def log_scalars(trainer: Trainer, scalars: dict[str, float], env_steps: int) -> None:
    """Log scalars of the whole run at a number of environment steps."""
    for logger in trainer.loggers:
        logger.log_metrics(scalars, step=env_steps)
