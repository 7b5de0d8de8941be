"""The progress bar: environment steps, agents in relay, success, speed, time left."""

from __future__ import annotations

import sys
from time import monotonic
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from furl_lightning.data.datamodule import FuRLDataModule, Iteration
from furl_lightning.training.module import FuRLModule


class TimeLeft:
    """How long a run still takes at the mean speed since it began to learn, evaluations and all.

    Steps of random actions, without updates, are several times quicker and say nothing of those to come.
    """

    def __init__(self) -> None:
        self._begun: tuple[int, float] | None = None
        self._made: tuple[int, float] = (0, 0.0)
        self._learns = False

    def update(self, env_steps: int, seconds: float, learns: bool) -> None:
        """Take in how many steps have been made at a time, and whether updates were made for the last of them."""
        self._learns |= learns
        if self._begun is None or not self._learns:
            self._begun = (env_steps, seconds)
        self._made = (env_steps, seconds)

    def seconds(self, total: int) -> float | None:
        """Seconds until ``total`` steps are made; None before it has begun to learn."""
        if self._begun is None or self._made[0] == self._begun[0]:
            return None
        steps, seconds = (made - begun for made, begun in zip(self._made, self._begun, strict=True))
        return (total - self._made[0]) * seconds / steps


class _Bar(tqdm):  # type: ignore[type-arg]
    left = "?"

    @property
    def format_dict(self) -> dict[str, Any]:
        return {**super().format_dict, "left": self.left}


class StepsBar(ProgressBar):
    """One bar over the environment steps per agent; the success shown is of the last training episodes."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
        self._time_left = TimeLeft()
        self._enabled = True
        self._success = "-"
        self._size_shown = False

    def disable(self) -> None:
        """Draw nothing."""
        self._enabled = False

    def enable(self) -> None:
        """Draw again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw an empty bar, or one as full as the run that is resumed."""
        data: FuRLDataModule = trainer.datamodule  # type: ignore[attr-defined]
        self._time_left = TimeLeft()
        self._time_left.update(data.env_steps, monotonic(), learns=False)
        self._bar = _Bar(
            total=data.env_steps_total,
            initial=data.env_steps,
            unit="step",
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 30.0,
            disable=not self._enabled,
            bar_format="{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} steps {rate_fmt} left {left}{postfix}",
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on by an iteration."""
        assert isinstance(pl_module, FuRLModule) and isinstance(batch, Iteration)
        data: FuRLDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if batch.episode is not None:
            self._success = f"{float(batch.episode.success.float().mean()):.2f}"
        if not self._size_shown:
            self._size_shown = True
            replay, num = data.experience.replay, len(data.agents)
            size = replay.bytes_per_transition
            total = size * num * replay.capacity / 1e9
            self._bar.write(
                f"replay buffer: {size:,} bytes a transition, {total:.2f} GB when full with {num} agents' "
                f"{replay.capacity:,} transitions each",
                file=sys.stderr,
            )
        if data.env_steps % data.episode_steps < data.steps_per_iteration:
            shown = f"success {self._success}"
            relay = pl_module.built.relay
            if relay is not None:
                shown = f"relay {int(relay.active.sum())}/{len(data.agents)}, {shown}"
            self._bar.set_postfix_str(shown, refresh=False)
        self._time_left.update(data.env_steps, monotonic(), batch.actions_to_learn > 0)
        seconds = self._time_left.seconds(data.env_steps_total)
        self._bar.left = "?" if seconds is None else tqdm.format_interval(seconds)
        self._bar.update(data.env_steps - self._bar.n)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the bar as it stands."""
        self.on_train_end(trainer, pl_module)
