"""What TensorBoard alone shows beside scalars: a layout, the run's settings, reward histograms."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.tensorboard.summary import hparams

from furl_lightning.data.datamodule import FuRLDataModule
from furl_lightning.runs.tensorboard import TensorBoard
from furl_lightning.training.evaluation import just_evaluated
from furl_lightning.training.module import FuRLModule

SAMPLES = 1_000
"""Frames of each ring of the success memory that a histogram is made of, at most."""

LAYOUT: dict[str, dict[str, list[Any]]] = {
    "success": {
        "evaluation, mean over agents": ["Multiline", ["^eval/success$", "^eval/success_any$"]],
        "evaluation, each task": ["Multiline", ["^eval/success/[^/]+$"]],
        "training episodes, mean over agents": ["Multiline", ["^train/success$", "^train/success_any$"]],
    },
    "VLM reward": {
        "replay batch: mean, least, greatest": ["Multiline", ["^reward/vlm$", "^reward/vlm_min$", "^reward/vlm_max$"]],
        "aligned cosine: positives, lags, negatives": ["Multiline", ["^alignment/cos_[a-z]+$"]],
        "ranking loss": ["Multiline", ["^alignment/loss$", "^alignment/loss_[a-z]+$"]],
        "goal phase: share of pairs in an order": ["Multiline", ["^alignment/ordered$"]],
        "frames in the success memory": ["Multiline", ["^memory/positives$", "^memory/negatives$"]],
        "share of agents in the relay": ["Multiline", ["^relay/active$"]],
    },
    "SAC": {
        "Q": ["Multiline", ["^sac/q/[a-z_]+agent$"]],
        "temperature": ["Multiline", ["^sac/alpha/[a-z_]+agent$"]],
        "critic loss": ["Multiline", ["^sac/critic_loss/[a-z_]+agent$"]],
        "log-probability": ["Multiline", ["^sac/log_prob/[a-z_]+agent$"]],
    },
    "speed": {
        "environment steps per second": ["Multiline", ["^perf/env_steps_per_s$"]],
        "milliseconds per environment step": ["Multiline", ["^perf/[a-z]+_ms$"]],
    },
}
"""Charts of the Custom Scalars page by category; the first is open when the page is."""


class TensorBoardPages(Callback):
    """Writes the layout and the settings at the start, histograms at each evaluation; draws no random numbers."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what does not change."""
        assert isinstance(pl_module, FuRLModule)
        settings = _flat(pl_module.settings or {})
        for logger in _loggers(trainer):
            with logger.losing():
                logger.experiment.add_custom_scalars(LAYOUT)
                # Without the values: they are scalars already, and this would write a first one.
                for summary in hparams(settings, {"eval/success": 0.0, "eval/success_any": 0.0}):
                    logger.experiment._get_file_writer().add_summary(summary)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Where there has just been an evaluation: show what rewards are like."""
        assert isinstance(pl_module, FuRLModule)
        loggers = _loggers(trainer)
        if loggers and pl_module.built.heads is not None and just_evaluated(trainer):
            self._histograms(loggers, pl_module, pl_module.data)

    def _histograms(self, loggers: list[TensorBoard], module: FuRLModule, data: FuRLDataModule) -> None:
        """The VLM reward of the success memory's frames, the agents of a task together."""
        memory = data.experience.memory
        for name, ring, held in (
            ("positives", memory.positive, memory.positives),
            ("negatives", memory.negative, memory.negatives),
        ):
            rewards: dict[str, list[np.ndarray]] = {}
            for row, agent in enumerate(data.agents):
                count = int(held[row])
                if count:
                    places = torch.linspace(0, count - 1, min(count, SAMPLES)).round().long()
                    reward = module.built.score(row, ring[row][places.to(ring.device)].float())
                    rewards.setdefault(agent.task, []).append(reward.numpy())
            for task, values in rewards.items():
                for logger in loggers:
                    with logger.losing():
                        tag = f"reward_of_{name}/{task}"
                        logger.experiment.add_histogram(tag, np.concatenate(values), data.env_steps)


def _loggers(trainer: Trainer) -> list[TensorBoard]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoard)]


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings as TensorBoard takes them: ``data.env.goal`` and the like, numbers, booleans and text."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
